"""Error rates of words, characters and phonemes, from Levenshtein distances."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance: fewest substitutions, deletions and insertions.

    A column of the table at a time, in the bits of integers as wide as the reference is long: `up` and `down` tell
    where the value rises and falls from row to row (Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and
    Damerau edit distances", figure 3).
    """
    if not reference:
        return len(hypothesis)
    where: dict[str, int] = {}
    for i, token in enumerate(reference):
        where[token] = where.get(token, 0) | 1 << i
    last = len(reference) - 1
    every = (2 << last) - 1
    up, down, distance = every, 0, len(reference)
    for token in hypothesis:
        equal = where.get(token, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down  # set where a step down the diagonal costs nothing
        right, left = (down | ~(diagonal | up)) & every, up & diagonal  # where a step to this column costs, where gains
        distance += (right >> last) - (left >> last & 1)
        right, left = right << 1 | 1, left << 1
        up, down = (left | ~(diagonal | right)) & every, right & diagonal & every
    return distance


class Pair(NamedTuple):
    """A token of the reference against one of the hypothesis; None where it has none."""

    reference: int | None
    """Its place."""
    hypothesis: int | None


def align_tokens(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """Fewest errors, token by token in order; of several such alignments, the one with the most substitutions late.

    >>> align_tokens(["a", "b", "c"], ["a", "c"])
    [Pair(reference=0, hypothesis=0), Pair(reference=1, hypothesis=None), Pair(reference=2, hypothesis=1)]
    """
    costs = np.zeros((len(reference) + 1, len(hypothesis) + 1), np.int32)
    costs[:, 0], costs[0] = np.arange(len(reference) + 1), np.arange(len(hypothesis) + 1)
    numbers = {token: number for number, token in enumerate({*reference, *hypothesis})}
    heard = np.array([numbers[token] for token in hypothesis], np.int64)
    for i, expected in enumerate(reference, 1):
        before = costs[i - 1]
        costs[i, 1:] = np.minimum(before[:-1] + (heard != numbers[expected]), before[1:] + 1)
        costs[i] = np.minimum.accumulate(costs[i] - costs[0]) + costs[0]  # an insertion costs one for each step on
    pairs: list[Pair] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        if i and j and costs[i, j] == costs[i - 1, j - 1] + (reference[i - 1] != hypothesis[j - 1]):
            i, j = i - 1, j - 1
            pairs.append(Pair(i, j))
        elif i and costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
            pairs.append(Pair(i, None))
        else:
            j -= 1
            pairs.append(Pair(None, j))
    return pairs[::-1]


class Kinds(NamedTuple):
    """Errors of words or characters by kind; their sum is the edit distance."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @classmethod
    def between(cls, reference: Sequence[str], hypothesis: Sequence[str]) -> "Kinds":
        """Of one utterance's words, or of its characters."""
        pairs = align_tokens(reference, hypothesis)
        both = [(i, j) for i, j in pairs if i is not None and j is not None]
        return cls(
            sum(reference[i] != hypothesis[j] for i, j in both),
            sum(pair.hypothesis is None for pair in pairs),
            sum(pair.reference is None for pair in pairs),
        )

    @classmethod
    def total(cls, parts: Iterable["Kinds"]) -> "Kinds":
        columns = list(zip(*parts, strict=True))
        return cls(*map(sum, columns)) if columns else cls()


class Errors(NamedTuple):
    """Counts over one or several utterances. Phonemes, which spaces separate, are words here."""

    word_errors: int = 0
    words: int = 0
    character_errors: int = 0
    characters: int = 0

    @classmethod
    def between(cls, reference: str, hypothesis: str) -> "Errors":
        words = reference.split()
        return cls(
            edit_distance(words, hypothesis.split()), len(words), edit_distance(reference, hypothesis), len(reference)
        )

    @classmethod
    def total(cls, parts: Iterable["Errors"]) -> "Errors":
        columns = list(zip(*parts, strict=True))
        return cls(*map(sum, columns)) if columns else cls()

    @property
    def wer(self) -> float:
        """Word error rate as a fraction of the reference words; an empty reference counts as one word."""
        return self.word_errors / max(self.words, 1)

    @property
    def cer(self) -> float:
        """Character error rate as a fraction, spaces included."""
        return self.character_errors / max(self.characters, 1)

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
