"""What a training says: a bar on a terminal, a line per epoch for people, log.jsonl and TensorBoard for programs."""

import sys
import time
from collections.abc import Iterator
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ds2_deploy.extras import require
from ds2_deploy.text.languages import Metric, language_named
from training.data import Batch, checked
from training.distributed import Processes
from training.precision import bf16_is_fast, has_tf32
from training.recipe import Recipe
from training.run_folder import RunFolder

SCALARS = ("loss", "valid_loss", "valid_wer", "valid_cer", "blank_rate", "output_length", "learning_rate", "data_wait")


class _Console(Console):
    """Whoever read along may have left: a training goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Reporter:
    """Talks on stderr and in the run's log; the processes beside the main one only warn."""

    def __init__(self, folder: RunFolder, main: bool, tensorboard: bool) -> None:
        self.main, self.folder = main, folder
        self.metric: Metric = "WER"
        self.console = _Console(stderr=True, force_terminal=sys.stderr.isatty(), highlight=False, markup=False)
        if tensorboard:
            require("tensorboard")
        self.wants_tensorboard = tensorboard
        self.tensorboard: _Tensorboard | None = None
        self.waited_s = 0.0
        """Of the present epoch, spent on waiting for a batch."""
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

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def say(self, sentence: str) -> None:
        if self.main:
            self.warn(sentence)

    def warn(self, sentence: str) -> None:
        """From any process."""
        self.console.print(sentence, soft_wrap=True)

    def start(
        self, recipe: Recipe, model: nn.Module, train: int, hours: float, valid: int, processes: Processes
    ) -> None:
        """Say what begins, in a folder that is this training's."""
        if self.main and self.wants_tensorboard:
            self.tensorboard = _Tensorboard(self.folder)
        self.metric = language_named(recipe.language).metric
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        self.say(
            f"{recipe.name}: {millions:.2f} M parameters, {train} utterances ({hours:.2f} h) to learn from, {valid} to "
            f"validate on, {recipe.precision} on {processes.count} × {processes.device}"
        )
        if recipe.teacher:
            self.say(
                f"Teacher: {recipe.teacher.model}, with a share of {recipe.teacher.share:g} in the loss; answers come "
                f"{recipe.teacher.later_frames} frames after its own"
            )
        device = "GPU" if processes.device.type == "cuda" else "processor"
        if recipe.precision == "bf16" and not bf16_is_fast(processes.device):
            self.say(f"This {device} multiplies bf16 no faster than fp32: --set precision=fp32 may be faster.")
        if recipe.precision == "fp16" and processes.device.type != "cuda":
            self.say("Processors compute fp16 many times slower than fp32: --set precision=fp32 is for them.")
        if recipe.precision == "tf32" and not has_tf32(processes.device):
            self.say(f"This {device} has no TF32 and computes in fp32.")

    def batches(self, loader: DataLoader[Any], epoch: int, epochs: int, done: int, waited_s: float) -> Iterator[Batch]:
        """The batches of an epoch under a progress bar; `done` were learnt before, of which the wait was `waited_s`."""
        self.task = self.progress.add_task(
            f"epoch {epoch}/{epochs}", total=len(loader.sampler), completed=done, loss=""  # type: ignore[arg-type]
        )  # fmt: skip
        self.waited_s = waited_s
        source = checked(loader)
        while True:
            started = time.perf_counter()
            batch = next(source, None)
            self.waited_s += time.perf_counter() - started
            if batch is None:
                break
            yield batch
        self.progress.remove_task(self.task)

    def step_done(self, batches: int, losses: Tensor) -> None:
        if not self.progress.disable:
            if len(losses):
                self.progress.update(self.task, loss=f"{float(losses.mean()):.2f}")
            self.progress.update(self.task, advance=batches)

    def saved(self, epoch: int, epochs: int, batch: int, batches: int, loss: float) -> None:
        """A sign of life inside an epoch, where no bar gives one: in a file, or in what Slurm keeps of a job."""
        if self.progress.disable:
            self.say(f"epoch {epoch:>3}/{epochs}  loss {loss:6.2f}  after {batch} of {batches} batches, saved")

    def rates(self, wer: float, cer: float) -> str:
        """The language's own first; phonemes are what words are elsewhere."""
        words, characters = f"{'PER' if self.metric == 'PER' else 'WER'} {wer:6.1%}", f"CER {cer:6.1%}"
        return "  ".join((characters, words) if self.metric == "CER" else (words, characters))

    def epoch_done(self, facts: dict[str, Any], *, epochs: int, left_s: float = 0.0) -> None:
        """In epoch 0 nothing was learnt yet."""
        if not self.main:
            return
        loss, learning = " " * 13, "as it begins"
        if facts["epoch"]:
            loss = f"  loss {facts['loss']:6.2f}"
            learning = (
                f"lr {facts['learning_rate']:.1e}  {facts['audio_hours_per_hour']:.0f} h/h  "
                f"wait {facts['data_wait']:.0%}  {facts['seconds']:.0f} s  {_hours(left_s)} left"
            )
        self.say(
            f"epoch {facts['epoch']:>3}/{epochs}{loss}  valid {facts['valid_loss']:6.2f}  "
            f"{self.rates(facts['valid_wer'], facts['valid_cer'])}  "
            f"blank {facts['blank_rate']:4.0%}  "
            f"length {facts['output_length']:4.1f}  {learning}{'  best' if facts['best'] else ''}"
        )
        self.folder.append_log(facts)
        if self.tensorboard is not None:
            self.tensorboard.epoch_done(facts)


class _Tensorboard:
    """Event files in the run's folder `tensorboard`: scalars, and the sample transcripts as text."""

    def __init__(self, folder: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder.path / "tensorboard"))

    def epoch_done(self, facts: dict[str, Any]) -> None:
        for name in filter(facts.__contains__, SCALARS):
            self.writer.add_scalar(name, facts[name], facts["epoch"])
        table = "\n".join(f"| {reference} | {text} |" for reference, text in facts["samples"])
        self.writer.add_text("transcripts", f"| said | heard |\n|---|---|\n{table}", facts["epoch"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"
