"""How many hours of audio a training reads in an hour, and how long it waits for them, beside a plain PyTorch loop.

    python benchmarks/train_throughput.py [NAME ...] [--utterances 212] [--save]

Every recipe with the data and sizes of benchmarks/trials.toml, below DS2_DATA. One epoch of each side in turn, three
times; medians. Ours varies the audio as its recipe says and buckets by length; the loop (benchmarks/plain_loop.py)
does neither. OMP_NUM_THREADS limits both. --save writes benchmarks/results/train_throughput.json, of recipes that are
named with their names after it.
"""

import statistics
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import torch
import typer
from machine import data, machine, part_of, save_result
from plain_loop import plain_epoch
from recipes import TRIALS, Trial

from ds2_deploy.model.checkpoint import load_checkpoint
from training.corpus import survey
from training.recipe import load_recipe
from training.run_folder import LAST, read_log
from training.trainer import train


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe; audio hours per hour of training."""

    recipe: str
    ours: float
    plain: float
    ratio: float
    """Median of the ratios of neighbouring epochs."""
    data_wait: float
    """Share of our epochs spent waiting for a batch."""


def measured(name: str, trial: Trial, train_manifest: Path, utterances: int, rounds: int) -> Throughput:
    """`rounds` of two epochs of ours, of which the second counts, and one of the plain loop's."""
    recipe = load_recipe(name, [*trial.set, "epochs=2", "schedule.name=constant"])
    ours, plain, waits = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            manifest = part_of(train_manifest, utterances, Path(folder) / "train.jsonl")
            valid = part_of(manifest, 1, Path(folder) / "valid.jsonl")  # validation is not measured
            train(recipe, [manifest], [valid], Path(folder) / "run", device="cpu")
            entry = read_log(Path(folder) / "run")[-1]
            metadata = load_checkpoint(Path(folder) / "run" / LAST).metadata
            plain_set = survey([manifest], recipe.language, metadata.alphabet).corpus
            seconds = plain_epoch(recipe, metadata, plain_set)
        ours.append(entry["audio_hours_per_hour"])
        waits.append(entry["data_wait"])
        plain.append(metadata.provenance.audio_hours / (seconds / 3600))
    return Throughput(
        recipe=name,
        ours=round(statistics.median(ours), 1),
        plain=round(statistics.median(plain), 1),
        ratio=round(statistics.median(a / b for a, b in zip(ours, plain, strict=True)), 3),
        data_wait=round(statistics.median(waits), 4),
    )


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Recipes; all where none is named.")] = None,
    utterances: int = 212,
    rounds: int = 3,
    save: Annotated[bool, typer.Option("--save", help="Write below benchmarks/results.")] = False,
) -> None:
    """Measure, print a row per recipe."""
    trials = msgspec.convert(tomllib.loads(TRIALS.read_text(encoding="utf-8")), dict[str, Trial])
    corpora = data()
    print("| recipe | ours, h/h | plain loop, h/h | ratio | waiting for data |\n|---|---:|---:|---:|---:|")
    rows = []
    for name in names or trials:
        row = measured(name, trials[name], corpora / trials[name].train, utterances, rounds)
        rows.append(row)
        print(
            f"| `{name}` | {row.ours:.0f} | {row.plain:.0f} | {row.ratio:.2f} | {row.data_wait:.1%} |",
            flush=True,
        )
    if save:
        threads = torch.get_num_threads()
        save_result(
            "-".join(["train_throughput", *(names or ())]),
            {"machine": machine(), "threads": threads, "rounds": rounds, "rows": rows},
        )


if __name__ == "__main__":
    typer.run(main)
