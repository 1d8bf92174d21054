"""How the learning rate changes: a share of the highest, counted in optimizer steps, never in steps of all processes.

A new schedule is a function of how far the training has come and a line in SHARES.
"""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from training.recipe import ScheduleConfig

Share = Callable[[ScheduleConfig, float, int], float]
"""(config, share of the steps after the warm-up that are taken, epochs since it) -> share of the highest rate."""

SHARES: dict[str, Share] = {
    "constant": lambda config, progress, epochs: 1.0,
    "plateau": lambda config, progress, epochs: 1.0,  # times what Schedule.epoch_done has found
    "cosine": lambda config, progress, epochs: (1 + math.cos(math.pi * progress)) / 2,  # Loshchilov and Hutter 2017
    "polynomial": lambda config, progress, epochs: (1 - progress) ** config.power,
    "exponential": lambda config, progress, epochs: config.decay**epochs,  # the paper's annealing, section 6
}


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate: up from 1/25 along half a cosine, then down to 1/250,000 (Smith 2018)."""
    lowest, last = 1 / 25, 1 / 250_000
    rising = warmup * steps
    if step < rising:
        start, end, phase = lowest, 1.0, step / rising
    else:
        start, end, phase = 1.0, last, (step - rising) / max(steps - rising, 1)
    return end + (start - end) * (1 + math.cos(math.pi * min(phase, 1.0))) / 2


class Schedule:
    """Sets the learning rate of `optimizer` before each of its `epochs` times `epoch_steps` steps."""

    def __init__(self, config: ScheduleConfig, optimizer: Optimizer, epoch_steps: int, epochs: int) -> None:
        self.config, self.optimizer = config, optimizer
        self.epoch_steps, self.steps = epoch_steps, epochs * epoch_steps
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]
        self.taken = 0
        """Optimizer steps taken."""
        self.reduction, self.stale = 1.0, 0
        """Of `plateau`: the factor so far, and the epochs since a better one."""
        self._apply()

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        """A step was taken."""
        self.taken += 1
        self._apply()

    def epoch_done(self, better: bool) -> None:
        """Whether an epoch was better than those before it, or had a lower loss: a row of others lowers the rate."""
        self.stale = 0 if better else self.stale + 1
        if self.config.name == "plateau" and self.stale > self.config.patience:
            self.reduction, self.stale = self.reduction * self.config.decay, 0
            self._apply()

    def share(self, step: int) -> float:
        """The share of the highest rate that step number `step`, from 0, is taken with."""
        config = self.config
        if config.name == "one_cycle":
            return one_cycle(step, self.steps, config.warmup)
        rising = config.warmup * self.steps
        if step < rising:
            return (step + 1) / (rising + 1)
        progress = min((step - rising) / max(self.steps - rising, 1), 1.0)
        epochs = int((step - rising) // self.epoch_steps)
        return self.reduction * SHARES[config.name](config, progress, epochs)

    def _apply(self) -> None:
        share = self.share(self.taken)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * share

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("taken", "reduction", "stale")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._apply()
