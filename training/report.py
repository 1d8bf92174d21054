"""What a training says: a progress bar on a terminal, a line per epoch for people, log.jsonl for programs."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ds2_deploy.errors import OutputError
from training.data import checked
from training.distributed import Processes
from training.recipe import Recipe

LOG = "log.jsonl"


class Reporter:
    """Talks on stderr and in `out`/log.jsonl; the processes beside the main one are silent."""

    def __init__(self, out: Path, main: bool) -> None:
        self.main, self.log = main, out / LOG
        self.console = Console(stderr=True, quiet=not main, highlight=False, markup=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not (main and self.console.is_terminal),
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.progress.stop()

    def say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True)

    def start(
        self, recipe: Recipe, model: nn.Module, train: int, hours: float, valid: int, processes: Processes
    ) -> None:
        """Make the folder and say what begins: only now, so that a wrong call leaves nothing behind."""
        if self.main:
            try:
                self.log.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"Cannot write the folder {self.log.parent}: {error.strerror}.") from error
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        self.say(
            f"{recipe.name}: {millions:.2f} M parameters, {train} utterances ({hours:.2f} h) to learn from, {valid} to "
            f"validate on, {recipe.precision} on {processes.count} × {processes.device}"
        )

    def steps(self, batches: DataLoader[Any], epoch: int, epochs: int) -> Iterator[Any]:
        """The batches of an epoch, under a progress bar."""
        self.task = self.progress.add_task(f"epoch {epoch}/{epochs}", total=len(batches), loss="")
        yield from checked(batches)
        self.progress.remove_task(self.task)

    def step_done(self, loss: Tensor) -> None:
        if not self.progress.disable:
            self.progress.update(self.task, advance=1, loss=f"{float(loss):.2f}")

    def epoch_done(self, facts: dict[str, Any], *, epochs: int) -> None:
        if not self.main:
            return
        self.say(
            f"epoch {facts['epoch']:>3}/{epochs}  loss {facts['loss']:6.2f}  valid {facts['valid_loss']:6.2f}  "
            f"WER {facts['valid_wer']:6.1%}  CER {facts['valid_cer']:6.1%}  blank {facts['blank_rate']:4.0%}  "
            f"length {facts['output_length']:4.1f}  lr {facts['learning_rate']:.1e}  "
            f"{facts['audio_hours_per_hour']:.0f} h/h  {facts['seconds']:.0f} s{'  best' if facts['best'] else ''}"
        )
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
