"""One process or many: what `torchrun` sets up, read from its environment variables."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ds2_deploy.errors import ConfigError, TrainingError
from ds2_deploy.runtime.torch_backend import choose_device

ENDED = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "got 0 bytes", "ncclRemoteError")
"""What Gloo, the store of torchrun and NCCL say, among other things, where another process has ended."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Which process this is, of how many, and its device."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """The one that logs and writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, without a gradient; overwrites `values` with it."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def any(self, own: bool) -> bool:
        """Whether it is so in one process or more, on which all agree."""
        return own if self.count == 1 else bool(self.sum(torch.tensor(float(own), device=self.device)))

    def gathered(self, own: Any) -> list[Any]:
        """What every process has, by rank."""
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, own)
        return found

    def broadcast(self, values: Tensor) -> None:
        """Overwrite every process's `values` with the main one's."""
        if self.count > 1:
            dist.broadcast(values, src=0)


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the group that torchrun made, or be alone; `device` is auto, cpu or cuda:N.

    TrainingError where another process of the group ends: this one can do nothing without it.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count > 1 and device.startswith("cuda"):
        raise ConfigError(f"--device {device} would put {count} processes on one GPU: leave it out under torchrun.")
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    chosen = torch.device(choose_device(device))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if count == 1:
        yield Processes(device=chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=chosen)
        dist.barrier()  # none leaves while another still talks to it
    except RuntimeError as error:
        if not any(words in str(error) for words in ENDED):
            raise
        raise TrainingError("Another process of this training has ended; its own line says why.") from error
    finally:
        dist.destroy_process_group()
