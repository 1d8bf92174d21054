"""Greedy decoding in pieces against the whole, and against its definition written out."""

from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.decoding import make_decoder
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.errors import InferenceError
from ds2_deploy.text.alphabet import ENGLISH, Alphabet

ALPHABETS = [
    Alphabet.of(" ab"),
    Alphabet(labels=("a", " ", "_", "b"), blank=2),
    Alphabet(labels=("x", "y", "_"), blank=2),  # a language without spaces
]


def emissions(labels: npt.NDArray[np.int64], alphabet: Alphabet) -> npt.NDArray[np.float32]:
    """(T, V) log-probabilities whose best path is `labels`."""
    rng = np.random.default_rng(len(labels))
    logits = rng.normal(size=(len(labels), len(alphabet)))
    logits[np.arange(len(labels)), labels] = logits.max(axis=1, initial=0.0) + rng.uniform(0.1, 2, len(labels))
    log_probs: npt.NDArray[np.float32] = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    return log_probs


def collapsed(labels: npt.NDArray[np.int64], alphabet: Alphabet) -> str:
    """Runs merged, blanks dropped; spaces as they come."""
    return "".join(alphabet.labels[label] for label, _ in groupby(labels) if label != alphabet.blank)


def random_labels(alphabet: Alphabet, seed: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, len(alphabet), rng.integers(0, 60)).repeat(rng.integers(1, 3))


def cut(log_probs: npt.NDArray[np.float32], seed: int) -> list[npt.NDArray[np.float32]]:
    """Into ten pieces, some of them empty."""
    return np.split(log_probs, np.sort(np.random.default_rng(seed).integers(0, len(log_probs) + 1, 9)).tolist())


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("seed", range(30))
def test_pieces_are_the_whole(alphabet: Alphabet, seed: int) -> None:
    labels = random_labels(alphabet, seed)
    log_probs = emissions(labels, alphabet)
    whole = GreedyDecoder(alphabet).decode(log_probs)
    stream = GreedyDecoder(alphabet).start()
    for piece in cut(log_probs, seed):
        stream.accept(piece)
    assert stream.frames == len(labels)
    text, score, words, _ = stream.finish()
    assert stream.hypothesis() == Hypothesis(text, score)
    assert words == whole.words
    assert text == whole.text == " ".join(collapsed(labels, alphabet).split())
    assert score == pytest.approx(whole.score, rel=1e-5)
    assert score == pytest.approx(float(log_probs.astype(np.float64).max(axis=1).sum()), rel=1e-5)


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("seed", range(30))
def test_letters_are_timed(alphabet: Alphabet, seed: int) -> None:
    labels = random_labels(alphabet, seed)
    stream = GreedyDecoder(alphabet).start()
    for piece in cut(emissions(labels, alphabet), seed):
        stream.accept(piece)
    letters = [t for t, label in enumerate(labels) if label != alphabet.blank and alphabet.labels[label] != " "]
    assert stream.spoken == ((letters[0], letters[-1] + 1) if letters else None)


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("seed", range(10))
def test_letters_of_the_utterance_before_are_not_timed_again(decoder: str, alphabet: Alphabet, seed: int) -> None:
    """A letter that an utterance was cut within belongs to it, however long it goes on."""
    if decoder == "beam":
        pytest.importorskip("pyctcdecode")
    labels = random_labels(alphabet, seed)
    stream, begin, before = make_decoder(decoder, alphabet).start(), 0, alphabet.blank
    for piece in cut(emissions(labels, alphabet), seed):
        stream.accept(piece)
        own = labels[begin : begin + len(piece)]
        ours = np.cumsum(own != before) > 0  # (t,) from the first frame that says something else
        letters = [t for t, label in enumerate(own) if ours[t] and alphabet.labels[label] not in ("_", "<blank>", " ")]
        assert stream.spoken == ((letters[0], letters[-1] + 1) if letters else None)
        begin, before = begin + len(piece), own[-1] if len(own) else before
        stream = stream.next()


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("seed", range(30))
def test_what_is_stable_is_the_whole_words_so_far(alphabet: Alphabet, seed: int) -> None:
    labels = random_labels(alphabet, seed)
    stream, heard, seen = GreedyDecoder(alphabet).start(), 0, [""]
    for piece in cut(emissions(labels, alphabet), seed):
        stream.accept(piece)
        heard += len(piece)
        so_far = collapsed(labels[:heard], alphabet)
        words = so_far.split(" ")
        assert stream.stable() == (" ".join(" ".join(words[:-1]).split()) if " " in alphabet.labels else so_far)
        seen.append(stream.stable())
    final = stream.hypothesis().text
    assert all(now.startswith(before) for before, now in pairwise(seen))
    for stable in seen:
        assert final.startswith(stable)
        assert " " not in alphabet.labels or not stable or final[len(stable) : len(stable) + 1] in ("", " ")


def test_phonemes_are_heard_as_the_characters_of_words_are() -> None:
    """The same path with a label for each character: SIL for the space."""
    characters, phonemes = Alphabet.of(" ab"), Alphabet.of(["SIL", "AA", "B"])
    spelled = dict(zip(" ab", ("SIL", "AA", "B"), strict=True))
    longest = 0
    for seed in range(30):
        labels = random_labels(characters, seed)
        as_characters, as_phonemes = GreedyDecoder(characters).start(), GreedyDecoder(phonemes).start()
        for piece in cut(emissions(labels, characters), seed):
            as_characters.accept(piece)
            as_phonemes.accept(piece)
            expected = as_characters.stable()
            assert as_phonemes.stable() == " ".join(map(spelled.__getitem__, expected))
        text, score = as_characters.hypothesis()[:2]
        assert as_phonemes.hypothesis() == Hypothesis(" ".join(map(spelled.__getitem__, text)), score)
        assert as_phonemes.spoken == as_characters.spoken
        longest = max(longest, len(text))
    assert longest > 20


def test_a_run_across_a_cut_is_one_letter_and_a_blank_makes_two() -> None:
    a = ENGLISH.labels.index("a")
    for labels, text in (([a, a], "a"), ([a, 0, a], "aa")):
        stream = GreedyDecoder(ENGLISH).start()
        for label in labels:
            stream.accept(emissions(np.array([label]), ENGLISH))
        assert stream.hypothesis().text == text
        assert stream.spoken == (0, len(labels))


def test_nothing_heard_is_empty_and_certain() -> None:
    stream = GreedyDecoder(ENGLISH).start()
    stream.accept(np.zeros((0, len(ENGLISH)), dtype=np.float32))
    assert (stream.hypothesis(), stream.stable(), stream.frames, stream.spoken) == (Hypothesis("", 0.0), "", 0, None)


def test_utterances_know_nothing_of_each_other() -> None:
    decoder = GreedyDecoder(ENGLISH)
    first, second = decoder.start(), decoder.start()
    first.accept(emissions(np.array([3, 4]), ENGLISH))
    second.accept(emissions(np.array([4]), ENGLISH))
    assert (first.hypothesis().text, second.hypothesis().text) == ("ab", "b")
    assert decoder.start().hypothesis() == Hypothesis("", 0.0)


@pytest.mark.parametrize("frame", [0, 3, 4])
def test_what_is_not_a_number_is_not_taken_for_silence(frame: int) -> None:
    log_probs = emissions(np.array([1, 0, 2, 0, 3]), ALPHABETS[0])
    log_probs[frame, 2] = np.nan
    stream = GreedyDecoder(ALPHABETS[0]).start()
    stream.accept(log_probs[:frame])
    with pytest.raises(InferenceError, match=f"Frame {frame} holds no valid log-probabilities: they are NaN"):
        stream.accept(log_probs[frame:])
