"""What a study found: a row per variant over its seeds, a table in Markdown, a plot per axis."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from machine import machine

from ds2_deploy.extras import require
from ds2_deploy.model.checkpoint import load_checkpoint
from training.run_folder import LAST, read_log
from training.trainer import COLLAPSED, SPOKEN

if TYPE_CHECKING:
    from study import Run, Study

DONE = "study.json"
"""Beside each training that is finished, or diverged."""


class Spread(msgspec.Struct, frozen=True):
    """Over seeds; of one seed, there is no deviation."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        if not values:
            return None
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A variant; rates are fractions of the last epoch's validation, losses nats per utterance."""

    axis: str
    variant: str
    set: tuple[str, ...]
    seeds: int
    diverged: int
    """Ended without a finite gradient, with nothing but blanks, or with a validation loss above the first epoch's; left
    out of what follows."""
    parameters: int | None
    """None where not even an epoch was learnt, as of the seconds."""
    wer: Spread | None
    cer: Spread | None
    distance: Spread | None
    loss: Spread | None
    train_loss: Spread | None
    speaks: Spread | None
    """The first epoch whose validation has a character error rate below SPOKEN."""
    epoch_s: float | None
    """Median over epochs and seeds of an epoch's training, on a machine that other work may have shared."""
    epoch_cpu_s: float | None
    """Processor seconds of the whole training, validation included, per epoch; None where those of a try were lost."""
    curves: list[list[dict[str, float]]]
    """Of each seed, what was logged of each epoch."""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A study's outcome."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    epochs: int
    machine: dict[str, Any]
    rows: list[Row]


CURVES = ("epoch", "loss", "valid_loss", "valid_wer", "valid_cer", "valid_distance", "blank_rate", "output_length")


def results(study: "Study", runs: Sequence["Run"]) -> Results:
    """Read the folders of all `runs` that have been trained."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.axis, run.variant), []).append(run)
    order = [(axis.name, variant) for axis in study.axis for variant in axis.variants]
    return Results(
        train=study.train,
        valid=study.valid,
        epochs=runs[0].recipe.epochs,
        machine=machine(),
        rows=[row(groups[key]) for key in order],
    )


def row(runs: Sequence["Run"]) -> Row:
    """One variant's trainings, a seed each."""
    logs = [read_log(run.folder) for run in runs]
    facts = [json.loads((run.folder / DONE).read_text()) for run in runs]
    cpu_times = [fact["cpu_s"] for fact in facts]  # None where a try was lost
    good = [log for log, fact in zip(logs, facts, strict=True) if not diverged(log, fact["exit_code"])]

    def spread(name: str) -> Spread | None:
        return Spread.of([log[-1][name] for log in good])

    trained = [run.folder for run in runs if (run.folder / LAST).exists()]
    parameters = None
    if trained:
        parameters = sum(p.numel() for p in load_checkpoint(trained[0] / LAST).model().parameters())
    return Row(
        axis=runs[0].axis,
        variant=runs[0].variant,
        set=runs[0].setting.set,
        seeds=len(runs),
        diverged=len(runs) - len(good),
        parameters=parameters,
        wer=spread("valid_wer"),
        cer=spread("valid_cer"),
        distance=spread("valid_distance"),
        loss=spread("valid_loss"),
        train_loss=spread("loss"),
        speaks=Spread.of([epoch for log in good if (epoch := first_words(log)) is not None]),
        epoch_s=_median([entry["seconds"] for log in logs for entry in log]),
        epoch_cpu_s=_median([cpu_s / len(log) for log, cpu_s in zip(logs, cpu_times, strict=True) if log and cpu_s]),
        curves=[[{name: round(entry[name], 5) for name in CURVES} for entry in log] for log in logs],
    )


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def diverged(log: list[dict[str, Any]], exit_code: int) -> bool:
    """Whether a training is one of Row.diverged."""
    if exit_code or not log or not math.isfinite(log[-1]["valid_loss"]):
        return True
    return bool(log[-1]["blank_rate"] > COLLAPSED or log[-1]["valid_loss"] > log[0]["valid_loss"])


def first_words(log: list[dict[str, Any]]) -> int | None:
    """The first epoch that recognised something."""
    return next((entry["epoch"] for entry in log if entry["valid_cer"] < SPOKEN), None)


HEADINGS = (
    "variant", "WER %", "CER %", "distance", "valid loss", "train loss", "speaks in", "diverged", "parameters",
    "s / epoch", "CPU s / epoch",
)  # fmt: skip


def table(found: Results) -> str:
    """Markdown, a section per axis."""
    lines = [f"{found.epochs} epochs of {', '.join(found.train)}; last epoch on {', '.join(found.valid)}."]
    for axis in dict.fromkeys(row.axis for row in found.rows):
        lines += [
            "",
            f"### {axis}",
            "",
            "| " + " | ".join(HEADINGS) + " |",
            "|---" + "|---:" * (len(HEADINGS) - 1) + "|",
        ]
        lines += [_line(row) for row in found.rows if row.axis == axis]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = [
        row.variant,
        _spread(row.wer, 100, 1),
        _spread(row.cer, 100, 1),
        _spread(row.distance, 1, 2),
        _spread(row.loss, 1, 2),
        _spread(row.train_loss, 1, 2),
        "–" if row.speaks is None else f"epoch {row.speaks.mean:.1f}".removesuffix(".0"),
        f"{row.diverged} of {row.seeds}",
        "–" if row.parameters is None else f"{row.parameters / 1000:.0f} k",
        *("–" if seconds is None else f"{seconds:.1f}" for seconds in (row.epoch_s, row.epoch_cpu_s)),
    ]
    return "| " + " | ".join(cells) + " |"


def _spread(spread: Spread | None, scale: float, digits: int) -> str:
    if spread is None:
        return "–"
    deviation = "" if spread.deviation is None else f" ± {spread.deviation * scale:.{digits}f}"
    return f"{spread.mean * scale:.{digits}f}{deviation}"


def plot(found: Results, folder: Path) -> None:
    """AXIS.svg: validation CER and loss over epochs, mean and range of the seeds of each variant."""
    require("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "ds2"  # the same file from the same numbers
    for axis in dict.fromkeys(row.axis for row in found.rows):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        for row in (row for row in found.rows if row.axis == axis):
            _band(left, row, lambda entry: 100 * entry["valid_cer"])
            _band(right, row, lambda entry: entry["valid_loss"])
        left.set(title=axis, xlabel="epoch", ylabel="validation CER (%)", ylim=(0, 105))
        right.set(xlabel="epoch", ylabel="validation loss (nats per utterance)", yscale="log")
        left.legend(frameon=False)
        for panel in (left, right):
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / f"{axis.replace(' ', '-')}.svg", metadata={"Date": None})
        plt.close(figure)


def _band(panel: Any, row: Row, value: Callable[[dict[str, float]], float]) -> None:
    values = columns(row, value)
    epochs = range(1, len(values) + 1)
    (line,) = panel.plot(epochs, [statistics.mean(column) for column in values], marker=".", label=row.variant)
    panel.fill_between(epochs, list(map(min, values)), list(map(max, values)), alpha=0.15, color=line.get_color())


def columns(row: Row, value: Callable[[dict[str, float]], float]) -> list[list[float]]:
    """Of every epoch that all seeds have, their values; one that diverged in its first has none."""
    curves = [curve for curve in row.curves if curve]
    return [list(map(value, epoch)) for epoch in zip(*curves, strict=False)]
