"""Learner: the network, its optimizer and one step of both."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, AdamW, Optimizer

from ds2_deploy.model.deepspeech2 import DeepSpeech2
from training.data import Batch
from training.distributed import Processes
from training.precision import is_scaled
from training.recipe import OptimizerConfig, Recipe
from training.schedules import Schedule
from training.step import TrainingStep
from training.teacher import Teacher


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Matrices decay; biases, normalisation and other vectors do not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True)
    adaptive = AdamW if config.name == "adamw" else Adam
    return adaptive(groups, lr=config.learning_rate)


class Learner:
    """Takes optimizer steps; the same on every process, since gradients are averaged before each."""

    def __init__(
        self,
        model: DeepSpeech2,
        recipe: Recipe,
        epoch_steps: int,
        processes: Processes,
        teacher: Teacher | None,
    ) -> None:
        self.model, self.processes = model, processes
        self.clip_norm = recipe.optimizer.clip_norm
        step = TrainingStep(model, recipe.precision, recipe.augment, teacher)
        self.losses: nn.Module = step
        if processes.count > 1:  # buffers are constants, or statistics that are equal everywhere
            with warnings.catch_warnings():  # torch 2.13 has a new name for it, and 2.10 has not
                warnings.simplefilter("ignore", FutureWarning)
                self.losses = DistributedDataParallel(step, broadcast_buffers=False)
        self.optimizer = make_optimizer(model, recipe.optimizer)
        self.schedule = Schedule(recipe.schedule, self.optimizer, epoch_steps, recipe.epochs)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=is_scaled(recipe.precision, processes.device))
        self.overflows = False
        """Whether the last step that was left out had finite losses, so that their scale was at fault."""

    def learn(
        self, batches: Sequence[Batch], utterances: int, windows: tuple[int, int] | None = None
    ) -> tuple[Tensor, bool]:
        """One step on the gradients of all `batches`, which hold `utterances` over all processes.

        `windows` are others than the network's own (TrainingStep.forward).

        Returns the losses (B,) of this process's utterances and whether the step was taken: one whose gradient is not
        finite is left out, on every process.
        """
        found = []
        for batch in batches:
            with self._averaging(batch is batches[-1]):
                losses = self.losses(batch.to(self.processes.device), windows)  # (B,)
                # Sum over utterances / utterances of the step, over all processes; DDP has divided by their number.
                self.scaler.scale(losses.sum() * (self.processes.count / utterances)).backward()
            found.append(losses.detach())
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        taken = bool(norm.isfinite())
        if taken:
            self.scaler.step(self.optimizer)
            self.schedule.step()  # counts the steps that were taken
        losses = torch.cat(found)
        # A loss that was not finite before it was scaled is no scale's fault: halving it for each would end it.
        if not taken:
            self.overflows = not self._any_is_not_finite(losses)
        self.scaler.update(None if taken or self.overflows else self.scaler.get_scale())
        self.optimizer.zero_grad(set_to_none=True)
        return losses, taken

    def _any_is_not_finite(self, losses: Tensor) -> bool:
        """Of any process's, so that all keep one scale."""
        return bool(self.processes.sum((~losses.isfinite()).sum()))

    @property
    def seeks_scale(self) -> bool:
        """Whether steps may have been left out because losses are still scaled by too much: it halves with each."""
        return self.scaler.is_enabled() and self.overflows and self.scaler.get_scale() >= 1

    def _averaging(self, wanted: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged over processes once a step, with its last batch."""
        if isinstance(self.losses, DistributedDataParallel) and not wanted:
            return self.losses.no_sync()
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # else it begins anew, as in a first epoch: nothing was scaled before
            self.scaler.load_state_dict(state["scaler"])
