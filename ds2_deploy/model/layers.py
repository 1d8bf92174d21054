"""Layers of DeepSpeech2 that PyTorch does not have, each of them blind to padding.

B batch, C channels, F frequency bins, T frames, D input size, H hidden size. `lengths` (B,) counts valid frames.
Recurrent layers are time-major, (T, B, H): ONNX and TensorRT support nothing else reliably.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ds2_deploy.model.cells import StepNorm, new_rnn
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.model.norm import SequenceBatchNorm


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


def same_padded(x: Tensor, lengths: Tensor, layer: ConvLayer) -> Tensor:
    """(B, C, F, T) or (B, C, T) with the zeros of TensorFlow's "same", by each row's own length in time.

    kernel 3, stride 2, length 5    |0 x x|
                                        |x x x|       and 4    |x x x|
                                            |x x 0|                |x x 0|
    """
    bins, frames = layer.padding
    if x.dim() == 4:
        fewer = int(layer.stride[0] == 2 and bins > 0 and x.shape[2] % 2 == 0)
        x = nn.functional.pad(x, (0, 0, bins - fewer, bins))
    x = nn.functional.pad(x, (frames, frames + 1))
    if layer.stride[1] == 1 or frames == 0:
        return x[..., :-1]
    even = (lengths % 2 == 0).view(-1, *[1] * (x.dim() - 1))
    return torch.where(even, x[..., 1:], x[..., :-1])


class MaskedConv(nn.Module):
    """Convolution, batch normalisation, clipped ReLU, shortcut and mask: (B, C, F, T) or, one-dimensional, (B, C, T).

    The kernel's sizes being odd, the shortcut of a residual convolution adds the input at the kernel's middle.
    """

    def __init__(self, channels: int, layer: ConvLayer, config: ModelConfig) -> None:
        super().__init__()
        dims, batch_norm = config.conv_dims, config.batch_norm
        self.time_kernel, self.time_stride = layer.kernel[1], layer.stride[1]
        self.same = layer if layer.same else None
        axes = slice(2 - dims, 2)  # (frequency, time) or time alone
        convolution = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
        self.conv = convolution(
            channels,
            layer.channels,
            layer.kernel[axes],
            layer.stride[axes],
            0 if layer.same else layer.padding[axes],
            bias=not batch_norm,
        )
        self.norm = SequenceBatchNorm(layer.channels, channel_dim=1) if batch_norm else None
        self.activation = ClippedReLU(config.relu_clip)
        self.shortcut: nn.Module | None = None
        if layer.residual and channels == layer.channels and layer.stride == (1, 1):
            self.shortcut = nn.Identity()
        elif layer.residual:
            self.shortcut = convolution(channels, layer.channels, 1, layer.stride[axes], bias=False)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        shortcut = None if self.shortcut is None else self.shortcut(x)
        x = self._convolved(x if self.same is None else same_padded(x, lengths, self.same))
        lengths = conv_lengths(lengths, self.time_kernel, self.time_stride)
        mask = time_mask(lengths, x.shape[-1])  # (B, T)
        mask = mask[:, None, None, :] if x.dim() == 4 else mask[:, None, :]
        if self.norm is not None:
            x = self.norm(x, mask)
        x = self.activation(x)
        return (x if shortcut is None else x + shortcut).masked_fill(~mask, 0.0), lengths

    def _convolved(self, x: Tensor) -> Tensor:
        """While it learns, a kernel taller than `x` (B, C, F, T) gets the zeros around it beforehand: oneDNN 3.12, in
        PyTorch 2.13, has wrong gradients of such kernels on AVX-512 where it is to think of the zeros itself, or writes
        beyond its memory."""
        conv = self.conv
        if self.training and isinstance(conv, nn.Conv2d) and x.shape[2] < conv.kernel_size[0]:
            bins, frames = map(int, conv.padding)
            x = nn.functional.pad(x, (0, 0, bins, bins))
            return nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, (0, frames))
        result: Tensor = conv(x)
        return result


class TimeReversal(nn.Module):
    """Reverse the valid frames of each utterance (T, B, D) and leave its padding where it is."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        t = torch.arange(x.shape[0], device=x.device)[:, None]  # (T, 1)
        source = torch.where(t < lengths, lengths - 1 - t, t)  # (T, B)
        return x.gather(0, source[:, :, None].expand_as(x))


class LockedDropout(nn.Dropout):
    """Dropout with one mask per utterance for all frames of (T, B, H) (Gal and Ghahramani 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward(torch.ones_like(x[:1])) if self.training else x


def new_dropout(config: ModelConfig) -> nn.Dropout:
    return (LockedDropout if config.locked_dropout else nn.Dropout)(config.dropout)


def set_dropout(model: nn.Module, share: float) -> None:
    """Drop another share of values from now on, in every layer of `model` that drops any."""
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = share


class RecurrentLayer(nn.Module):
    """One or two directions with batch normalisation, then dropout: (T, B, D) -> (T, B, H), concatenated (T, B, 2 H).

    The backward direction reads each utterance from its own last frame, never from the padding.
    """

    def __init__(self, size: int, config: ModelConfig) -> None:
        super().__init__()
        cell = config.cell, size, config.rnn_size, config.relu_clip
        step = config.batch_norm and config.recurrent_norm == "step"
        self.norm = SequenceBatchNorm(size, channel_dim=2) if config.batch_norm and not step else None
        self.forward_rnn: nn.Module = new_rnn(*cell)
        self.backward_rnn: nn.Module | None = new_rnn(*cell) if config.bidirectional else None
        if config.shared_input_weights:
            for name in ("weight_ih_l0", "bias_ih_l0"):
                setattr(self.backward_rnn, name, getattr(self.forward_rnn, name))
        self.step_norm = StepNorm(self.directions) if step else None
        self.reversal: nn.Module = TimeReversal()
        self.concatenated = config.directions == "concat"
        self.dropout = new_dropout(config)

    @property
    def directions(self) -> list[Any]:
        """An nn.RNNBase each, or what an export puts in its place."""
        return [self.forward_rnn] if self.backward_rnn is None else [self.forward_rnn, self.backward_rnn]

    def forward(self, x: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        if self.norm is not None:
            x = self.norm(x, mask)
        inputs = [x] if self.backward_rnn is None else [x, self.reversal(x, lengths)]
        if self.step_norm is None:
            outputs = [rnn(x)[0] for rnn, x in zip(self.directions, inputs, strict=True)]
        else:
            outputs = self.step_norm(self.directions, inputs, mask)
        return self.together(outputs[0], None if self.backward_rnn is None else self.reversal(outputs[1], lengths))

    def together(self, y: Tensor, backward: Tensor | None) -> Tensor:
        """What the layer gives, of what its directions do."""
        if backward is not None:
            y = torch.cat([y, backward], dim=-1) if self.concatenated else y + backward
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

    def __init__(self, size: int, config: ModelConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(size, config.fc_size, bias=not config.batch_norm)
        self.norm = SequenceBatchNorm(config.fc_size, channel_dim=2) if config.batch_norm else None
        self.activation = ClippedReLU(config.relu_clip)
        self.dropout = new_dropout(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.linear(x)
        if self.norm is not None:
            x = self.norm(x, mask)
        return self.dropout(self.activation(x))  # type: ignore[no-any-return]
