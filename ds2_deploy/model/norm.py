"""Batch normalisation blind to padding, with statistics over all processes (arXiv 1512.02595, section 3.2)."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

MOMENTUM = 0.1
"""How far running statistics move towards those of a batch."""
EPS = 1e-5
"""Added to every variance."""


class Affine(NamedTuple):
    """A batch norm in evaluation: x becomes `scale` x + `shift`, (C,) in float64."""

    scale: Tensor
    shift: Tensor

    def after(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Of the affine map (C, ...), (C,) that comes before this norm and takes it over."""
        return weight * self.scale.view(-1, *[1] * (weight.dim() - 1)), bias * self.scale + self.shift

    def before(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Of the matrix (D, C) and bias (D,) that come behind it: W (s x + t) + b = (W s) x + (W t + b)."""
        return weight * self.scale, bias + weight @ self.shift


class BatchNorm(nn.Module):
    """What every batch norm learns: a scale and a shift per channel, and running statistics for evaluation."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    @torch.no_grad()
    def learn(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics towards those of a batch (C,), found over `count` values."""
        unbiased = variance * count / (count - 1).clamp(min=1)
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            finite = torch.where(new.isfinite(), new.to(running.dtype), running)  # one overflow is not for ever
            running.lerp_(finite, MOMENTUM)

    def affine(self) -> Affine:
        """What it does in evaluation."""
        scale = self.weight.double() * (self.running_var.double() + EPS).rsqrt()
        return Affine(scale, self.bias.double() - self.running_mean.double() * scale)


def freeze_norm(model: nn.Module) -> None:
    """Until the next `model.train()`, batch normalisation uses its running statistics and leaves them alone."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.eval()


class SequenceBatchNorm(BatchNorm):
    """Batch normalisation over the valid frames of a batch (section 3.2), across all processes.

    `channel_dim` is the axis that keeps its own statistics; `mask` must broadcast against x and be true for valid
    frames. In evaluation it is one multiplication and one addition with the running statistics.
    """

    def __init__(self, channels: int, channel_dim: int) -> None:
        super().__init__(channels)
        self.channel_dim = channel_dim

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.training:
            mean, variance = self._batch_statistics(x, mask)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * (variance + EPS).rsqrt()  # (C,)
        shift = self.bias - mean * scale
        shape = [1] * x.dim()
        shape[self.channel_dim] = -1
        # in float32 also under AMP: in half precision the sum would cancel
        return (x.to(scale.dtype) * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _batch_statistics(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.channel_dim % x.dim()
        axes = [d for d in range(x.dim()) if d != channels]
        x = x.float() if x.dtype != torch.float64 else x
        per_frame = x.numel() // (x.shape[channels] * mask.numel())  # values of one channel under one mask entry
        count = all_reduce_sum((mask.sum() * per_frame).to(x.dtype)).clamp(min=1)
        mean = all_reduce_sum(torch.where(mask, x, 0.0).sum(axes)) / count
        shape = [1] * x.dim()
        shape[channels] = -1
        centred = torch.where(mask, x - mean.view(shape), 0.0)
        variance = all_reduce_sum(centred.square().sum(axes)) / count
        self.learn(mean, variance, count)
        return mean, variance


class _AllReduceSum(torch.autograd.Function):
    """Every process's output depends on every process's input, so the gradients are summed over processes, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradient)


def several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over all processes, with its gradient (a plain all_reduce has none); x itself in a single process."""
    if not several_processes():
        return x
    return _AllReduceSum.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def all_reduce_max(number: int, device: torch.device) -> int:
    """The largest over all processes; the number itself in a single process."""
    if not several_processes():
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)
