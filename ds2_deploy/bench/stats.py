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
    def of(cls, runs_ms: Sequence[float]) -> "Latency":
        values = np.asarray(runs_ms, np.float64)
        low, high = median_interval(values)
        high_percentiles = {
            f"p{p}": float(np.percentile(values, p)) if len(values) >= runs_needed(p) else None for p in PERCENTILES[1:]
        }
        return cls(
            mean=float(values.mean()),
            deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            p50=float(np.median(values)),
            p50_low=low,
            p50_high=high,
            max=float(values.max()),
            **high_percentiles,
        )


def median_interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The 95% interval of the median of (N,), by resampling."""
    low, high = np.percentile(_medians(values, SEED), [2.5, 97.5])
    return float(low), float(high)


def ratio_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of two medians, after by before, and the ends of its 95% interval."""
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    ratios = _medians(second, SEED + 1) / _medians(first, SEED)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(second) / np.median(first)), float(low), float(high)


def _medians(values: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """(RESAMPLES,) of as many values drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    medians: npt.NDArray[np.float64] = np.median(values[drawn], axis=1)
    return medians
