"""The report's pictures, as SVG by matplotlib."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ds2_deploy.bench.report import Report, Row
from ds2_deploy.bench.tables import by_workload
from ds2_deploy.extras import require

COLORS = ("#3366aa", "#cc6633", "#339966", "#993366", "#888800", "#555555")
STAGE_COLORS = {"audio": "#88aacc", "h2d": "#bbccdd", "wait": "#cccccc", "model": "#3366aa", "compute": "#3366aa",
                "d2h": "#99aabb", "text": "#cc6633"}  # fmt: skip
STYLES = ("-", "--", ":", "-.")
SIZE = (6.4, 3.8)


def pictures(report: Report) -> list[tuple[str, str]]:
    """A caption and an SVG each; those whose workload was not measured are left out."""
    require("matplotlib").use("Agg")
    rows = by_workload(report.rows)
    found: list[tuple[str, str]] = []
    if batches := rows.get("batch"):
        found.append(("Latency of a batch: median and its 95% interval", _lines(batches, _latency_of_batch)))
        found.append(("Throughput: seconds of audio per second", _lines(batches, _throughput)))
    if streams := rows.get("stream"):
        found.append(("A step of so many streams: median, and p98 where it is known", _lines(streams, _steps)))
    for name in ("utterance", "load"):
        if part := rows.get(name):
            caption = {"utterance": "Utterances, from file to text", "load": "Requests under load"}[name]
            found.append((f"{caption}: share of runs that were done in time", _svg(_curves, part)))
    if parts := [row for name in ("utterance", "load") for row in rows.get(name, [])]:
        found.append(("Where the time goes: mean milliseconds of each part", _svg(_stages, parts)))
    return found


def _svg(draw: Callable[[Any, Sequence[Row]], None], rows: Sequence[Row]) -> str:
    plt = require("matplotlib.pyplot")
    with plt.rc_context({"svg.fonttype": "none", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3,
                         "svg.hashsalt": "ds2"}):  # fmt: skip
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        draw(axes, rows)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.name for row in rows))


def _lines(rows: Sequence[Row], draw: Callable[[Any, Sequence[Row], str, str], None]) -> str:
    """A line for each backend and length of audio."""

    def all_lines(axes: Any, rows: Sequence[Row]) -> None:
        lengths = sorted({row.audio_s for row in rows})
        for color, name in zip(COLORS * 9, _names(rows), strict=False):
            for style, seconds in zip(STYLES * 9, lengths, strict=False):
                part = sorted(
                    (row for row in rows if (row.name, row.audio_s) == (name, seconds)), key=lambda row: row.batch
                )
                if part:
                    several = len(lengths) > 1 and part[0].workload == "batch"
                    draw(axes, part, f"{name}, {seconds:g} s" if several else name, color)
                    axes.lines[-1].set_linestyle(style)
        if axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row.batch for row in rows}))
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=8)

    return _svg(all_lines, rows)


def _latency_of_batch(axes: Any, part: Sequence[Row], label: str, color: str) -> None:
    x, y = [row.batch for row in part], [row.latency.p50 for row in part]
    axes.fill_between(
        x, [row.latency.p50_low for row in part], [row.latency.p50_high for row in part], color=color, alpha=0.2
    )
    axes.plot(x, y, marker="o", label=label, color=color)
    axes.set(yscale="log", xlabel="recordings together", ylabel="milliseconds")


def _throughput(axes: Any, part: Sequence[Row], label: str, color: str) -> None:
    axes.plot([row.batch for row in part], [row.rtfx for row in part], marker="o", label=label, color=color)
    axes.set(xlabel="recordings together", ylabel="times real time")


def _steps(axes: Any, part: Sequence[Row], label: str, color: str) -> None:
    known = [row for row in part if row.latency.p98 is not None]
    axes.plot([row.batch for row in known], [row.latency.p98 for row in known], marker="_", color=color, alpha=0.6)
    axes.axhline(1000 * part[0].audio_s, color="red", linewidth=0.8)
    axes.plot([row.batch for row in part], [row.latency.p50 for row in part], marker="o", label=label, color=color)
    axes.set(yscale="log", xlabel="streams", ylabel="milliseconds; red: the chunk's own length")


def _curves(axes: Any, rows: Sequence[Row]) -> None:
    offered = sorted({row.offered or 0.0 for row in rows})
    several = len(offered) > 1
    for row in rows:
        label = f"{row.name}, {row.offered:.3g}/s" if several else row.name
        values = np.sort(np.concatenate(row.runs_ms)[: row.runs - row.lost])
        color, style = (
            COLORS[_names(rows).index(row.name) % len(COLORS)],
            STYLES[offered.index(row.offered or 0.0) % len(STYLES)],
        )
        axes.step(values, 100 * np.arange(1, len(values) + 1) / row.runs, style, label=label, color=color)
    axes.set(xscale="log", xlabel="milliseconds", ylabel="% of runs", ylim=(0, 101))
    axes.legend(fontsize=8)


def _stages(axes: Any, rows: Sequence[Row]) -> None:
    labels = [f"{row.name}, {'load ' + format(row.offered, '.3g') + '/s' if row.offered else 'alone'}" for row in rows]
    left = np.zeros(len(rows))
    names = list(dict.fromkeys(name for row in rows for name in row.stages if name != "enqueue"))
    for name in names:
        widths = np.array([row.stages.get(name, 0.0) for row in rows])
        axes.barh(labels, widths, left=left, label=name, color=STAGE_COLORS.get(name, "#777777"))
        left += widths
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds")
    axes.legend(fontsize=8)
