"""Each recipe from data to a transcript: trained for some minutes, exported with its parity check, and used.

    python benchmarks/recipes.py [NAME ...] --work DIR [--save]

The data and the sizes are those of benchmarks/trials.toml, below DS2_DATA; the commands are those of a user and are
printed. A training that is finished is not repeated. --save writes benchmarks/results/recipes.json and recipes.md.
"""

import json
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from machine import RESULTS, data, machine, save_result

from ds2_deploy.manifest import read_manifest
from ds2_deploy.model.checkpoint import load_checkpoint
from ds2_deploy.text.languages import language_named, normalize
from training.recipe import load_recipe
from training.run_folder import BEST, LAST, read_log

TRIALS = Path(__file__).parent / "trials.toml"


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe's data and its changes for this machine."""

    train: str
    valid: str
    set: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one recipe."""

    recipe: str
    parameters: int
    epochs: int
    minutes: float
    """Of all epochs' training, without validation."""
    first_loss: float
    """Nats per training utterance."""
    last_loss: float
    metric: str
    error: float
    """Of the best epoch on the validation set."""
    parity_fp32: float
    """Largest difference of log probabilities between PyTorch and the exported graph."""
    parity_fp16: float
    said: str
    heard: str
    commands: list[str]


class Shell:
    """Runs `ds2` as a user would and keeps the commands."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def ds2(self, *arguments: object) -> str:
        words = ["ds2", *map(str, arguments)]
        self.commands.append(shlex.join(words))
        print(f"$ {self.commands[-1]}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "ds2_deploy", *words[1:]]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tried(name: str, trial: Trial, corpora: Path, work: Path) -> Outcome:
    """Train, export, transcribe the middle one of the validation utterances."""
    shell, run, model = Shell(), work / name / "run", work / name / "model"
    changes = [part for change in trial.set for part in ("--set", change)]
    recipe = load_recipe(name, list(trial.set))
    resume = ["--resume"] if (run / LAST).exists() else []
    manifests = ["--train", corpora / trial.train, "--valid", corpora / trial.valid]
    shell.ds2("train", name, *manifests, "--out", run, *changes, *resume)
    shell.ds2("export", run / BEST, "--out", model, "--precision", "both", "--overwrite")
    utterances = read_manifest(corpora / trial.valid)
    utterance = utterances[len(utterances) // 2]
    heard = shell.ds2("transcribe", utterance.path, "--model", model).strip()
    log, parity = read_log(run), json.loads((model / "parity.json").read_text())
    metric = language_named(recipe.language).metric
    best = [entry for entry in log if entry["best"]][-1]
    return Outcome(
        recipe=name,
        parameters=sum(p.numel() for p in load_checkpoint(run / BEST).model().parameters()),
        epochs=len(log),
        minutes=round(sum(entry["seconds"] for entry in log) / 60, 2),
        first_loss=round(log[0]["loss"], 3),
        last_loss=round(log[-1]["loss"], 3),
        metric=metric,
        error=round(best["valid_cer" if metric == "CER" else "valid_wer"], 5),
        parity_fp32=_largest(parity, "fp32"),
        parity_fp16=_largest(parity, "fp16"),
        said=normalize(utterance.text, recipe.language),
        heard=heard,
        commands=[command.replace(str(work), "WORK").replace(str(corpora), "$DS2_DATA") for command in shell.commands],
    )


def _largest(parity: dict[str, Any], precision: str) -> float:
    return max(float(d["max_abs"]) for d in parity["differences"] if d["precision"] == precision)


def table(outcomes: list[Outcome]) -> str:
    lines = [
        "| recipe | parameters | epochs | minutes | loss, first to last epoch | error on validation "
        "| parity FP32 / FP16 | said | heard |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    lines += [
        f"| `{o.recipe}` | {o.parameters / 1e6:.2f} M | {o.epochs} | {o.minutes:.1f} | {o.first_loss:.1f} to "
        f"{o.last_loss:.1f} | {o.metric} {o.error:.1%} | {o.parity_fp32:.0e} / {o.parity_fp16:.0e} | {o.said} "
        f"| {o.heard} |"
        for o in outcomes
    ]
    return "\n".join(lines) + "\n"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Recipes; all where none is named.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for trainings and models.")] = Path("runs/recipes"),
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/recipes.json and .md.")] = False,
) -> None:
    """Try recipes one after the other."""
    trials = msgspec.convert(tomllib.loads(TRIALS.read_text(encoding="utf-8")), dict[str, Trial])
    corpora = data()
    outcomes = []
    for name in names or trials:
        started = time.perf_counter()
        outcomes.append(tried(name, trials[name], corpora, work.absolute()))
        print(f"{name}: {time.perf_counter() - started:.0f} s in all", file=sys.stderr, flush=True)
    print(table(outcomes))
    if save:
        save_result("recipes", {"machine": machine(), "outcomes": outcomes})
        (RESULTS / "recipes.md").write_text(table(outcomes), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
