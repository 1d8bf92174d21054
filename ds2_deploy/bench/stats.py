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
"""Milliseconds of each run, by what they share: the turns in which they were measured, or the busy periods of a server
(from one moment without work to the next). None of them is empty."""


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
    """None where there are too few independent runs for it, see `runs_needed`, or some are not complete."""
    p95: float | None
    p98: float | None
    p99: float | None
    max: float

    @classmethod
    def of(
        cls, rounds_ms: Rounds, *, same_work: bool = False, independent: int | None = None, complete: bool = True
    ) -> "Latency":
        """`independent`: runs that owe nothing to each other, where not all are that.

        `complete`: where it is false some runs had not ended, so that their times, and what is said here, are least
        values; no high percentile is given, for these are the slowest runs.

        `same_work`: each round holds the same pieces of work in the same order, which are then what is independent.
        """
        values = np.concatenate([np.asarray(part, np.float64) for part in rounds_ms])
        if same_work:
            medians, independent = _medians_of_same_work(rounds_ms), len(rounds_ms[0])
        else:
            medians, independent = _medians(rounds_ms, SEED), independent or len(values)
        low, high = np.percentile(medians, [2.5, 97.5])
        high_percentiles = {
            f"p{p}": float(np.percentile(values, p)) if complete and independent >= runs_needed(p) else None
            for p in PERCENTILES[1:]
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
    """The same where each round holds the same pieces of work in the same order: the median of their ratios.

    Rounds are drawn before pieces of work, as in `_medians`: those of one report may all have been slow ones.
    """
    first, second = (np.asarray(rounds, np.float64) for rounds in (before, after))  # (rounds, pieces)
    rng = np.random.default_rng(SEED)
    turns = [rng.integers(0, len(times), (RESAMPLES, len(times))) for times in (first, second)]
    ratios = np.median(second[turns[1]], axis=1) / np.median(first[turns[0]], axis=1)  # (RESAMPLES, pieces)
    medians = np.median(np.take_along_axis(ratios, rng.integers(0, ratios.shape[1], ratios.shape), axis=1), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(np.median(second, axis=0) / np.median(first, axis=0))), float(low), float(high)


def _medians(rounds: Rounds, seed: int) -> npt.NDArray[np.float64]:
    """(RESAMPLES,) of as many rounds, and of as many runs in each, drawn with replacement.

    Runs of one round share whatever the machine did meanwhile, so they are no independent draws (Davison and Hinkley
    1997, "Bootstrap Methods and their Application", section 3.8).
    """
    rng = np.random.default_rng(seed)
    values = np.concatenate([np.asarray(part, np.float64) for part in rounds])
    lengths = np.array([len(part) for part in rounds])
    firsts = np.cumsum(lengths) - lengths
    medians = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = rng.integers(0, len(lengths), len(lengths))
        sizes = np.repeat(lengths[drawn], lengths[drawn])  # of the round that each run is drawn from
        places = np.repeat(firsts[drawn], lengths[drawn]) + (rng.random(len(sizes)) * sizes).astype(int)
        medians[i] = np.median(values[places])
    return medians


def _medians_of_same_work(rounds: Rounds) -> npt.NDArray[np.float64]:
    """(RESAMPLES,) of as many rounds and as many pieces of work, the same in all of them, drawn with replacement."""
    rng = np.random.default_rng(SEED)
    times = np.asarray(rounds, np.float64)  # (rounds, pieces)
    medians = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        turns, pieces = (rng.integers(0, size, size) for size in times.shape)
        medians[i] = np.median(times[np.ix_(turns, pieces)])
    return medians
