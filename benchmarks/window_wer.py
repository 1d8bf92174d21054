"""What a delay buys a network whose backward direction goes by windows: the same weights at other windows, untrained.

    python benchmarks/window_wer.py [MODEL]... [--manifest M.jsonl] [--save]

Windows have no weights, so a bidirectional network can be given any (`model.window`, `model.window_context`). Each
model, `streaming` and `default` where nothing is said, is read on AN4's test set (DS2_DATA), greedily in PyTorch, with
windows of two frames that hear more and more beyond them, then with other windows of the same delay as its own, which
take more or fewer backward steps a frame. One whose normalisation needs the whole recording gets `running` instead, so
that all of it could stream. --save writes benchmarks/results/window_wer.json and draws the curves, window_wer.svg.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from machine import RESULTS, data, machine, save_result
from model_report import measured, recognizer_of, spoken
from running_norm import with_running

from ds2_deploy.extras import require
from ds2_deploy.model.checkpoint import Checkpoint, open_checkpoint

CONTEXTS = (1, 2, 4, 6, 10, 18, 34)
"""Frames that a window of two hears beyond itself."""


def main(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL")] = None,
    manifest: Annotated[Path | None, typer.Option(help="AN4's test set where nothing is said.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/window_wer.json and .svg.")] = False,
) -> None:
    """Count wrong words at each delay."""
    an4 = data() / "an4"
    rows = []
    for model in models or ["streaming", "default"]:
        checkpoint = open_checkpoint(model)
        if checkpoint.metadata.feature.normalization.startswith("utterance"):
            checkpoint = with_running(checkpoint, an4 / "train.jsonl")
        for row in at_each_delay(checkpoint, manifest or an4 / "test.jsonl"):
            rows.append({"model": model, **row})
            print(msgspec.json.encode(rows[-1]).decode(), flush=True)
    if save:
        save_result("window_wer", {"machine": machine(), "rows": rows})
        draw(rows, RESULTS / "window_wer.svg")


def at_each_delay(checkpoint: Checkpoint, manifest: Path) -> list[dict[str, Any]]:
    """A row for each way."""
    metadata = checkpoint.metadata
    texts, audio = spoken(manifest, metadata)
    own = metadata.model.windows
    rows = []
    for window, context in dict.fromkeys([(2, context) for context in CONTEXTS] + same_delay(*own)):
        changed = metadata.with_windows(window, context, "This model")
        recognizer = recognizer_of(Checkpoint(metadata=changed, weights=checkpoint.weights))
        read = measured(recognizer, "an4", "clean", texts, audio)
        rows.append({
            "window": window,
            "window_context": context,
            "own": (window, context) == own,
            "delay_ms": round(1000 * (changed.delay_s or 0)),
            "backward_steps_a_frame": round((window + context) / window, 2),
            **{name: round(getattr(read, name), 5) for name in ("word_errors", "words", "wer", "wer_low", "wer_high")},
        })  # fmt: skip
    return rows


def same_delay(window: int, context: int) -> list[tuple[int, int]]:
    """Windows whose first frame waits for as many; none where there are no windows."""
    frames = window + context
    return [(size, frames - size) for size in (1, 2, 4, frames - 1) if 0 < size < frames]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """WER over delay for windows of two frames, with its intervals; a square is at a network's own windows."""
    plt = require("matplotlib.pyplot")
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for number, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
        curve = [row for row in rows if row["model"] == model and row["window"] == 2]
        curve.sort(key=lambda row: row["delay_ms"])
        rates = [100 * row["wer"] for row in curve]
        ends = [[100 * abs(row[end] - row["wer"]) for row in curve] for end in ("wer_low", "wer_high")]
        delays = [row["delay_ms"] for row in curve]
        axis.errorbar(delays, rates, yerr=ends, marker="o", capsize=3, label=model, color=f"C{number}")
        for row in rows:
            if row["model"] == model and row["own"]:
                axis.plot(row["delay_ms"], 100 * row["wer"], "s", markersize=9, color=f"C{number}")
    axis.set(xlabel="algorithmic delay, ms", ylabel="WER on AN4 test, %", ylim=(1, 100), yscale="log")
    axis.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    axis.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
