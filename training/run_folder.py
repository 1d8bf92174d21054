"""RunFolder: the files of one training, each whole or absent.

last.pt         where --resume goes on from: after each epoch, and inside one every few minutes
recipe.toml     the recipe as it is used
best.pt         the best epoch
epoch-0012.pt   the other best ones, where `selection.keep` asks for several
average.pt      the mean of their weights, once the training ends
log.jsonl       an object a line for every epoch; 0 is the weights that --init-from began with
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ds2_deploy.errors import DS2Error, OutputError, TrainingError
from ds2_deploy.files import atomic_path
from ds2_deploy.locking import alone_with
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint
from training.distributed import Processes
from training.recipe import WRITTEN, Recipe, to_toml

BEST, LAST, AVERAGE, LOG, RECIPE = "best.pt", "last.pt", "average.pt", "log.jsonl", "recipe.toml"


class RunFolder:
    """`path` need not exist before it is `taken`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best, self.last, self.average, self.log = (path / name for name in (BEST, LAST, AVERAGE, LOG))
        self.recipe = path / RECIPE

    def check_free(self) -> None:
        """TrainingError where a training lies here already; one stopped before its first checkpoint left nothing."""
        if self.best.exists() or self.last.exists() or len(read_log(self.path)) > 1:  # an epoch is logged, then saved
            raise TrainingError(
                f"{self.path} already holds a training: add --resume to go on with it, or choose another --out."
            )

    @contextmanager
    def taken(self, processes: Processes, resume: bool) -> Iterator[None]:
        """Make the folder and hold it, so that no other training writes there; every process hears why it cannot be.

        Only when all else is ready: a wrong call leaves nothing behind.
        """
        refusal: DS2Error | None = None
        with ExitStack() as held:
            try:
                if processes.main:
                    self.create()
                    held.enter_context(alone_with(self.path, f"training in {self.path}"))
                    if not resume:
                        self.check_free()
            except DS2Error as error:
                refusal = error
            if refusal := processes.gathered(refusal)[0]:
                raise refusal
            yield

    def create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise OutputError(f"{self.path} is not a folder: choose another --out.") from error
        except OSError as error:
            raise OutputError(f"Cannot write the folder {self.path}: {error.strerror}.") from error

    def saved(self) -> Checkpoint:
        """Where a training goes on from."""
        if not self.last.is_file():
            raise TrainingError(f"There is no {self.last} to go on from: leave --resume out to begin.")
        checkpoint = load_checkpoint(self.last)
        if not all(isinstance(checkpoint.training.get(name), dict) for name in ("recipe", "learner", "position")):
            raise TrainingError(
                f"{self.last} holds no training to go on from: begin anew with --init-from {self.last}."
            )
        return checkpoint

    def write_recipe(self, recipe: Recipe) -> None:
        """For people, and for `ds2 train`; a file of that name which somebody else wrote stays as it is."""
        if not self.recipe.exists() or self.wrote(self.recipe):
            with atomic_path(self.recipe) as temporary:
                temporary.write_text(to_toml(recipe), encoding="utf-8")

    def wrote(self, path: Path) -> bool:
        """Whether a recipe is the one that `write_recipe` wrote here."""
        own = path.exists() and self.recipe.exists() and self.recipe.samefile(path)
        return own and self.recipe.read_bytes().startswith(WRITTEN.encode())

    def keep_overrides(self, overrides: Sequence[str]) -> None:
        """In last.pt, where there is one: a training that ends before its next save is resumed with them, too."""
        if self.last.exists() and (saved := self.saved()).training.get("set") != overrides:
            saved.training["set"] = list(overrides)
            saved.save(self.last)

    def epoch_file(self, epoch: int) -> Path:
        return self.path / f"epoch-{epoch:04d}.pt"

    def append_log(self, facts: dict[str, Any]) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts, ensure_ascii=False) + "\n")

    def find_best(self, epoch: int, best: int) -> None:
        """Of a training that was killed between its first two checkpoints, the last is the best, too."""
        if epoch == best and not self.best.exists():
            with atomic_path(self.best) as temporary:
                shutil.copyfile(self.last, temporary)

    def cut_log(self, epochs: int) -> None:
        """Forget what was logged after the first `epochs` epochs: they will come again."""
        entries = [entry for entry in read_log(self.path) if entry["epoch"] <= epochs]
        with atomic_path(self.log) as temporary:
            temporary.write_text(
                "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8"
            )

    def average_weights(self, epochs: Sequence[int]) -> dict[str, Tensor]:
        """The mean of these epochs' weights (Izmailov et al. 2018, over the best epochs)."""
        return mean_weights([load_checkpoint(self.epoch_file(epoch)).weights for epoch in epochs], [1] * len(epochs))

    def save(self, checkpoint: Checkpoint, epoch: int, *, best: bool, kept: Sequence[int]) -> None:
        """After an epoch: `kept` are the epochs whose checkpoints stay beside the best and the last one."""
        if epoch in kept:
            checkpoint.save(self.epoch_file(epoch))
        files = [self.best, self.last] if best else [self.last]
        if not self.last.exists():  # then that first, so that a training killed in between can be resumed
            files.reverse()
        for file in files:
            checkpoint.save(file)
        for file in self.path.glob("epoch-*.pt"):  # only now: last.pt knows what to do without them
            if file not in {self.epoch_file(number) for number in kept}:
                file.unlink()


def mean_weights(weights: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The mean of networks' weights, each with its share, added up in float64."""
    total = sum(shares)
    return {
        name: (
            sum((share * w[name].double() for share, w in zip(shares, weights, strict=True)), torch.zeros(())) / total
        ).to(first.dtype)
        for name, first in weights[0].items()
    }


def read_log(path: Path) -> list[dict[str, Any]]:
    """The epochs of a training folder, as logged; a last line that a kill cut short is left out."""
    if not (path / LOG).exists():
        return []
    *lines, _ = (path / LOG).read_bytes().split(b"\n")
    return [_entry(line, path / LOG, number) for number, line in enumerate(lines, 1) if line]


def _entry(line: bytes, log: Path, number: int) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(line)
        if not isinstance(entry["epoch"], int):
            raise TypeError("epochs are compared")
    except (ValueError, LookupError, TypeError) as error:
        raise TrainingError(f"{log} is damaged: line {number} is no epoch; take it out to go on.") from error
    return entry
