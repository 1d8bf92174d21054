"""Error rates of words, characters and phonemes, from Levenshtein distances."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein


class Pair(NamedTuple):
    """A token of the reference against one of the hypothesis; None where it has none."""

    reference: int | None
    """Its place."""
    hypothesis: int | None


def align_tokens(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """Fewest errors, token by token in order; of several such alignments, rapidfuzz's, so that jiwer counts the same.

    >>> align_tokens(["a", "b", "c"], ["a", "c"])
    [Pair(reference=0, hypothesis=0), Pair(reference=1, hypothesis=None), Pair(reference=2, hypothesis=1)]
    """
    return [
        Pair(i, j)
        for run in Levenshtein.opcodes(reference, hypothesis)
        for i, j in zip_longest(range(run.src_start, run.src_end), range(run.dest_start, run.dest_end))
    ]


class Kinds(NamedTuple):
    """Errors of words or characters by kind; their sum is the edit distance."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @classmethod
    def between(cls, reference: Sequence[str], hypothesis: Sequence[str]) -> "Kinds":
        """Of one utterance's words, or of its characters."""
        counts = Counter(edit.tag for edit in Levenshtein.editops(reference, hypothesis))
        return cls(counts["replace"], counts["delete"], counts["insert"])

    @classmethod
    def total(cls, parts: Iterable["Kinds"]) -> "Kinds":
        return cls(*map(sum, zip(*parts, strict=True)))


class Errors(NamedTuple):
    """Counts over one or several utterances. Phonemes, which spaces separate, are words here."""

    word_errors: int = 0
    words: int = 0
    character_errors: int = 0
    characters: int = 0

    @classmethod
    def between(cls, reference: str, hypothesis: str) -> "Errors":
        words = reference.split()
        wrong = Levenshtein.distance(words, hypothesis.split())
        return cls(wrong, len(words), Levenshtein.distance(reference, hypothesis), len(reference))

    @classmethod
    def total(cls, parts: Iterable["Errors"]) -> "Errors":
        return cls(*map(sum, zip(*parts, strict=True)))

    @property
    def wer(self) -> float:
        """Word error rate as a fraction of the reference words; an empty reference counts as one word."""
        return self.rate("WER")

    @property
    def cer(self) -> float:
        """Character error rate as a fraction, spaces included."""
        return self.rate("CER")

    def rate(self, metric: str) -> float:
        """By a language's metric, as a fraction."""
        wrong, units = self.counted(metric)
        return wrong / max(units, 1)

    def counted(self, metric: str) -> tuple[int, int]:
        """How many of how many are wrong: of characters (CER), words (WER) or phonemes, which are words here (PER)."""
        return (self.character_errors, self.characters) if metric == "CER" else (self.word_errors, self.words)

    def mean_distance(self, utterances: int, separator: str) -> float:
        """Mean Levenshtein distance of an utterance, in labels of an alphabet with this separator."""
        return (self.word_errors if separator else self.character_errors) / utterances


def bootstrap_interval(counts: Sequence[tuple[int, int]], *, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95% interval of errors / units over utterances drawn anew with replacement (Bisani and Ney 2004)."""
    table = np.array(counts)  # (N, 2)
    generator = np.random.default_rng(seed)
    picks = (generator.integers(len(table), size=len(table)) for _ in range(draws))  # (N,) each: little memory
    sums = np.array([table[pick].sum(axis=0) for pick in picks])  # (draws, 2)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), (0.025, 0.975))
    return float(low), float(high)
