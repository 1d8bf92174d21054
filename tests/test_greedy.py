"""Greedy decoding against its definition, written out with itertools."""

from itertools import groupby

import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.text.alphabet import ENGLISH, Alphabet

ALPHABETS = [Alphabet.of(" ab"), Alphabet(labels=("a", " ", "_", "b"), blank=2), Alphabet(labels=("x", "_"), blank=1)]


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    log_probs: npt.NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return log_probs.astype(np.float32)


def defined(log_probs: npt.NDArray[np.float32], alphabet: Alphabet) -> str:
    """Merge the runs of the best path, drop blanks, squeeze spaces."""
    best = [max(range(len(alphabet)), key=row.__getitem__) for row in log_probs]
    letters = [alphabet.labels[label] for label, _ in groupby(best) if label != alphabet.blank]
    return " ".join("".join(letters).split())


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 50])
def test_random_matrices_decode_by_the_definition(alphabet: Alphabet, frames: int) -> None:
    for seed in range(20):
        log_probs = log_softmax(np.random.default_rng(seed).normal(size=(frames, len(alphabet))))  # (T, V)
        hypothesis = GreedyDecoder(alphabet).decode(log_probs)
        assert hypothesis.text == defined(log_probs, alphabet)
        assert hypothesis.score == pytest.approx(sum(float(max(row)) for row in log_probs), rel=1e-5)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("hheel_lloo", "hello"),  # the blank keeps a double letter
        ("____", ""),
        ("  a  b_ ", "a b"),  # no space at the ends
        ("a _ b", "a b"),  # and never two in a row
    ],
)
def test_known_paths(path: str, text: str) -> None:
    labels = [ENGLISH.blank if character == "_" else ENGLISH.labels.index(character) for character in path]
    log_probs = log_softmax(5 * np.eye(len(ENGLISH))[labels])  # (T, V)
    assert GreedyDecoder(ENGLISH).decode(log_probs).text == text


def test_no_frames_are_an_empty_and_certain_transcript() -> None:
    assert GreedyDecoder(ENGLISH).decode(np.zeros((0, len(ENGLISH)), dtype=np.float32)) == Hypothesis("", 0.0)
