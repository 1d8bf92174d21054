"""Words, their times and confidences: from the best path, from an alignment, from a stream in pieces."""

import math
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.audio.load import load_audio
from ds2_deploy.decoding.alignment import aligned
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.protocol import TimedWord, Word
from ds2_deploy.decoding.words import Letter, words_of
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.text.alphabet import ENGLISH, Alphabet
from tests.conftest import SAMPLES, said_in_samples

PHONEMES = Alphabet.of(["HH", "AH", "SIL"])
CHARACTERS = Alphabet.of("你好")


def emissions(path: str, certainty: float = 0.9) -> npt.NDArray[np.float32]:
    """(T, V) of English in which `path` is the best, a frame a character, `_` being the blank."""
    labels = [ENGLISH.blank if c == "_" else ENGLISH.labels.index(c) for c in path]
    probabilities = np.full((len(path), len(ENGLISH)), (1 - certainty) / (len(ENGLISH) - 1))
    probabilities[np.arange(len(path)), labels] = certainty
    return np.log(probabilities).astype(np.float32)


@pytest.mark.parametrize(
    ("path", "spans"),
    [
        ("__aa_b_  _cc__", [("ab", 2, 6), ("c", 10, 12)]),
        ("a", [("a", 0, 1)]),
        ("  a  ", [("a", 2, 3)]),
        ("a_a a", [("aa", 0, 3), ("a", 4, 5)]),
        ("____", []),
        ("", []),
    ],
)
def test_a_word_reaches_from_its_first_letter_to_its_last(path: str, spans: list[tuple[str, int, int]]) -> None:
    words = GreedyDecoder(ENGLISH).decode(emissions(path)).words
    assert [word[:3] for word in words] == spans
    assert all(word.confidence == pytest.approx(0.9, rel=1e-5) for word in words)


def test_a_word_is_as_sure_as_its_least_sure_letter_where_it_is_surest() -> None:
    frames = np.concatenate([emissions("a", 0.5), emissions("a", 0.8), emissions("b", 0.6), emissions("_c", 0.99)])
    [word] = GreedyDecoder(ENGLISH).decode(frames).words
    assert word.text == "abc"
    assert word.confidence == pytest.approx(0.6, rel=1e-5)


@pytest.mark.parametrize("alphabet", [Alphabet.of("ab "), PHONEMES], ids=["letters", "phonemes"])
@pytest.mark.parametrize("seed", range(20))
def test_the_alignment_of_the_best_path_is_the_best_path(seed: int, alphabet: Alphabet) -> None:
    """On random emissions, whose paths begin and end with boundaries and have several in a row."""
    logits = 3 * np.random.default_rng(seed).normal(size=(40, 4))
    frames = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    best = frames.argmax(-1)
    runs = [(int(label), len(list(run))) for label, run in groupby(best)]
    ends = np.cumsum([length for _, length in runs])
    expected = [
        (label, end - n, end)
        for (label, n), end in zip(runs, ends, strict=True)
        if label not in (alphabet.blank, alphabet.boundary)
    ]
    heard = GreedyDecoder(alphabet).decode(frames)
    letters = aligned(frames, heard.text, alphabet)
    assert [letter[:3] for letter in letters if letter.label != alphabet.boundary] == expected
    assert words_of(letters, alphabet) == heard.words


@pytest.mark.parametrize("path", [" a", "a ", "a _ b", " _ a  _ _ b_ "])
def test_a_text_is_found_on_a_path_of_certainties(path: str) -> None:
    frames = np.full((len(path), len(ENGLISH)), -np.inf, np.float32)
    frames[np.arange(len(path)), emissions(path).argmax(-1)] = 0.0
    heard = GreedyDecoder(ENGLISH).decode(frames)
    assert words_of(aligned(frames, heard.text, ENGLISH), ENGLISH) == heard.words


def test_phonemes_and_characters_are_parted_by_their_own_rules() -> None:
    spoken = [Letter(label, 2 * i, 2 * i + 1, -0.1) for i, label in enumerate([1, 2, 3, 2])]
    sure = pytest.approx(math.exp(-0.1))
    assert words_of(spoken, PHONEMES) == (Word("HH AH", 0, 3, sure), Word("AH", 6, 7, sure))
    assert [word.text for word in words_of(spoken[:2], CHARACTERS)] == ["你", "好"]


def test_seconds_count_from_the_recordings_begin_and_end_with_it() -> None:
    assert Word("a", 10, 20, 0.5).timed(0.02) == TimedWord("a", pytest.approx(0.2), pytest.approx(0.4), 0.5)
    assert Word("a", 10, 20, 0.5).timed(0.02, 60.0, 60.3) == TimedWord("a", pytest.approx(60.2), 60.3, 0.5)


def test_the_words_of_a_long_recording_lie_where_its_parts_lie() -> None:
    """Eight recordings with silences between them, heard at once and cut into segments, and as a stream."""
    pytest.importorskip("onnxruntime")
    silence = np.zeros(24_000, np.float32)
    paths = sorted(SAMPLES.glob("*.flac"))
    parts = [load_audio(path, 16_000) for path in paths]
    begins = np.cumsum([0, *(len(part) + len(silence) for part in parts)]) / 16_000
    joined = np.concatenate([piece for part in parts for piece in (part, silence)])
    recognizer = Recognizer.open("default", max_segment_s=6.0, threads=1)
    [result] = recognizer.transcribe([joined])
    assert len(result.passages) >= 4
    assert result.hypothesis is not None
    assert " ".join(word.word for word in result.words) == result.hypothesis.text
    stream = Recognizer.open("streaming", threads=1).create_stream()
    stream.accept_waveform(joined, 16_000)
    stream.input_finished()
    for words in (result.words, stream.result.words):
        times = [time for word in words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        heard_within = [sum(begin <= word.start_s < end for word in words) for begin, end in pairwise(begins)]
        assert min(heard_within) >= 1
        for begin, part in zip(begins, parts, strict=False):  # nothing is heard in the silences
            end = begin + len(part) / 16_000
            assert not [w for w in words if end + 0.2 < w.start_s < end + 1.4]
    together = [[word.word for word in result.words if begin <= word.start_s < end] for begin, end in pairwise(begins)]
    wanted = [said_in_samples()[path.name].split() for path in paths]
    assert sum(a == b for a, b in zip(wanted, together, strict=True)) >= len(parts) - 2


def test_what_is_said_in_a_tail_is_said_at_the_end() -> None:
    """A recording cut within its words: the last letter may come in the zeros that are heard after it."""
    pytest.importorskip("onnxruntime")
    recognizer = Recognizer.open("streaming", threads=1)
    assert recognizer.metadata.feature.tail_ms > 0
    whole, in_the_tail = load_audio(SAMPLES / "spell-rms.flac", 16_000), 0
    cuts = [whole[:samples] for samples in range(12_000, len(whole), 1600)]
    for cut, offline in zip(cuts, recognizer.transcribe(cuts), strict=True):
        stream, duration_s = recognizer.create_stream(), len(cut) / 16_000
        stream.accept_waveform(cut, 16_000)
        stream.input_finished()
        times = [time for word in stream.result.words for time in (word.start_s, word.end_s)]
        assert times == pytest.approx([time for word in offline.words for time in (word.start_s, word.end_s)])
        assert max(times, default=0.0) <= duration_s
        in_the_tail += bool(times) and times[-1] == duration_s
    assert in_the_tail > 0
