"""Two reports side by side: ratios of medians with their intervals, and what changed around them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ds2_deploy.bench.report import Report, Row
from ds2_deploy.bench.stats import paired_interval, ratio_interval


class Change(NamedTuple):
    """One row of both reports."""

    before: Row
    after: Row
    ratio: float
    """Median latency after by before."""
    low: float
    high: float
    """Ends of its 95% interval."""

    def is_slower(self, percent: float) -> bool:
        """By more than that, and not by chance."""
        return self.ratio > 1 + percent / 100 and self.low > 1


class Comparison(NamedTuple):
    changes: list[Change]
    lost: list[tuple[Row, Row]]
    """Not compared, since requests were lost in the one or the other: what is known from below has no ratio."""
    only_before: list[Row]
    only_after: list[Row]
    environment: list[str]
    """`what: before -> after`."""


def compare(before: Report, after: Report) -> Comparison:
    """Rows belong together where workload, backend, precision, kind of device, batch and lengths are the same."""
    first, second = ({row.key: row for row in report.rows} for report in (before, after))
    same_sound = before.audio == after.audio
    pairs = [(first[key], second[key]) for key in first if key in second]
    return Comparison(
        [Change(a, b, *_ratio(a, b, same_sound=same_sound)) for a, b in pairs if not a.lost and not b.lost],
        [(a, b) for a, b in pairs if a.lost or b.lost],
        [row for key, row in first.items() if key not in second],
        [row for key, row in second.items() if key not in first],
        list(_differences(_facts(before), _facts(after))),
    )


def _ratio(before: Row, after: Row, *, same_sound: bool) -> tuple[float, float, float]:
    """Recording by recording where both heard the same ones in the same order."""
    if before.workload == "utterance" and same_sound:
        return paired_interval(before.runs_ms, after.runs_ms)
    return ratio_interval(before.runs_ms, after.runs_ms)


def _facts(report: Report) -> dict[str, Any]:
    """Flat, without what differs in any two runs."""
    environment = {key: value for key, value in report.environment.items() if key not in ("start", "during")}
    load = report.environment.get("start", {}).get("load_average")
    flat = {"machine": report.machine, "model": report.model, "sound": report.audio, "load average before": load}
    for name, value in environment.items():
        if isinstance(value, dict):
            flat |= {f"{name} {key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield f"{name}: {_shown(before.get(name))} -> {_shown(after.get(name))}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
