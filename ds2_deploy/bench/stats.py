"""What may be said of latencies: percentiles, and how many runs each takes; intervals by the bootstrap."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

PERCENTILES = (50, 90, 95, 98, 99)
CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 2026
Rounds = Sequence[Sequence[float]]
"""Milliseconds of each run, in the turns in which they were measured; none of them empty."""


def runs_needed(percentile: float) -> int:
    """The fewest runs of which the largest bounds the percentile from above with 95% confidence.

    A run lies below the p-th percentile with probability p, all n with p^n, and p^n must not exceed 5% (Hahn and Meeker
    1991, "Statistical Intervals", section 5.2).

    >>> [runs_needed(p) for p in PERCENTILES]
    [5, 29, 59, 149, 299]
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(percentile / 100))


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of the runs of a row, in milliseconds. Nothing is left out as an outlier."""

    mean: float
    deviation: float
    p50: float
    p50_low: float
    """Ends of the 95% bootstrap interval of the median."""
    p50_high: float
    p90: float | None
    """None where there are too few runs for it; see `runs_needed`."""
    p95: float | None
    p98: float | None
    p99: float | None
    max: float

    @classmethod
    def of(cls, rounds_ms: Rounds) -> "Latency":
        values = np.concatenate([np.asarray(part, np.float64) for part in rounds_ms])
        low, high = np.percentile(_medians(rounds_ms, SEED), [2.5, 97.5])
        high_percentiles = {
            f"p{p}": float(np.percentile(values, p)) if len(values) >= runs_needed(p) else None for p in PERCENTILES[1:]
        }
        return cls(
            mean=float(values.mean()),
            deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            p50=float(np.median(values)),
            p50_low=float(low),
            p50_high=float(high),
            max=float(values.max()),
            **high_percentiles,
        )


def ratio_interval(before: Rounds, after: Rounds) -> tuple[float, float, float]:
    """The ratio of two medians, after by before, and the ends of its 95% interval."""
    ratios = _medians(after, SEED + 1) / _medians(before, SEED)
    low, high = np.percentile(ratios, [2.5, 97.5])
    first, second = (float(np.median(np.concatenate(rounds))) for rounds in (before, after))
    return second / first, float(low), float(high)


def paired_interval(before: Rounds, after: Rounds) -> tuple[float, float, float]:
    """The same where each round holds the same pieces of work in the same order: the median of their ratios."""
    first, second = (np.median(np.asarray(rounds, np.float64), axis=0) for rounds in (before, after))
    ratios = second / first
    drawn = np.random.default_rng(SEED).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def _medians(rounds: Rounds, seed: int) -> npt.NDArray[np.float64]:
    """(RESAMPLES,) of as many rounds, and of as many runs in each, drawn with replacement.

    Runs of one round share whatever the machine did meanwhile, so they are no independent draws (Davison and Hinkley
    1997, "Bootstrap Methods and their Application", section 3.8).
    """
    rng = np.random.default_rng(seed)
    parts = [np.asarray(part, np.float64) for part in rounds]
    medians = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = [parts[j] for j in rng.integers(0, len(parts), len(parts))]
        medians[i] = np.median(np.concatenate([part[rng.integers(0, len(part), len(part))] for part in drawn]))
    return medians
