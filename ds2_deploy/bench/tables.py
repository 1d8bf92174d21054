"""A report as Markdown and CSV: one set of columns for both, and for the page."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence

from ds2_deploy.bench.report import Loaded, Report, Row
from ds2_deploy.bench.stats import PERCENTILES, Latency, runs_needed

TITLES = {
    "utterance": "Utterances, from file to text, one at a time",
    "batch": "Batches of like length",
    "load": "Load: requests that arrive at random",
    "stream": "Streams, chunk by chunk",
}
INDEPENDENT = {"utterance": "recordings", "batch": "runs", "load": "busy periods", "stream": "runs"}
"""What it takes so many of for a percentile."""


def number(value: float | None) -> str:
    """Three digits, without an exponent where it can be avoided."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1000 else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1e}"


def percentile(row: Row, p: int) -> str:
    """Or why there is none: what it would take, or that requests were lost."""
    value = getattr(row.latency, f"p{p}")
    if value is None:
        return f"{row.lost} lost" if row.lost else f"≥ {runs_needed(p)} {INDEPENDENT[row.workload]}"
    return number(value)


def at_least(row: Row, value: float) -> str:
    """A latency, which is but a lower bound where requests were lost."""
    return f"≥ {number(value)}" if row.lost else number(value)


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


Column = tuple[str, Callable[[Row], str]]


def _percentile_column(p: int) -> Column:
    return f"p{p} ms", lambda row: percentile(row, p)


COLUMNS: list[Column] = [
    ("backend", lambda row: row.name),
    ("device", lambda row: row.device),
    ("what", lambda row: row.cell),
    ("padding", lambda row: percent(row.padding)),
    ("warm-up", lambda row: str(row.warm_up)),
    ("runs", lambda row: str(row.runs)),
    ("mean ms", lambda row: at_least(row, row.latency.mean)),
    ("± ms", lambda row: number(row.latency.deviation)),
    ("p50 ms", lambda row: at_least(row, row.latency.p50)),
    ("95% interval", lambda row: f"{number(row.latency.p50_low)} to {number(row.latency.p50_high)}"),
    *map(_percentile_column, PERCENTILES[1:]),
    ("max ms", lambda row: at_least(row, row.latency.max)),
    ("stages ms", lambda row: ", ".join(f"{name} {number(ms)}" for name, ms in row.stages.items())),
    ("per s", lambda row: number(row.utterances_per_s)),
    ("× real time", lambda row: number(row.rtfx)),
    ("in system", lambda row: number(row.in_system)),
    ("lost", lambda row: str(row.lost) if row.workload == "load" else ""),
    ("host MB", lambda row: number(row.host_mb)),
    ("device MB", lambda row: number(row.device_mb)),
    ("max abs", lambda row: number(row.max_abs)),
    ("error rate", lambda row: percent(row.wer)),
    ("difference", lambda row: percent(row.wer_difference)),
]

LOADED: list[tuple[str, Callable[[Loaded], str]]] = [
    ("backend", lambda one: one.name + (" (streams)" if one.stream else "")),
    ("device", lambda one: one.device),
    ("runtime", lambda one: one.runtime),
    ("file MB", lambda one: number(one.file_mb)),
    ("load s", lambda one: number(one.load_s)),
    ("build s", lambda one: number(one.build_s)),
    ("host MB", lambda one: number(one.host_mb)),
]


def table(rows: Sequence[Row]) -> list[list[str]]:
    """A heading and the rows, without columns that none of them fills."""
    cells = [[name, *(show(row) for row in rows)] for name, show in COLUMNS]
    kept = [column for column in cells if any(column[1:])]
    return [list(line) for line in zip(*kept, strict=True)]


def loaded_table(loaded: Sequence[Loaded]) -> list[list[str]]:
    cells = [[name, *(show(one) for one in loaded)] for name, show in LOADED]
    return [list(line) for line in zip(*(column for column in cells if any(column[1:])), strict=True)]


def by_workload(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """In the order of TITLES."""
    found: dict[str, list[Row]] = {name: [] for name in TITLES}
    for row in rows:
        found[row.workload].append(row)
    return {name: part for name, part in found.items() if part}


def facts(report: Report) -> list[str]:
    """Where, with what and how, in a few lines."""
    environment = report.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())
    return [
        f"{report.machine}, {environment.get('cores')} cores, {environment.get('threads')} threads, "
        f"{environment.get('system')}",
        f"ds2_deploy {environment.get('ds2_deploy')}, Python {environment.get('python')}, {packages}",
        f"sound: {report.audio}; outputs compared with {report.reference}",
        f"{report.command}; {report.started}, {report.seconds:.0f} s",
    ]


def markdown(report: Report) -> str:
    parts = [f"# {report.model}: latency"]
    if report.failed_checks:
        parts += ["**This report contradicts itself; do not use it.**", _list(report.failed_checks)]
    if report.weaknesses:
        parts += ["What to know before believing it:", _list(report.weaknesses)]
    parts.append(_list(facts(report)))
    parts.append(_rows(loaded_table(report.loaded)))
    if report.not_run:
        parts.append(_list(f"not here: {name}: {why}" for name, why in report.not_run.items()))
    for workload, rows in by_workload(report.rows).items():
        parts += [f"## {TITLES[workload]}", _rows(table(rows))]
    return "\n\n".join(parts) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _rows(lines: Sequence[Sequence[str]]) -> str:
    heading, *rest = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([heading, "|" + "---|" * len(lines[0]), *rest])


def comma_separated(report: Report) -> str:
    """Every row with every figure, for spreadsheets: names of the JSON's fields, empty where there is none."""
    out = io.StringIO()
    stages = sorted({name for row in report.rows for name in row.stages})
    latency = Latency.__struct_fields__
    plain = [name for name in Row.__struct_fields__ if name not in ("latency", "runs_ms", "stages")]
    writer = csv.writer(out, lineterminator="\n")
    libraries = {(one.name, one.stream): one for one in report.loaded}
    loaded = ("runtime", "file_mb", "load_s", "build_s")
    writer.writerow([*plain, *loaded, *(f"{name}_ms" for name in (*latency, *stages))])
    for row in report.rows:
        one = libraries.get((row.name, row.workload == "stream"))
        facts = [getattr(one, name, None) for name in loaded]
        times = [getattr(row.latency, name) for name in latency] + [row.stages.get(name) for name in stages]
        writer.writerow(["" if v is None else v for v in [*(getattr(row, name) for name in plain), *facts, *times]])
    return out.getvalue()
