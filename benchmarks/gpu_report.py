"""gpu-check.md: what gpu_check.py found, in tables, and what it did not, with reasons."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from ds2_deploy.structs import INFINITE

if TYPE_CHECKING:
    from export.parity import Difference

Row = dict[str, Any]
PARTS = ("h2d", "features", "compute", "d2h")


def markdown(report: Row) -> str:
    """The whole page."""
    done = {name: step["result"] for name, step in report["steps"].items() if step["ok"]}

    def rows(kind: str, cells_of: Callable[[str, Any], Iterator[Row]]) -> list[Row]:
        """Of all steps of a kind."""
        found = ((name.removeprefix(f"{kind} "), result) for name, result in done.items() if name.startswith(kind))
        return [row for name, result in found for row in cells_of(name, result)]

    lines = [f"# GPU check on {report['gpu']}", "", f"Device {report['device']}, `{report['command']}`", ""]
    lines += [f"- {name}: {value}" for name, value in versions(report, done.get("about", []))]
    lines += table("throughput", rows("throughput", throughput_cells))
    lines += table("recognition", rows("recognition", recognition_cells))
    lines += table("parity", rows("parity", parity_cells))
    lines += table("a step of N streams", rows("streams", stream_cells))
    lines += table("training", rows("training", training_cells))
    for kind in ("tests", "export", "build"):
        lines += table(kind, rows(kind, lambda name, result: iter([{"": name, "result": str(result)}])))
    missed = [f"- {name}: {step['reason']}" for name, step in report["steps"].items() if not step["ok"]]
    return "\n".join([*lines, "", "## Not done", "", *(missed or ["Nothing: all steps ran."])]) + "\n"


def table(title: str, rows: list[Row]) -> list[str]:
    """Nothing where there are no rows."""
    if not rows:
        return []
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")) for name in columns] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *cells]]
    return ["", f"## {title[0].upper()}{title[1:]}", "", *lines]


def versions(report: Row, about: list[Row]) -> Iterator[tuple[str, Any]]:
    """Of everything that counts."""
    known: Row = report.get("environment", {})
    yield from ((name, known[name]) for name in ("system", "python", "cpu", "cores") if name in known)
    yield from known.get("packages", {}).items()
    for row in about:
        yield from ((name, row[name]) for name in ("cuda", "cudnn", "fp16_tflops") if row.get(name))
        yield from ((name, value) for gpu in row.get("gpus", []) for name, value in gpu.items())


def throughput_cells(name: str, rows: list[Row]) -> Iterator[Row]:
    for row in rows:
        parts = row.get("parts_ms", {})
        yield {
            "": name,
            "batch × seconds": size(row, "batch"),
            **times(row),
            **{f"{part} ms": f"{parts[part]:.2f}" for part in PARTS if part in parts},
        }


def recognition_cells(name: str, rows: list[Row]) -> Iterator[Row]:
    for row in rows:
        yield {"": name, "recordings × seconds in all": size(row, "recordings"), **times(row)}


def stream_cells(name: str, rows: list[Row]) -> Iterator[Row]:
    for row in rows:
        yield {"": name, "streams × seconds": size(row, "streams"), **times(row)}


def size(row: Row, of: str) -> str:
    """Nothing where a process ended before its next size."""
    return f"{row[of]} × {row['seconds']:g}" if of in row else ""


def times(row: Row) -> Row:
    if "reason" in row:
        return {"p50 ms": row["reason"]}
    p98 = "" if row["p98"] is None else f"{row['p98']:.2f}"
    return {"p50 ms": f"{row['p50']:.2f}", "p98 ms": p98, "runs": row["runs"], "times real time": f"{row['rtfx']:.0f}"}


def training_cells(name: str, row: Row) -> Iterator[Row]:
    hours, waiting = f"{row['audio_hours_per_hour']:.0f}", f"{row['data_wait']:.1%}"
    yield {"": name, "audio hours per hour": hours, "waiting for data": waiting, "epoch": row["epoch"]}
    if "reason" in row:
        yield {"": name, "audio hours per hour": row["reason"]}


def parity_cells(name: str, found: Row) -> Iterator[Row]:
    """A line for each backend; the reference is PyTorch in fp32 on the same device."""
    if found.get("reference_wer") is not None:
        reference = f"{found['reference']} fp32, the reference"
        yield {"": name, "backend": reference, "WER": f"{found['reference_wer']:.2%}"}
    for d in map(difference_of, found["differences"]):
        yield {
            "": name,
            "backend": f"{d.backend} {d.precision} on {d.device}",
            "WER": "" if d.wer is None else f"{d.wer:.2%}",
            "words apart": "" if d.different_words is None else d.different_words,
            "max abs": f"{d.max_abs:.1e}",
            "equal labels": f"{d.equal_argmax:.3%}",
            "verdict": "ok" if d.passed else d.told(),
        }


def difference_of(row: Row) -> "Difference":
    """Of a parity report's JSON, which has INFINITE for infinity."""
    from export.parity import Difference

    infinite = {name: math.inf for name in ("max_abs", "mean_abs") if row[name] >= INFINITE}
    return msgspec.convert(row | infinite, Difference)
