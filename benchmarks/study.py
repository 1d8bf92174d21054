"""A study: trainings that differ in one thing at a time, several seeds each, as one table with plots.

    python benchmarks/study.py benchmarks/studies/headline.toml --work DIR [--jobs 2] [--save]

A study is a TOML file: a recipe, manifests, changes common to all trainings, and axes with a list of changes for each
variant (class Study). Every training is a `ds2 train` of its own in a folder below --work: one that was killed goes
on where it was, a finished one is only read again, and variants that come to the same training share it. Relative
manifests lie below DS2_DATA. --save writes benchmarks/results/study-NAME/: results.json, table.md and a plot per axis.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer
from machine import RESULTS, part_of
from study_report import DONE, plot, results, table

from ds2_deploy.errors import ConfigError, DS2Error, TrainingError
from training.recipe import Recipe, load_recipe, to_toml
from training.run_folder import LAST
from training.trainer import DIVERGED

CPU = "cpu.json"
"""In a training's folder: processor seconds of each try."""


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value of what an axis changes."""

    set: tuple[str, ...] = ()
    """Overrides of the recipe, as for `ds2 train --set`."""
    processes: int = 1
    """Under torchrun, with one thread each."""
    utterances: int | None = None
    """Only as many of the training set, evenly spread over it; None: all."""


class Axis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question."""

    name: str
    variants: dict[str, Variant]
    seeds: tuple[int, ...] = (1,)


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study's TOML file holds."""

    recipe: str
    """A .toml file beside the study, or the name of a bundled recipe."""
    train: tuple[str, ...]
    """Manifests, below DS2_DATA unless absolute."""
    valid: tuple[str, ...]
    axis: tuple[Axis, ...]
    set: tuple[str, ...] = ()
    """Overrides common to all."""


class Run(NamedTuple):
    """One training of a study."""

    axis: str
    variant: str
    seed: int
    recipe: Recipe
    setting: Variant
    folder: Path


def read_study(path: Path) -> Study:
    """ConfigError names the file and the field that is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Study)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"Cannot read the study {path}: {error}.") from error


def planned(study: Study, path: Path, work: Path) -> list[Run]:
    """Every training of `study`, the first seeds first; a folder is named by what its training depends on."""
    beside = path.parent / study.recipe
    source = str(beside) if beside.is_file() else study.recipe
    runs = []
    for axis in study.axis:
        for name, variant in axis.variants.items():
            for seed in axis.seeds:
                recipe = load_recipe(source, [*study.set, *variant.set, f"seed={seed}"])
                settled = (msgspec.to_builtins(recipe), variant.processes, variant.utterances, study.train, study.valid)
                key = hashlib.sha256(json.dumps(settled, sort_keys=True).encode()).hexdigest()[:12]
                runs.append(Run(axis.name, name, seed, recipe, variant, work / key))
    return sorted(runs, key=lambda run: run.seed)


class Runner:
    """Trains what is not trained yet, in subprocesses of `threads` threads."""

    def __init__(self, study: Study, work: Path, threads: int) -> None:
        self.study, self.work, self.threads = study, work, threads
        self.lock = threading.Lock()

    def run(self, run: Run) -> None:
        """Leave a finished training in the run's folder, or note there that it diverged."""
        if (run.folder / DONE).exists():
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        spent = cpu_spent(run.folder)
        (run.folder / CPU).write_text(json.dumps([*spent, None]))  # until the training has ended, nobody knows
        started = time.perf_counter()
        with (run.folder / "stderr.txt").open("ab") as stderr:
            begin = stderr.tell()
            process = subprocess.Popen(self.command(run), stderr=stderr, env=self.environment())
            _, status, usage = os.wait4(process.pid, 0)  # with the processor time of its workers
        process.returncode = os.waitstatus_to_exitcode(status)
        spent.append(usage.ru_utime + usage.ru_stime)
        (run.folder / CPU).write_text(json.dumps(spent))
        facts = {
            "exit_code": process.returncode,
            "cpu_s": None if None in spent else sum(filter(None, spent)),
            "wall_s": time.perf_counter() - started,
        }
        said = (run.folder / "stderr.txt").read_bytes()[begin:].decode(errors="replace").strip()
        diverged = process.returncode == 1 and DIVERGED in said  # not killed, nor out of memory or disk
        if process.returncode == 0 or diverged:
            (run.folder / DONE).write_text(json.dumps(facts))
        last = said.split("\n")[-1]
        with self.lock:
            print(f"{run.axis} = {run.variant}, seed {run.seed}, {facts['wall_s']:.0f} s: {last}", flush=True)

    def command(self, run: Run) -> list[str]:
        recipe = run.folder / "recipe.toml"
        recipe.write_text(to_toml(run.recipe), encoding="utf-8")
        launcher = [sys.executable, "-m"]
        if run.setting.processes > 1:
            torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={run.setting.processes}", "-m"]
            launcher += torchrun
        manifests = [
            *(part for m in self.study.train for part in ("--train", str(self.manifest(m, run.setting.utterances)))),
            *(part for m in self.study.valid for part in ("--valid", str(self.manifest(m, None)))),
        ]
        resume = ["--resume"] if (run.folder / LAST).exists() else []
        return [*launcher, "ds2_deploy", "train", str(recipe), *manifests, "--out", str(run.folder), *resume]

    def environment(self) -> dict[str, str]:
        return os.environ | {"OMP_NUM_THREADS": str(self.threads)}

    def manifest(self, name: str, utterances: int | None) -> Path:
        """The manifest's path; of a copy with fewer lines where only some are wanted."""
        path = Path(os.environ.get("DS2_DATA", "."), name).absolute()
        if utterances is None:
            return path
        name = f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}-{utterances}.jsonl"
        return part_of(path, utterances, self.work / name)


def cpu_spent(folder: Path) -> list[float | None]:
    """Processor seconds of each earlier try of a training; None of one of which nobody knows."""
    if (folder / CPU).exists():
        return list(json.loads((folder / CPU).read_text()))
    return [None] if (folder / LAST).exists() else []


def main(
    study: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    work: Annotated[Path, typer.Option(help="Folder for the trainings.")],
    jobs: Annotated[int, typer.Option(help="Trainings at a time.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each.", min=1)] = 1,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/study-NAME/.")] = False,
) -> None:
    """Train, read and tabulate."""
    try:
        wanted = read_study(study)
        runs = planned(wanted, study, work)
        runner = Runner(wanted, work, threads)
        distinct = list({run.folder: run for run in reversed(runs)}.values())[::-1]
        print(f"{len(runs)} variants and seeds, {len(distinct)} trainings", flush=True)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(runner.run, distinct))
        if missing := sum(not (run.folder / DONE).exists() for run in distinct):
            raise TrainingError(
                f"{missing} of {len(distinct)} trainings are not finished: the same call tries them again."
            )
        found = results(wanted, runs)
    except DS2Error as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    print(table(found))
    if save:
        folder = RESULTS / f"study-{study.stem}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
        (folder / "table.md").write_text(table(found), encoding="utf-8")
        plot(found, folder)


if __name__ == "__main__":
    typer.run(main)
