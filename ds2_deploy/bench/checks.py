"""What a report finds out about itself: figures that contradict each other, and reasons to doubt the rest."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ds2_deploy.bench.report import Row
from ds2_deploy.bench.stats import PERCENTILES
from ds2_deploy.output.listing import first_of

FARTHEST = {"fp32": 1e-2, "fp16": 0.5}
"""Nats that log-probabilities may be from the reference's; `ds2 parity` looks closer, and at labels."""
STRANGE_TEXTS = 0.02
"""Share of a load test's texts that may differ from what is heard alone: near ties in another batch."""
TOLERANCE = 0.1
"""Of Little's law and of parts against the whole."""
FEWEST_FOR_LITTLE = 30
"""Requests; fewer say nothing about an average."""
NOISY = 0.25
"""Interquartile range by median: between two runs of the same work."""
DRIFT = 0.1
"""Between the medians of a cell's first and last fifth."""
FEW_RECORDINGS = 20
FEW_PERIODS = 20
"""Busy periods of a load test."""
BUSY = 0.5
"""Load average before anything was measured."""
IDLE = 0x1
"""The bit of a GPU's reasons for lower clocks that means nothing."""
THROTTLED = 0.9
"""Clock at the end by clock at the start."""


def failed(rows: Iterable[Row]) -> list[str]:
    """Contradictions; none is what a report should have."""
    return [f"{row.name}, {row.workload}, {row.cell}: {what}" for row in rows for what in _contradictions(row)]


def _contradictions(row: Row) -> Iterator[str]:
    latency = row.latency
    known = [value for p in PERCENTILES if (value := getattr(latency, f"p{p}")) is not None]
    if any(low > high for low, high in zip(known, [*known[1:], latency.max], strict=True)):
        yield f"percentiles fall: {', '.join(f'{value:.3g}' for value in (*known, latency.max))} ms"
    if not latency.p50_low <= latency.p50 <= latency.p50_high:
        yield f"the median {latency.p50:.3g} ms lies outside of its interval"
    yield from _littles_law(row)
    yield from _parts(row)
    if row.wrong_outputs > (STRANGE_TEXTS * row.runs if row.workload == "load" else 0):
        yield f"{row.wrong_outputs} of {row.runs} timed runs gave other labels than the first one"
    if row.max_abs is not None and not np.isfinite(row.max_abs):
        yield "the outputs are not numbers or not as many as the reference's"
    elif row.max_abs is not None and row.max_abs > FARTHEST[row.precision]:
        yield f"the outputs are {row.max_abs:.2g} nats from the reference's"


def _littles_law(row: Row) -> Iterator[str]:
    """Number in the system = throughput × latency (Little 1961); in a closed loop the number is what goes together."""
    if row.workload == "load":
        expected = row.in_system
        if row.runs < FEWEST_FOR_LITTLE or row.lost:
            return
        rate = row.runs / row.wall_s
    else:
        expected, rate = float(row.batch), row.utterances_per_s
    found = rate * row.latency.mean / 1000
    if expected is not None and abs(found - expected) > TOLERANCE * max(expected, 1e-9):
        yield f"throughput times latency is {found:.3g} where {expected:.3g} were in the system"


def _parts(row: Row) -> Iterator[str]:
    """Stages are means, and so is the whole that they are compared with; what is lost has no stages."""
    total = sum(milliseconds for name, milliseconds in row.stages.items() if name != "enqueue")
    if row.stages and not row.lost and abs(total - row.latency.mean) > TOLERANCE * row.latency.mean:
        yield f"the parts add up to {total:.3g} ms of {row.latency.mean:.3g} ms"


def weaknesses(
    rows: Sequence[Row], *, recordings: int, start: dict[str, Any], during: Sequence[dict[str, Any]], ended: str | None
) -> list[str]:
    """In sentences, the gravest first. `recordings`: real ones; `ended`: why before its time."""
    found = []
    if ended:
        found.append(f"Some cells are missing: {ended}")
    load = start.get("load_average")
    if load is not None and load > BUSY:
        found.append(f"The machine was busy before anything began: load average {load:.2f}.")
    found += _clocks(start, during)
    found += _about(rows, "were measured before they had warmed up", lambda row: not row.settled)
    found += _about(rows, "were noisy: an interquartile range of more than a quarter of the median", _is_noisy)
    found += _about(rows, "drifted by more than a tenth between their first and their last runs", _has_drifted)
    found += _about(rows, "are bound by transfers: copying takes longer than computing", _is_transfer_bound)
    found += _about(rows, "are bound by launches: the device waits for the host", _is_enqueue_bound)
    found += _about(rows, "could not keep up with the arrivals", _is_overloaded)
    found += _about(rows, "lost requests, so that their latencies are at least what they say", lambda row: row.lost > 0)
    found += _about(rows, "had few busy periods, so requests that waited for each other", _has_few_periods)
    if 0 < recordings < FEW_RECORDINGS and any(row.workload == "utterance" for row in rows):
        found.append(f"Latencies of utterances are those of {recordings} recordings, heard again and again.")
    if not recordings:
        found.append("The sound was generated: lengths and texts are not those of your recordings; give --audio.")
    return found


def _about(rows: Sequence[Row], what: str, doubtful: Any) -> list[str]:
    hit = [row for row in rows if doubtful(row)]
    if not hit:
        return []
    return [f"{len(hit)} of {len(rows)} rows {what}: {first_of([f'{row.name} at {row.cell}' for row in hit], 3)}."]


def _all(row: Row) -> list[float]:
    return [milliseconds for part in row.runs_ms for milliseconds in part]


def _is_overloaded(row: Row) -> bool:
    """More wait than go into the next two batches."""
    return row.lost > 0 or (row.in_system or 0.0) > 2 * row.batch


def _has_few_periods(row: Row) -> bool:
    return row.workload == "load" and len(row.runs_ms) < FEW_PERIODS


def _is_noisy(row: Row) -> bool:
    if row.workload not in ("batch", "stream") or row.runs < 4:  # elsewhere runs differ because their work does
        return False
    low, high = np.percentile(_all(row), [25, 75])
    return bool(high - low > NOISY * row.latency.p50)


def _has_drifted(row: Row) -> bool:
    if row.workload not in ("batch", "stream") or row.runs < 10:
        return False
    part = row.runs // 5
    first, last = np.median(_all(row)[:part]), np.median(_all(row)[-part:])
    return bool(abs(last - first) > DRIFT * row.latency.p50)


def _is_transfer_bound(row: Row) -> bool:
    copies = row.stages.get("h2d", 0.0) + row.stages.get("d2h", 0.0)
    return copies > row.stages.get("compute", float("inf"))


def _is_enqueue_bound(row: Row) -> bool:
    return row.stages.get("enqueue", 0.0) > 0.9 * row.stages.get("compute", float("inf"))


def _clocks(start: dict[str, Any], during: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    before, least = start.get("cpu_mhz"), min((r["cpu_mhz"] for r in during if r.get("cpu_mhz")), default=None)
    if before and least and least < THROTTLED * before:
        found.append(f"The processor slowed down from {before:.0f} to {least:.0f} MHz.")
    reasons = {
        (gpu.get("name", "The GPU"), bits)
        for reading in during
        for gpu in reading.get("gpus", [])
        if (bits := gpu.get("clocks_throttle_reasons.active", "")).startswith("0x") and int(bits, 16) & ~IDLE
    }
    return found + [f"{name} was throttled (reasons {bits})." for name, bits in sorted(reasons)]
