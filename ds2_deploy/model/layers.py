"""Layers of DeepSpeech2 that PyTorch does not have, each of them blind to padding.

B batch, C channels, F frequency bins, T frames, D input size, H hidden size. `lengths` (B,) counts valid frames.
Recurrent layers are time-major, (T, B, H): ONNX and TensorRT support nothing else reliably.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ds2_deploy.model.config import Cell, ConvLayer

RNN: dict[Cell, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def time_mask(lengths: Tensor, frames: int) -> Tensor:
    """(B, T) true where a frame belongs to its utterance."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def conv_lengths(lengths: Tensor, kernel: int, stride: int) -> Tensor:
    """`ds2_deploy.model.config.conv_output_length` for a tensor of lengths (B,)."""
    padded = (lengths + (2 * ((kernel - 1) // 2) - kernel + stride)).clamp(min=0)
    return padded // stride * (lengths > 0)


class ClippedReLU(nn.Module):
    """min(max(x, 0), clip), section 3.1 of the paper."""

    def __init__(self, clip: float) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0.0, self.clip)


class SequenceBatchNorm(nn.Module):
    """Batch normalisation over the valid frames of a batch (section 3.2), across all processes.

    `channel_dim` is the axis that keeps its own statistics; `mask` must broadcast against x and be true for valid
    frames. In evaluation it is one multiplication and one addition with the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, channel_dim: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.channel_dim, self.momentum, self.eps = channel_dim, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.training:
            mean, variance = self._batch_statistics(x, mask)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * (variance + self.eps).rsqrt()  # (C,)
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
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp(min=1)
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                finite = torch.where(new.isfinite(), new.to(running.dtype), running)  # one overflow is not for ever
                running.lerp_(finite, self.momentum)
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


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over all processes, with its gradient (a plain all_reduce has none); x itself in a single process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    return _AllReduceSum.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class MaskedConv(nn.Module):
    """Convolution, batch normalisation, clipped ReLU and mask: (B, C, F, T) or, one-dimensional, (B, C, T)."""

    def __init__(self, channels: int, layer: ConvLayer, dims: int, *, batch_norm: bool, clip: float) -> None:
        super().__init__()
        self.time_kernel, self.time_stride = layer.kernel[1], layer.stride[1]
        axes = slice(2 - dims, 2)  # (frequency, time) or time alone
        convolution = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
        self.conv = convolution(
            channels,
            layer.channels,
            layer.kernel[axes],
            layer.stride[axes],
            layer.padding[axes],
            bias=not batch_norm,
        )
        self.norm = SequenceBatchNorm(layer.channels, channel_dim=1) if batch_norm else None
        self.activation = ClippedReLU(clip)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        lengths = conv_lengths(lengths, self.time_kernel, self.time_stride)
        mask = time_mask(lengths, x.shape[-1])  # (B, T)
        mask = mask[:, None, None, :] if x.dim() == 4 else mask[:, None, :]
        if self.norm is not None:
            x = self.norm(x, mask)
        return self.activation(x).masked_fill(~mask, 0.0), lengths


class TimeReversal(nn.Module):
    """Reverse the valid frames of each utterance (T, B, D) and leave its padding where it is."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        t = torch.arange(x.shape[0], device=x.device)[:, None]  # (T, 1)
        source = torch.where(t < lengths, lengths - 1 - t, t)  # (T, B)
        return x.gather(0, source[:, :, None].expand_as(x))


class RecurrentLayer(nn.Module):
    """Batch normalisation, then one or two directions summed, then dropout: (T, B, D) -> (T, B, H).

    The backward direction reads each utterance from its own last frame, never from the padding.
    """

    def __init__(self, cell: Cell, size: int, hidden: int, *, bidirectional: bool, batch_norm: bool, dropout: float):
        super().__init__()
        self.norm = SequenceBatchNorm(size, channel_dim=2) if batch_norm else None
        self.forward_rnn: nn.Module = RNN[cell](size, hidden)
        self.backward_rnn: nn.Module | None = RNN[cell](size, hidden) if bidirectional else None
        self.reversal: nn.Module = TimeReversal()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        if self.norm is not None:
            x = self.norm(x, mask)
        y: Tensor = self.forward_rnn(x)[0]
        if self.backward_rnn is not None:
            backward = self.backward_rnn(self.reversal(x, lengths))[0]
            y = y + self.reversal(backward, lengths)
        return self.dropout(y)  # type: ignore[no-any-return]


class Lookahead(nn.Module):
    """Row convolution (section 3.7): out[t] = sum over j < context of w[j] * x[t + j], one filter per unit.

    x    t   t+1   t+2          context 3: the present frame and two ahead;
          \\   |   /             beyond the end stand zeros
    out      t
    """

    def __init__(self, size: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.conv = nn.Conv1d(size, size, context, groups=size, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` (T, B, H), `mask` (T, B, 1)."""
        x = x.masked_fill(~mask, 0.0).permute(1, 2, 0)  # (B, H, T)
        x = nn.functional.pad(x, (0, self.context - 1))
        return self.conv(x).permute(2, 0, 1)  # type: ignore[no-any-return]


class FullyConnected(nn.Module):
    """Hidden layer: linear, batch normalisation, clipped ReLU, dropout: (T, B, D) -> (T, B, H)."""

    def __init__(self, size: int, hidden: int, *, batch_norm: bool, clip: float, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(size, hidden, bias=not batch_norm)
        self.norm = SequenceBatchNorm(hidden, channel_dim=2) if batch_norm else None
        self.activation = ClippedReLU(clip)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.linear(x)
        if self.norm is not None:
            x = self.norm(x, mask)
        return self.dropout(self.activation(x))  # type: ignore[no-any-return]
