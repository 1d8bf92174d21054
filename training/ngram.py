"""An n-gram language model out of texts: modified Kneser-Ney, interpolated, as an ARPA file.

Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3; the details as
in Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation", section 3. Counts are kept in
dictionaries: right for the millions of words that a project's transcripts have, not for billions.

    P(w | h) = (c(hw) - D(c(hw))) / c(h) + gamma(h) P(w | h')        h' is h without its first word
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

from ds2_deploy.errors import ConfigError, ManifestError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where there is too little text to estimate them, as lmplz --discount_fallback has them."""
MAX_ORDER = 6
Gram = tuple[str, ...]


class NGramModel(NamedTuple):
    """Probabilities and the weights of what is left to shorter contexts."""

    order: int
    probabilities: list[dict[Gram, float]]
    """By length, from one on: interpolated P(w | h) of each n-gram (h, w) that is kept."""
    backoffs: dict[Gram, float]
    """gamma(h) of each context that something follows; one where it is missing."""

    def write(self, out: TextIO) -> None:
        """The ARPA format, which KenLM and others read: logarithms of ten."""
        out.write("\\data\\\n")
        for n, grams in enumerate(self.probabilities, 1):
            out.write(f"ngram {n}={len(grams)}\n")
        for n, grams in enumerate(self.probabilities, 1):
            out.write(f"\n\\{n}-grams:\n")
            for gram, probability in sorted(grams.items()):
                shown = -99.0 if gram == (BEGIN,) else math.log10(probability)
                back = f"\t{math.log10(self.backoffs.get(gram, 1.0)):.7g}" if n < self.order else ""
                out.write(f"{shown:.7g}\t{' '.join(gram)}{back}\n")
        out.write("\n\\end\\\n")


def estimate(sentences: Iterable[Sequence[str]], order: int = 3, prune: Sequence[int] = ()) -> NGramModel:
    """The model of sentences in words.

    `prune`: for each length from one on, the last for all longer ones, n-grams that occur no more often than that are
    left out, which the shorter ones make up for. Words themselves are kept.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(f"The order is {order}: it must lie between 1 and {MAX_ORDER}.")
    counts = _count(sentences, order)
    if not any(gram[0] not in (BEGIN, END) for gram in counts[0]):
        raise ManifestError("There is no text to make a language model of.")
    least = _thresholds(prune, order)
    vocabulary = [*(gram[0] for gram in counts[0] if gram != (BEGIN,)), UNKNOWN]
    probabilities: list[dict[Gram, float]] = []
    backoffs: dict[Gram, float] = {}
    below: dict[Gram, float] = {(): 1.0 / len(vocabulary)}
    for n in range(1, order + 1):
        adjusted = _adjusted(counts, n)
        kept = {gram for gram in adjusted if counts[n - 1][gram] > least[n - 1]}
        level, weights = _interpolated(adjusted, kept, below)
        backoffs |= {context: weight for context, weight in weights.items() if context}
        if n == 1:
            level[UNKNOWN,] = weights[()] / len(vocabulary)
            level[BEGIN,] = 1.0  # never asked for; the ARPA format wants it
        probabilities.append(level)
        below = level
    return NGramModel(order, probabilities, backoffs)


def _count(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = (BEGIN, *sentence, END)
        for n, counter in enumerate(counts, 1):
            counter.update(words[i : i + n] for i in range(len(words) - n + 1))
    return counts


def _thresholds(prune: Sequence[int], order: int) -> list[int]:
    if len(prune) > order:
        raise ConfigError(
            f"There are {len(prune)} thresholds of pruning for an order of {order}: one a length will do."
        )
    given = [*prune] or [0]
    least = [*given, *[given[-1]] * (order - len(given))]
    if any(t < 0 for t in least) or least != sorted(least):
        raise ConfigError(
            f"The thresholds of pruning are {' '.join(map(str, least))}: none may be negative or less than one before."
        )
    return [0, *least[1:]]


def _adjusted(counts: list[Counter[Gram]], n: int) -> dict[Gram, int]:
    """How many words come before an n-gram; of the longest, and of what begins a sentence, how often it occurs."""
    if n == len(counts):
        return {gram: count for gram, count in counts[n - 1].items() if gram != (BEGIN,)}
    left = Counter(gram[1:] for gram in counts[n])
    left.update({gram: count for gram, count in counts[n - 1].items() if gram[0] == BEGIN and gram != (BEGIN,)})
    return dict(left)


def _interpolated(
    adjusted: dict[Gram, int], kept: set[Gram], below: dict[Gram, float]
) -> tuple[dict[Gram, float], dict[Gram, float]]:
    """Probabilities of the n-grams kept, and the weight of the shorter contexts after each context."""
    discounts = _discounts(adjusted)
    totals: dict[Gram, int] = defaultdict(int)
    given: dict[Gram, float] = defaultdict(float)  # to n-grams that are kept, after discounting
    for gram, count in adjusted.items():
        totals[gram[:-1]] += count
        if gram in kept:
            given[gram[:-1]] += count - discounts[min(count, 3) - 1]
    weights = {context: 1.0 - given[context] / total for context, total in totals.items()}
    level = {}
    for gram in kept:
        context, count = gram[:-1], adjusted[gram]
        rest = below[gram[1:]] if len(gram) > 1 else below[()]
        level[gram] = (count - discounts[min(count, 3) - 1]) / totals[context] + weights[context] * rest
    return level, weights


def _discounts(adjusted: dict[Gram, int]) -> tuple[float, ...]:
    """For counts of one, two, and three or more."""
    n = [0, *(sum(1 for count in adjusted.values() if count == k) for k in (1, 2, 3, 4))]
    if not all(n[1:]):
        return FALLBACK
    y = n[1] / (n[1] + 2 * n[2])
    found = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
    return found if all(0 < discount < k for k, discount in enumerate(found, 1)) else FALLBACK
