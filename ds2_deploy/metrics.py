"""Word and character error rates."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance: fewest substitutions, deletions and insertions."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != got))
    return row[-1]


class Errors(NamedTuple):
    """Counts over one or several utterances."""

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


def bootstrap_wer(errors: Sequence[Errors], *, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95% interval of the WER when utterances are drawn anew with replacement (Bisani and Ney 2004)."""
    counts = np.array([(e.word_errors, e.words) for e in errors])  # (N, 2)
    generator = np.random.default_rng(seed)
    picks = (generator.integers(len(counts), size=len(counts)) for _ in range(draws))  # (N,) each: little memory
    sums = np.array([counts[pick].sum(axis=0) for pick in picks])  # (draws, 2)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), (0.025, 0.975))
    return float(low), float(high)
