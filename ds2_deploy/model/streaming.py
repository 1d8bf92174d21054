"""DeepSpeech2 one chunk at a time, exactly: a stream's frames are those of the whole recording.

Every layer with a kernel in time lags behind its input by the frames it must still see, and keeps the last inputs it
will need again. So each chunk of C samples gives C / hop frames, then C / hop / stride frames, at every layer, in
every step, and all shapes are fixed:

    chunks      |-------- C --------|-------- C --------|
    layer in      . . o o o o o o o | o o o o o o o o o       `.`: before the recording, masked to zero
    layer out           . . . o o o | o o o o o o o o o        lag: what lies to the right of a frame is not here yet
                          context ->|

What a frame is, is known by its place: before the first sample, inside, or beyond the last one, and the masks are
those of the whole recording. A recurrent layer must not move before its first frame: its input has one more column,
1 where there is no frame yet, whose weights hold the hidden state at zero. Where the backward direction goes by windows
(model/windows.py), they lie as in the recording, and the frames that they hear beyond themselves are held back.

Shapes: B streams, C samples of a chunk, N values of state, F bins, H hidden, V labels. One row of state is a stream.
"""

import copy
import itertools
import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ds2_deploy.errors import ModelError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.cells import new_rnn
from ds2_deploy.model.config import Cell, ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2, log_softmax
from ds2_deploy.model.fold import fold_batch_norm
from ds2_deploy.model.layers import MaskedConv, RecurrentLayer
from ds2_deploy.model.windows import Windows

SHUT = 100.0
"""Drives a gate to 0 or 1 to the last bit of float32, and is still a number in half precision."""


class Slide(NamedTuple):
    """A kernel sliding over a stream whose chunks lag `lag_in` positions behind."""

    kernel: int
    stride: int
    before: int
    """Zeros in front of the whole recording."""
    after: int
    """Zeros behind it."""
    lag_in: int

    @property
    def lag(self) -> int:
        """By how many outputs a chunk of outputs lags behind."""
        return (self.lag_in + self.kernel - 1 - self.before) // self.stride

    @property
    def context(self) -> int:
        """Inputs to keep from chunk to chunk; negative: the first inputs of a chunk that no output needs."""
        return self.lag * self.stride + self.before - self.lag_in


class Extent(NamedTuple):
    """Where each recording lies relative to the present chunk, in the positions of one layer."""

    begun: Tensor
    """(B,) positions of the recording before this chunk, lag apart; saturated once nothing depends on it."""
    end: Tensor
    """(B,) its end, counted from the chunk's start; negative where it has passed."""
    lag: int

    def after(self, slide: Slide) -> "Extent":
        """The extent behind a sliding layer: as many outputs as for the whole recording."""
        shift = 2**20  # `//` of a negative number is not the same in every runtime
        end = self.end + (slide.before + slide.after - slide.kernel + slide.stride + shift * slide.stride)
        return Extent(self.begun // slide.stride, end // slide.stride - shift, slide.lag)

    def absent(self, size: int) -> Tensor:
        """(B, size) true before the recording's first position."""
        return self._positions(size) < -self.begun[:, None]

    def mask(self, size: int) -> Tensor:
        """(B, size) true inside the recording."""
        return ~self.absent(size) & (self._positions(size) < self.end[:, None])

    def _positions(self, size: int) -> Tensor:
        return torch.arange(size, device=self.end.device)[None] - self.lag


class Memory:
    """A chunk's way through the parts of a state: each is taken once, in order, and its successor put down."""

    def __init__(self, parts: list[Tensor], cell: Cell) -> None:
        self._parts = iter(parts)
        self.cell = cell
        self.after: list[Tensor] = []

    def take(self) -> Tensor:
        return next(self._parts)

    def hidden(self, dtype: torch.dtype) -> Tensor:
        """(1, B, H) of a recurrent layer; cuDNN takes no columns of a larger array, such as the parts are."""
        return self.take()[None].to(dtype).contiguous()

    def extended(self, slide: Slide, chunk: Tensor) -> Tensor:
        """(..., n) -> (..., context + n): all that the outputs of this chunk need."""
        if slide.context <= 0:
            return chunk[..., -slide.context :]
        x = torch.cat([self.take().to(chunk.dtype), chunk], dim=-1)
        self.after.append(x[..., x.shape[-1] - slide.context :])
        return x

    def recurrent(self, rnn: nn.Module, x: Tensor) -> Tensor:
        """(T, B, D) -> (T, B, H) from the hidden state (B, H) onwards; an LSTM's cell state (B, H) comes after it."""
        hidden = self.hidden(x.dtype)
        if self.cell == "lstm":
            x, (hidden, cell) = rnn(x, (hidden, self.hidden(x.dtype)))
            self.after += [hidden[0], cell[0]]
        else:
            x, hidden = rnn(x, hidden)
            self.after.append(hidden[0])
        return x


class StreamingDeepSpeech2(nn.Module):
    """`forward(audio (B, C), lengths (B,), state (B, N)) -> log_probs (B, t, V), lengths (B,), next_state (B, N)`.

    A row of zeros is a stream before its first sample. A row with C samples goes on; one with fewer is its
    recording's last, and further rows of none flush what the layers hold back. `lengths` counts the frames a row gives,
    which come first; over all steps they are the frames of the recording. A row of none in a fresh state stays fresh.
    """

    def __init__(self, model: DeepSpeech2, chunk_samples: int) -> None:
        super().__init__()
        self.metadata = metadata = model.metadata
        metadata.check_can_stream("This model")
        if chunk_samples < 1 or chunk_samples % metadata.stream_unit_samples:
            raise ModelError(
                f"A chunk of {chunk_samples} samples does not fit the model: it must be a multiple of "
                f"{metadata.stream_unit_samples}, which is one output {'window' if metadata.model.window else 'frame'}."
            )
        self.chunk_samples = chunk_samples
        self.frontend = copy.deepcopy(model.frontend)
        self.encoder = copy.deepcopy(model.encoder).eval()
        fold_batch_norm(self.encoder)
        for layer in self.encoder.rnn:
            assert isinstance(layer, RecurrentLayer)
            assert isinstance(layer.forward_rnn, nn.RNNBase)
            layer.forward_rnn = with_absence(layer.forward_rnn, metadata.model)
        self.slides = slides(metadata)
        running = metadata.feature.running_frames
        self.past = Slide(running, 1, running - 1, 0, lag_in=self.slides[0].lag)
        self.shapes = state_shapes(metadata, self.slides)
        self.sizes = [math.prod(shape) for shape in self.shapes]

    @property
    def state_size(self) -> int:
        """N."""
        return sum(self.sizes)

    def forward(self, audio: Tensor, lengths: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = torch.split(state, self.sizes, 1)
        memory = Memory(
            [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)], self.metadata.model.cell
        )
        extent, live = self._tick(memory, lengths)
        x, extent = self._features(audio, extent, memory)
        for layer, slide in zip(self.encoder.conv, self.slides[1:], strict=False):
            assert isinstance(layer, MaskedConv)
            extent = extent.after(slide)
            x = _convolve(layer, memory.extended(slide, x), extent)
        x = x.flatten(1, -2).permute(2, 0, 1)  # (B, C, F', T) -> (T, B, C F')
        absent = extent.absent(x.shape[0]).transpose(0, 1)[:, :, None].to(x.dtype)  # (T, B, 1)
        if self.metadata.model.window:
            x, extent = self._by_windows(x, extent, memory)
        else:
            for layer in self.encoder.recurrent_layers:
                x = memory.recurrent(layer.forward_rnn, torch.cat([x, absent], dim=-1))  # (T, B, H)
        if self.encoder.lookahead is not None:
            slide = self.slides[-1]
            x = x.permute(1, 2, 0).masked_fill(~extent.mask(x.shape[0])[:, None], 0.0)  # (B, H, T)
            x = self.encoder.lookahead.conv(memory.extended(slide, x)).permute(2, 0, 1)
            extent = extent.after(slide)
        for layer in self.encoder.fc:
            x = layer(x, absent)  # its batch norm is folded, so no mask is looked at
        log_probs, frames = _align(log_softmax(self.encoder.output(x).transpose(0, 1)), extent)
        next_state = torch.cat([part.flatten(1).to(state.dtype) for part in memory.after], dim=1)
        return log_probs, frames, next_state.masked_fill(~live[:, None], 0.0)

    def _by_windows(self, x: Tensor, extent: Extent, memory: Memory) -> tuple[Tensor, Extent]:
        """The recurrent layers of both directions, (T, B, D) -> (T, B, H): a chunk holds whole windows."""
        model, slide, frames = self.metadata.model, self.slides[-1], x.shape[0]
        x = memory.extended(slide, x.permute(1, 2, 0)).permute(2, 0, 1)  # (context + T, B, D)
        extent = extent.after(slide)
        absent = extent.absent(x.shape[0]).transpose(0, 1)[:, :, None].to(x.dtype)
        windows = Windows(model.window, model.window_context, frames // model.window, extent.end + extent.lag)
        states = [memory.hidden(x.dtype) for _ in self.encoder.rnn]  # (1, B, H) each
        layers = self.encoder.recurrent_layers
        x, states = windows.through(layers, windows.spread(x), states=states, absent=windows.spread(absent))
        memory.after += [state[0] for state in states]
        return x, extent

    def _features(self, audio: Tensor, extent: Extent, memory: Memory) -> tuple[Tensor, Extent]:
        """What the first convolution reads, (B, 1, F, T') or (B, F, T'), zero where the recording has no frame."""
        window = self.slides[0]
        audio = audio.masked_fill(~extent.mask(audio.shape[1]), 0.0)
        x = self.frontend.energies(memory.extended(window, audio))  # (B, F, T')
        extent = extent.after(window)
        valid = extent.mask(x.shape[-1])[:, None]  # (B, 1, T')
        x = self.frontend.normalize(x, extent.end, valid, partial(memory.extended, self.past)).masked_fill(~valid, 0.0)
        x = x.to(self.encoder.output.weight.dtype)
        return x[:, None] if self.metadata.model.conv_dims == 2 else x, extent

    def _tick(self, memory: Memory, lengths: Tensor) -> tuple[Extent, Tensor]:
        """Where each recording lies, and which rows (B,) are streams at all.

        The clock (B, 2) counts samples, exactly in float32 because it stops where nothing depends on it any more:
        heard before this chunk, and passed since the end (0: not ended).
        """
        reach, chunk = self._reach, self.chunk_samples
        heard, passed = memory.take().to(torch.int64).unbind(1)
        live = heard + lengths > 0
        end = torch.where(passed > 0, -passed, lengths)
        end = torch.where(live, end, -reach)
        passed = torch.where(end < chunk, (chunk - end).clamp(max=reach), 0)
        memory.after.append(torch.stack([(heard + chunk).clamp(max=reach), passed], dim=1))
        return Extent(heard, end, 0), live

    @property
    def _reach(self) -> int:
        """Samples after which neither the start nor the end matters any more: a whole number of output frames."""
        unit = self.metadata.stream_unit_samples
        samples, step = self.slides[0].after, 1
        for by in self.slides:
            samples += by.kernel * step
            step *= by.stride
        return (samples // unit + 4) * unit


def slides(metadata: ModelMetadata) -> list[Slide]:
    """The layers with a kernel in time, in order: windows of the analysis, convolutions, lookahead or what the windows
    of recurrent layers hear beyond themselves."""
    feature, model = metadata.feature, metadata.model
    kernels = [(feature.window_samples, feature.hop_samples, *feature.padding)]
    kernels += [(c.kernel[1], c.stride[1], c.padding[1], c.padding[1]) for c in model.conv]
    kernels += [(model.lookahead, 1, 0, model.lookahead - 1)] if model.lookahead else []
    found: list[Slide] = []
    for kernel in kernels:
        found.append(Slide(*kernel, lag_in=found[-1].lag if found else 0))
    if model.window:
        ahead = model.window_context
        ahead += -(found[-1].lag + ahead) % model.window  # windows that begin with the recording begin with a chunk
        found.append(Slide(ahead + 1, 1, 0, ahead, lag_in=found[-1].lag))
    return found


def state_shapes(metadata: ModelMetadata, by: list[Slide]) -> list[tuple[int, ...]]:
    """What a row of state holds, in order: clock, samples, moments of earlier frames, inputs of each convolution, those
    of the recurrent layers that their windows still need, hidden states, lookahead."""
    feature, model = metadata.feature, metadata.model
    window, *convolutions = by[: 1 + len(model.conv)]
    hidden = [(model.rnn_size,)] * (model.rnn_layers * (2 if model.cell == "lstm" else 1))
    inputs = _conv_inputs(metadata) if model.conv else []
    shapes: list[tuple[int, ...]] = [(2,)]
    shapes += [(window.context,)] if window.context > 0 else []
    past = feature.running_frames - 1 if feature.normalization == "running" else 0
    shapes += [(3, past)] if past else []
    shapes += [(*size, s.context) for size, s in zip(inputs, convolutions, strict=True) if s.context > 0]
    shapes += [(model.rnn_input_size(feature.bins), by[-1].context)] if model.window else []
    shapes += hidden
    shapes += [(model.rnn_size, by[-1].context)] if model.lookahead > 1 else []
    return shapes


def _conv_inputs(metadata: ModelMetadata) -> list[tuple[int, ...]]:
    """Channels, and in two dimensions bins, that enter each convolution."""
    model, bins = metadata.model, metadata.feature.bins
    if model.conv_dims == 1:
        return [(size,) for size in (bins, *(layer.channels for layer in model.conv[:-1]))]
    heights = itertools.accumulate(model.conv[:-1], lambda n, layer: layer.output_bins(n), initial=bins)
    return list(zip([1, *(layer.channels for layer in model.conv[:-1])], heights, strict=True))


def _convolve(layer: MaskedConv, x: Tensor, extent: Extent) -> Tensor:
    """MaskedConv without padding in time, masked by the recording's extent."""
    conv = layer.conv
    y: Tensor
    if isinstance(conv, nn.Conv2d):
        y = nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, padding=(int(conv.padding[0]), 0))
    else:
        y = nn.functional.conv1d(x, conv.weight, conv.bias, conv.stride)
    y = layer.activation(y)
    if layer.shortcut is not None:
        edge = int(conv.padding[-1])  # to the kernel's middle
        y = y + layer.shortcut(x[..., edge : x.shape[-1] - edge])
    mask = extent.mask(y.shape[-1])
    return y.masked_fill(~(mask[:, None, None] if y.dim() == 4 else mask[:, None]), 0.0)


def _align(x: Tensor, extent: Extent) -> tuple[Tensor, Tensor]:
    """(B, t, V) with each row's valid frames first, and their number (B,)."""
    size = x.shape[1]
    first = (extent.lag - extent.begun).clamp(0, size)  # (B,)
    frames = ((extent.end + extent.lag).clamp(0, size) - first).clamp(min=0)
    source = (torch.arange(size, device=x.device)[None] + first[:, None]).clamp(max=size - 1)
    return x.gather(1, source[:, :, None].expand_as(x)), frames


@torch.no_grad()
def with_absence(rnn: nn.RNNBase, config: ModelConfig) -> nn.RNNBase:
    """The layer with one more input, which where it is 1 holds a hidden state of zero at zero.

    A GRU keeps its state where the update gate is open, an LSTM's cell stays empty where the input gate is shut, and
    an Elman cell stays at tanh(0) where the biases are taken back, or below the clipped ReLU's zero; the other inputs
    are zero there.
    """
    weights: dict[str, Tensor] = dict(rnn.named_parameters())
    bias = torch.split(weights["bias_ih_l0"] + weights["bias_hh_l0"], rnn.hidden_size)
    gate, wanted = _HOLDING[config.cell]
    column = torch.zeros_like(weights["bias_ih_l0"])
    torch.split(column, rnn.hidden_size)[gate].copy_(wanted - bias[gate])
    wider = new_rnn(config.cell, rnn.input_size + 1, rnn.hidden_size, config.relu_clip)
    weights["weight_ih_l0"] = torch.cat([weights["weight_ih_l0"], column[:, None]], dim=1)
    wider.load_state_dict(weights)
    return wider


_HOLDING: dict[Cell, tuple[int, float]] = {
    "gru": (1, SHUT),  # of r, z, n: h = (1 - z) n + z h
    "lstm": (0, -SHUT),  # of i, f, g, o: c = f c + i g
    "rnn": (0, 0.0),  # h = tanh(0)
    "rnn_relu": (0, -SHUT),  # h = max(-SHUT, 0)
}
"""Which of PyTorch's stacked gates holds the state, and the value before its activation that does it."""
