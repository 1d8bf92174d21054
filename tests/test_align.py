"""A long recording and its text: the path within a window against the whole, and recordings whose places are known."""

import json
import re
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ds2_deploy.audio.load import load_audio
from ds2_deploy.decoding.alignment import best_path
from ds2_deploy.errors import AlignmentError, OutputError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.metrics import Errors
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.runtime.protocol import Emissions
from ds2_deploy.text.alphabet import ENGLISH, Alphabet
from ds2_deploy.text.phonemes import LABELS
from ds2_deploy.text.punctuation import sentences
from tests.conftest import SAMPLES, Ds2, read_only, said_in_samples
from training.align import STATES, Sound, align, hear
from training.sentences import Unspelled, spelled


def said(labels: list[int], seed: int) -> npt.NDArray[np.float32]:
    """(T, 5) log-probabilities of labels, each one to three frames long with blanks between."""
    rng = np.random.default_rng(seed)
    path = [frame for label in labels for frame in [label] * rng.integers(1, 4) + [0] * rng.integers(1, 4)]
    logits = rng.normal(size=(len(path), 5))
    logits[np.arange(len(path)), path] += 4
    log_probs: npt.NDArray[np.float32] = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    return log_probs


@pytest.mark.parametrize("seed", range(5))
def test_a_window_finds_the_path_of_the_whole(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(1, 5, 300).tolist()
    log_probs = said(labels, seed)
    whole = best_path(log_probs, labels)
    assert best_path(log_probs, labels, window=40) == whole
    assert best_path(log_probs, labels, window=10**6) == whole


def test_what_comes_before_and_after_the_text_may_be_anything() -> None:
    before, text, after = [1, 2, 3, 4, 1, 3], [4, 3, 2, 1, 4, 4, 2], [2, 2, 1, 3]
    pieces = [said(labels, i) for i, labels in enumerate((before, text, after))]
    found = best_path(np.concatenate(pieces), text, free_ends=True)
    begin, end = len(pieces[0]), len(pieces[0]) + len(pieces[1])
    expected = best_path(pieces[1], text)
    assert [(first - begin, last - begin) for first, last in found[:-1]] == expected[:-1]
    assert found[-1][1] < end


@pytest.mark.parametrize("window", [200, 400])
@pytest.mark.parametrize("seed", range(5))
def test_a_window_finds_the_path_of_the_whole_in_a_recording_that_says_more(seed: int, window: int) -> None:
    """With speech before and after the text, and in its midst a passage that was said otherwise."""
    rng = np.random.default_rng(seed)
    before, labels, other, after = (rng.integers(1, 5, count).tolist() for count in (60, 600, 40, 60))
    pieces = [said(piece, seed) for piece in (before, labels[:200], other, labels[230:], after)]
    log_probs = np.concatenate(pieces)
    found = best_path(log_probs, labels, window=window, free_ends=True)
    assert found == best_path(log_probs, labels, free_ends=True)
    assert abs(found[0][0] - len(pieces[0])) <= 3
    assert abs(found[-1][1] - sum(map(len, pieces[:4]))) <= 5


def test_a_text_that_is_lost_says_where() -> None:
    """A third of it was said, and then nothing."""
    labels = np.random.default_rng(0).integers(1, 5, 300).tolist()
    silence = np.tile(np.log(np.array([0.96, 0.01, 0.01, 0.01, 0.01], np.float32)), (900, 1))
    heard = np.concatenate([said([2, 3, 1], 1), said(labels[:100], 2), silence])
    with pytest.raises(AlignmentError, match="lost after 100 of its 300 labels"):
        best_path(heard, labels, window=40, free_ends=True)


@pytest.mark.parametrize("window", [None, 4])
def test_a_text_that_does_not_fit_is_refused(window: int | None) -> None:
    with pytest.raises(AlignmentError, match="too few for the labels of the text, 3 for 4"):
        best_path(said([1, 2], 0)[:3], [1, 2, 1, 2], window=window)


@pytest.mark.parametrize(("bad", "worst"), [(30, -1.6), (60, -1.6), (15, -0.85), (3, -0.25)])
def test_a_passage_is_as_good_as_its_worst_half_second(bad: int, worst: float) -> None:
    """Of some 300 frames a few say nothing, which would hardly show in the mean of all."""
    alphabet, texts = Alphabet.of("abcd"), ["abcd" * 38, "dcba" * 38]
    path = [alphabet.blank, *(label for text in texts for one in alphabet.encode(text) for label in (one, 0))]
    probabilities = np.full((len(path), 5), (1 - np.exp(-0.1)) / 4)
    probabilities[np.arange(len(path)), path] = np.exp(-0.1)
    log_probs = np.log(probabilities).astype(np.float32)
    log_probs[101 : 101 + bad] = -1.6  # whatever is said there
    sound = Sound(log_probs, np.arange(len(path)) * 0.0166, len(path) * 0.0166)
    found = align(sound, texts, alphabet)
    assert [passage.text for passage in found] == texts
    assert [passage.score for passage in found] == pytest.approx([worst, -0.1], abs=1e-5)
    assert found[0].start_s < 0.1 < 4.9 < found[0].end_s < found[1].end_s


def test_boundaries_may_come_several_times_in_a_row() -> None:
    """And around a passage: a network that is sure of silence says SIL, blank, SIL."""
    alphabet = Alphabet.of(LABELS)
    path = "SIL _ HH _ AH _ SIL SIL _ _ SIL _ SIL _ B _ IY _ SIL".split()
    probabilities = np.full((len(path), len(alphabet)), 1e-5)
    labels = [alphabet.blank if one == "_" else alphabet.labels.index(one) for one in path]
    probabilities[np.arange(len(path)), labels] = 1.0 - 1e-5 * (len(alphabet) - 1)
    sound = Sound(np.log(probabilities).astype(np.float32), 0.02 * np.arange(len(path)), 0.02 * len(path))
    (found,) = align(sound, ["HH AH SIL B IY"], alphabet)
    assert found.score > -0.01


def passages_of(text: str, language: str, alphabet: Alphabet) -> tuple[list[str], list[Unspelled]]:
    return spelled(sentences(text), language, alphabet)


def test_passages_are_sentences_in_the_models_spelling() -> None:
    text = 'He said: "Enter four." Then -- it\'s done!\n\nNaïve\nTWO (three), five'
    good, strange = passages_of(text, "en", ENGLISH)
    assert good == ["he said", "enter four", "then it's done", "two three five"]
    assert strange == [("Naïve", ["ï"])]
    phonemes = Alphabet.of(LABELS)
    assert passages_of("The qzx and 3", "en-phonemes", phonemes) == ([], [("The qzx and 3", ["qzx", "3"])])


PAUSES = [("abcd", 5), ("dcba", 9), ("abdc", 3), ("bcda", 30), ("dd", 0)]
"""Words, and frames of 0.1 s behind each: they begin at 0, 1.3, 3.0, 4.1 and 7.9 s, and a letter takes 0.2."""


@pytest.mark.parametrize("letters", ["abcd ", "abcd"])
@pytest.mark.parametrize(
    ("max_seconds", "expected"),
    [
        (60.0, ["abcd dcba abdc bcda dd"]),
        (8.0, ["abcd dcba", "abdc bcda dd"]),  # at 3.2 s the last gap is wider, and would leave a word alone
        (5.0, ["abcd dcba", "abdc bcda", "dd"]),
        (2.0, ["abcd", "dcba", "abdc", "bcda", "dd"]),
    ],
)
def test_long_passages_are_cut_at_their_widest_gaps(letters: str, max_seconds: float, expected: list[str]) -> None:
    """Between words, or, where nothing parts these, between letters."""
    alphabet = Alphabet.of(letters)
    path: list[int] = []
    for word, pause in PAUSES:
        path += [one for label in alphabet.encode(word) for one in (label, alphabet.blank)]
        path += [alphabet.boundary or alphabet.blank, *[alphabet.blank] * (pause - 1)] if pause else []
    log_probs = np.full((len(path), len(alphabet)), np.log(1e-5), np.float32)
    log_probs[np.arange(len(path)), path] = 0.0
    sound = Sound(log_probs, 0.1 * np.arange(len(path)), 0.1 * len(path))
    joint = " " if " " in letters else ""
    found = align(sound, [joint.join(word for word, _ in PAUSES)], alphabet, max_seconds)
    assert [p.text for p in found] == [one.replace(" ", joint) for one in expected]
    assert all(p.end_s - p.start_s <= max_seconds and p.score == pytest.approx(0.0) for p in found)


def test_a_long_word_is_not_cut() -> None:
    alphabet = Alphabet.of("ab ")
    log_probs = np.full((100, 4), np.log(1e-5), np.float32)
    log_probs[:, alphabet.blank] = 0.0
    for frame, label in ((0, "a"), (90, "b"), (92, " "), (94, "b")):
        log_probs[frame] = np.log(1e-5)
        log_probs[frame, alphabet.encode(label)] = 0.0
    found = align(Sound(log_probs, 0.1 * np.arange(100), 10.0), ["ab b"], alphabet, 2.0)
    assert [p.text for p in found] == ["ab", "b"]


def test_pieces_fit_the_longest_that_an_engine_takes() -> None:
    heard = []

    class Engine:
        name, device, max_samples = "engine", "cpu", 80_000

        def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
            heard.extend(lengths.tolist())
            return Emissions(np.zeros((1, 1, len(ENGLISH)), np.float32), np.ones(1, np.int64))

    speech = np.concatenate([load_audio(path, 16_000) for path in sorted(SAMPLES.glob("*.flac"))])
    hear(Engine(), ModelMetadata(), [speech])
    assert sum(heard) > 80_000
    assert max(heard) <= 80_000


@pytest.fixture
def book(tmp_path: Path) -> tuple[Path, Path, list[tuple[str, float, float]]]:
    """A recording of all samples, its text, and where each part lies, in seconds."""
    pytest.importorskip("onnxruntime")
    rate = 16_000
    paths = sorted(SAMPLES.glob("*.flac"))
    texts = [said_in_samples()[path.name] for path in paths]
    pieces, places, now = [], [], 0.0
    for path, text in zip(paths, texts, strict=True):
        audio = load_audio(path, rate)
        pieces += [audio, np.zeros(rate, np.float32)]
        places.append((text, now, now + len(audio) / rate))
        now += len(audio) / rate + 1
    soundfile.write(tmp_path / "book.flac", np.concatenate(pieces), rate)
    (tmp_path / "book.txt").write_text("".join(f"{text.title()}.\n" for text in texts))
    return tmp_path / "book.flac", tmp_path / "book.txt", places


@pytest.mark.parametrize("states", [200, STATES])
def test_a_book_becomes_a_manifest(
    ds2: Ds2,
    tmp_path: Path,
    book: tuple[Path, Path, list[tuple[str, float, float]]],
    monkeypatch: pytest.MonkeyPatch,
    states: int,
) -> None:
    """One recording has another text than its own: here beside which all others are found in place; the next test, and
    benchmarks/align.py, say how often that is so. With 200 states the text is longer than what is looked at at once."""
    monkeypatch.setattr("training.align.STATES", states)
    audio, text, places = book
    lines = text.read_text().splitlines()
    lines[1] = "Zebra quilts jump over lazy dogs"
    del places[1]
    text.write_text("\n".join([*lines, "größe"]))
    code, out, err = ds2("align", audio, text, "--out", tmp_path / "cut.jsonl")
    assert (code, out) == (0, "")
    assert re.search(r"dropped, .*score -\d.*: zebra quilts jump over lazy dogs", err)
    assert "left out, for the model cannot spell 'ß', 'ö': 'größe'" in err
    found = [json.loads(line) for line in (tmp_path / "cut.jsonl").read_text().splitlines()]
    assert [line["text"] for line in found] == [place[0] for place in places]
    rate = 16_000
    whole = load_audio(audio, rate)
    for line, (_, begin_s, end_s) in zip(found, places, strict=True):
        cut = load_audio(tmp_path / line["audio_filepath"], rate)
        assert line["duration"] == pytest.approx(len(cut) / rate, abs=1e-3)
        starts = [s for s in range(int(max(begin_s - 1, 0) * rate), int(end_s * rate), 1) if whole[s] == cut[0]]
        start = next(s for s in starts if np.array_equal(whole[s : s + len(cut)], cut))
        assert begin_s - 1 <= start / rate
        assert (start + len(cut)) / rate <= end_s + 1
        assert line["score"] > -1.5
        assert line["recording"] == audio.name
    cuts = [load_audio(tmp_path / line["audio_filepath"], rate) for line in found]
    again = Recognizer.open(threads=1).recognize(cuts)
    errors = Errors.total(Errors.between(line["text"], heard.text) for line, heard in zip(found, again, strict=True))
    assert errors.cer < 0.05  # cut closer, and so normalised otherwise
    code, _, err = ds2("align", audio, text, "--out", tmp_path / "cut.jsonl")
    assert code == 1
    assert "--overwrite" in err


def test_what_was_not_said_spoils_at_most_a_neighbour(
    ds2: Ds2, tmp_path: Path, book: tuple[Path, Path, list[tuple[str, float, float]]]
) -> None:
    """A passage more than there are recordings is laid over some of its neighbours."""
    audio, text, places = book
    lines = text.read_text().splitlines()
    text.write_text("\n".join([*lines[:4], "Zebra quilts jump over lazy dogs", *lines[4:]]))
    code, _, err = ds2("align", audio, text, "--out", tmp_path / "cut.jsonl")
    assert code == 0
    assert re.search(r"dropped, .*score -\d.*: zebra quilts jump over lazy dogs", err)
    found = [json.loads(line)["text"] for line in (tmp_path / "cut.jsonl").read_text().splitlines()]
    said = [place[0] for place in places]
    assert found in (said, said[:3] + said[4:], said[:4] + said[5:])


def test_a_text_without_punctuation_is_cut_between_words(
    ds2: Ds2, tmp_path: Path, book: tuple[Path, Path, list[tuple[str, float, float]]]
) -> None:
    """Each piece lies where its first and its last word were said."""
    audio, text, places = book
    said = [(word, begin_s, end_s) for line, begin_s, end_s in places for word in line.split()]
    text.write_text(" ".join(word for word, *_ in said))
    code, _, err = ds2("align", audio, text, "--out", tmp_path / "cut.jsonl", "--max-seconds", "6")
    assert (code, "dropped" in err) == (0, False)
    found = [json.loads(line) for line in (tmp_path / "cut.jsonl").read_text().splitlines()]
    assert [word for line in found for word in line["text"].split()] == [word for word, *_ in said]
    assert max(line["duration"] for line in found) <= 6
    assert min(line["duration"] for line in found) > 1
    rate = 16_000
    whole = load_audio(audio, rate)
    for line in found:
        words, said = said[: len(line["text"].split())], said[len(line["text"].split()) :]
        cut = load_audio(tmp_path / line["audio_filepath"], rate)
        starts = np.flatnonzero(whole[: len(whole) - len(cut) + 1] == cut[0])
        start = next(s for s in starts if np.array_equal(whole[s : s + len(cut)], cut))
        assert words[0][1] - 1 <= start / rate <= words[0][2]
        assert words[-1][1] <= (start + len(cut)) / rate <= words[-1][2] + 1


def test_a_text_of_something_else_is_refused(ds2: Ds2, tmp_path: Path, book: tuple[Path, Path, object]) -> None:
    audio, text, _ = book
    text.write_text("Quixotic zebras jump.\nMilky vapours swirl up.\n")
    code, out, err = ds2("align", audio, text, "--out", tmp_path / "cut.jsonl")
    assert (code, out) == (1, "")
    assert "No passage of" in err
    text.write_text("a long story " * 2000)
    code, _, err = ds2("align", audio, text, "--out", tmp_path / "cut.jsonl")
    assert code == 1
    assert re.search(
        rf"^ds2: {audio} cannot be aligned with {text}: its frames are too few for .*, \d+ for \d+\.$", err
    )
    assert not (tmp_path / "cut.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "words"), [(None, "no text at"), (b"\xff\xff", "not text in UTF-8"), (b"...\n", "holds no words")]
)
def test_texts_that_are_none(ds2: Ds2, tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    code, out, err = ds2("align", SAMPLES / "code-rms.flac", tmp_path / "t.txt", "--out", tmp_path / "m.jsonl")
    assert (code, out) == (1, "")
    assert words in err


def test_a_manifest_is_named_like_one(ds2: Ds2, tmp_path: Path) -> None:
    outcome = ds2("align", tmp_path / "a.wav", tmp_path / "a.txt", "--out", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert ".jsonl" in outcome.err


def test_apostrophes_within_words_stay_and_quotation_marks_go() -> None:
    text = "‘I don’t know,’ he said.\nIt’s the dogs’ o'clock 'now'"
    assert passages_of(text, "en", ENGLISH) == (["i don't know he said", "it's the dogs o'clock now"], [])
    assert passages_of("don’t", "en", Alphabet.of("dnot ")) == (["don t"], [])  # as it cannot write it otherwise
    assert passages_of("the cafe\u0301’s door", "en", Alphabet.of(" 'acdefhorsté")) == (["the café's door"], [])
    assert passages_of("co\u00adope\u00adrate", "en", ENGLISH) == (["cooperate"], [])
    phonemes = Alphabet.of(LABELS)
    assert passages_of("I don’t know", "en-phonemes", phonemes)[0] == ["AY SIL D OW N T SIL N OW"]


def test_the_blanks_own_sign_is_punctuation() -> None:
    alphabet = Alphabet(labels=("_", *"word "), blank=0)
    assert passages_of("_word_", "en", alphabet) == (["word"], [])


def test_chinese_sentences_end_without_a_space() -> None:
    text = "这是。“那是！”你好；好吗？\n好"
    assert passages_of(text, "zh", Alphabet.of("这那是你好吗")) == (["这是", "那是", "你好", "好吗", "好"], [])


def test_a_folder_is_no_manifest(ds2: Ds2, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").mkdir()
    code, _, err = ds2("align", "a.wav", "a.txt", "--out", tmp_path / "out.jsonl", "--overwrite")
    assert (code, "out.jsonl: it is a folder" in err) == (1, True)


def test_what_cannot_be_written_is_told_before_anything_is_heard(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cuts").write_text("")
    code, _, err = ds2("align", "a.wav", "a.txt", "--out", tmp_path / "cuts.jsonl")
    assert (code, err) == (1, f"ds2: Cannot write into {tmp_path / 'cuts'}: it is not a folder.\n")
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    code, _, err = ds2("align", "a.wav", "a.txt", "--out", tmp_path / "out.jsonl")
    assert (code, err) == (1, f"ds2: Cannot write into {tmp_path}: Read-only file system.\n")


def test_other_recordings_are_not_written_over(ds2: Ds2, tmp_path: Path) -> None:
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "talk-00001.flac").write_text("somebody's")
    (tmp_path / "t.txt").write_text("one")
    code, _, err = ds2("align", SAMPLES / "code-rms.flac", tmp_path / "t.txt", "--out", tmp_path / "talk.jsonl")
    assert (code, "talk, for the recordings, is not empty" in err) == (1, True)
    assert (tmp_path / "talk" / "talk-00001.flac").read_text() == "somebody's"


def test_what_is_cut_short_leaves_no_manifest_of_other_recordings(
    ds2: Ds2, tmp_path: Path, book: tuple[Path, Path, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, text, _ = book
    (tmp_path / "cut.jsonl").write_text("the manifest before")

    def full(*_: object) -> NoReturn:
        raise OutputError("Cannot write: no space left.")

    monkeypatch.setattr("training.corpora.parts.write_flac", full)
    assert ds2("align", audio, text, "--out", tmp_path / "cut.jsonl", "--overwrite").code == 1
    assert not (tmp_path / "cut.jsonl").exists()
