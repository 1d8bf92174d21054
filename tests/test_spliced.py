"""Recordings cut into words and put together anew: the alignment against every path, the cuts against known sounds."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ds2_deploy.decoding.alignment import best_path
from ds2_deploy.errors import AlignmentError
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model.checkpoint import Checkpoint
from ds2_deploy.text.alphabet import ENGLISH
from tests.tiny import MODELS, tiny_metadata, tiny_model
from training.synthetic.spliced import FADE_S, Words, cuts, joined, recombined, write_spliced

RATE = 16_000


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label]


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 1, 2], [2, 2, 1]])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_path_is_the_best_of_all_paths(labels: list[int], seed: int) -> None:
    frames, classes = 6, 3
    scores = np.random.default_rng(seed).standard_normal((frames, classes)).astype(np.float32)
    paths = [p for p in itertools.product(range(classes), repeat=frames) if collapsed(p) == labels]
    best = max(paths, key=lambda path: sum(scores[t, label] for t, label in enumerate(path)))
    runs = [(label, [t for t, _ in run]) for label, run in itertools.groupby(enumerate(best), key=lambda x: x[1])]
    assert best_path(scores, labels) == [(times[0], times[-1]) for label, times in runs if label]


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(AlignmentError, match="too few for the labels of the text, 3 for 3"):
        best_path(np.zeros((3, 3), np.float32), [1, 1, 2])  # the two alike need a blank between them


def sounds(*seconds: float) -> npt.NDArray[np.float32]:
    """Noise and silence in turn, beginning with silence."""
    rng = np.random.default_rng(0)
    parts = [
        rng.standard_normal(int(length * RATE)) * (0.1 if number % 2 else 1e-4) for number, length in enumerate(seconds)
    ]
    return np.concatenate(parts).astype(np.float32)


def test_recordings_are_cut_in_the_silence_between_words() -> None:
    audio = sounds(0.5, 0.3, 0.1, 0.4, 0.06, 0.3, 0.5)
    first, one, two, last = (place / RATE for place in cuts(audio, RATE, [(0.6, 0.7), (1.0, 1.1), (1.5, 1.6)]))
    assert 0.8 < one < 0.9
    assert 1.3 < two < 1.36
    assert (first, last) == pytest.approx((0.35, 1.85), abs=0.001)  # a quarter of a second around what was found


def test_the_silence_inside_a_plosive_is_no_cut() -> None:
    audio = sounds(0.3, 0.02, 0.04, 0.3, 0.1, 0.3, 0.3)  # a burst, its closure, the vowel; a pause, another word
    _, between, _ = (place / RATE for place in cuts(audio, RATE, [(0.3, 0.32), (0.9, 1.0)]))
    assert 0.66 < between < 0.76


@pytest.mark.parametrize("spans", [[(0.5, 0.7), (0.6, 0.8)], [(0.0, 0.98), (0.98, 1.0)], [(0.2, 0.2), (0.2, 0.2)]])
def test_cuts_stay_in_order_and_inside(spans: list[tuple[float, float]]) -> None:
    audio = sounds(0.2, 0.8)
    places = cuts(audio, RATE, spans)
    assert places == sorted(places)
    assert (places[0] >= 0, places[-1] <= len(audio)) == (True, True)


def test_pieces_fade_into_each_other() -> None:
    fade = int(FADE_S * RATE)
    result = joined([np.ones(400, np.float32), np.full(400, 3, np.float32), np.ones(2, np.float32)], RATE)
    assert len(result) == 800 - fade + 2
    assert np.all(np.diff(result[:700]) >= 0)
    assert (result[0], result[400], result[-1]) == (1, 3, 1)


def test_a_recombined_utterance_is_what_its_text_says() -> None:
    speech = [
        Words(["a", "b", "c"], [np.full(800, value, np.float32) for value in (1, 2, 3)]),
        Words(["d"], [np.full(800, 4, np.float32)]),
    ]
    values = dict(zip("abcd", (1, 2, 3, 4), strict=True))
    texts = set()
    for seed in range(50):
        text, audio = recombined(speech, random.Random(seed), RATE)
        texts.add(text)
        words = text.split()
        assert len(audio) == 800 * len(words) - int(FADE_S * RATE) * (len(words) - 1)
        middles = [audio[400 + number * (800 - int(FADE_S * RATE))] for number in range(len(words))]
        assert middles == [values[word] for word in words]
    assert len(texts) > 30


VOICES_HZ = {"low": 400.0, "high": 2700.0}
SAID = {"low": ["ab ba", "a", "bb ab a"], "high": ["cd dc", "d cc", "ddc"]}


@pytest.fixture
def two_speakers(tmp_path: Path) -> Path:
    """The manifest of recordings in turn by two, each of whom has one tone and words of their own."""
    lines = []
    for number, (speaker, text) in enumerate((who, SAID[who][i]) for i in range(3) for who in SAID):
        samples = 0.3 * np.sin(2 * np.pi * VOICES_HZ[speaker] * np.arange(0.7 * RATE) / RATE)
        soundfile.write(tmp_path / f"{number}.wav", samples, RATE)
        line = {"audio_filepath": f"{number}.wav", "duration": 0.7, "text": text, "speaker": speaker}
        lines.append(json.dumps(line))
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    return tmp_path / "m.jsonl"


def test_a_corpus_is_respoken_by_its_own_speakers(tmp_path: Path, two_speakers: Path) -> None:
    model = tiny_model(tiny_metadata(MODELS["gru, two directions, 2d"]))
    assert model.metadata.alphabet == ENGLISH
    Checkpoint(metadata=model.metadata, weights=model.state_dict()).save(tmp_path / "aligner.pt")
    write_spliced(tmp_path / "spliced", [two_speakers], tmp_path / "aligner.pt", 2, 1)
    made = read_manifest(tmp_path / "spliced/manifest.jsonl")
    assert [utterance.speaker for utterance in made] == ["high"] * 6 + ["low"] * 6
    for utterance in made:
        samples, _ = soundfile.read(utterance.path)
        assert len(samples) / RATE == pytest.approx(utterance.duration_s, abs=0.001)
        assert set(utterance.text.split()) <= set(" ".join(SAID[utterance.speaker]).split())
        power = np.abs(np.fft.rfft(samples)) ** 2
        near = np.abs(np.fft.rfftfreq(len(samples), 1 / RATE) - VOICES_HZ[utterance.speaker]) < 300
        assert power[near].sum() > 0.95 * power.sum()
