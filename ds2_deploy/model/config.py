"""ModelConfig: one DeepSpeech2 network, as plain data (no torch)."""

from typing import Literal

import msgspec

from ds2_deploy.ranges import DROPOUT, POSITIVE, at_least, check_ranges

Cell = Literal["rnn", "rnn_relu", "gru", "lstm"]


class ConvLayer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A convolution over (frequency, time), padded by (kernel - 1) // 2 zeros at both ends of both axes."""

    channels: int
    kernel: tuple[int, int]
    """(frequency, time)."""
    stride: tuple[int, int] = (1, 1)
    """(frequency, time)."""
    residual: bool = False
    """The input is added to the output, through a 1 x 1 projection where channels or stride differ (He et al. 2016)."""
    same: bool = False
    """Pad as TensorFlow's "same" does: where the stride is two and the length even, one zero fewer in front. Then the
    frames of a recording lie where its length wants them (cannot stream)."""

    def __post_init__(self) -> None:
        if self.channels < 1 or min(self.kernel) < 1 or min(self.stride) < 1:
            raise ValueError(f"a convolution of {self.channels} channels, kernel {self.kernel}, stride {self.stride}")
        if self.same and (not all(size % 2 for size in self.kernel) or max(self.stride) > 2 or self.residual):
            raise ValueError(
                f"a convolution of kernel {self.kernel} and stride {self.stride} with same = true: "
                "kernels must be odd, strides 2 at most, and it cannot be residual"
            )
        if self.residual and not all(size % 2 for size in self.kernel):
            raise ValueError(f"a residual convolution of kernel {self.kernel}: its middle needs odd sizes")

    @property
    def padding(self) -> tuple[int, int]:
        """(frequency, time), the zeros at each end."""
        return (self.kernel[0] - 1) // 2, (self.kernel[1] - 1) // 2

    def output_bins(self, bins: int) -> int:
        """Height of what a two-dimensional convolution makes of `bins` frequency bins."""
        return conv_output_length(bins, self.kernel[0], self.stride[0])


def conv_output_length(length: int, kernel: int, stride: int) -> int:
    """Frames (or bins) after a convolution padded by (kernel - 1) // 2; none of too short an input.

    >>> [conv_output_length(n, 11, 2) for n in (0, 1, 2, 3)]
    [0, 1, 1, 2]
    """
    return max(length + 2 * ((kernel - 1) // 2) - kernel + stride, 0) // stride if length > 0 else 0


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Convolutions, recurrent layers, fully connected layers (arXiv 1512.02595, section 3)."""

    conv_dims: Literal[1, 2] = 2
    """2: kernels slide over frequency and time. 1: over time alone, the bins being input channels."""
    conv: tuple[ConvLayer, ...] = (
        ConvLayer(channels=32, kernel=(41, 11), stride=(2, 2)),
        ConvLayer(channels=32, kernel=(21, 11), stride=(2, 1)),
    )
    """Up to three convolutions, each followed by batch normalisation and the clipped ReLU. With none, the recurrent
    layers read the features."""
    cell: Cell = "gru"
    """`rnn` is the Elman cell with tanh, `rnn_relu` the paper's with the clipped ReLU (section 3.1)."""
    rnn_layers: int = 5
    rnn_size: int = 800
    bidirectional: bool = True
    """Both directions run over the whole utterance, the backward one perhaps by windows. False: forward only. Forward
    and by windows it can stream."""
    window: int = 0
    """The backward direction begins anew for so many frames, `window_context` frames beyond the last of them, so that a
    network of both directions can stream (latency-controlled, Zhang et al. 2016, arXiv 1510.08983; model/windows.py).
    0: it begins at the utterance's end."""
    window_context: int = 0
    """Frames that the backward direction reads beyond a window."""
    directions: Literal["sum", "concat"] = "sum"
    """What a bidirectional layer gives: the sum of its directions (section 3.1), or both side by side."""
    shared_input_weights: bool = False
    """Both directions have the same input weights and biases; each has recurrent ones of its own."""
    lookahead: int = 0
    """Frames a lookahead (row) convolution spans above a unidirectional stack, the present one
    included (section 3.7 of the paper); 0: none."""
    fc_layers: int = 0
    """Hidden fully connected layers with the clipped ReLU, before the output layer."""
    fc_size: int = 800
    batch_norm: bool = True
    """Sequence-wise batch normalisation (section 3.2) after convolutions, in recurrent layers and in hidden fully
    connected ones."""
    recurrent_norm: Literal["vertical", "step"] = "vertical"
    """Where recurrent layers have theirs. `vertical`: on their input alone, over all frames. `step`: on what enters
    every non-linearity, over the utterances at each time step by itself."""
    dropout: float = 0.0
    """Share of values dropped after each recurrent and hidden fully connected layer, in training."""
    locked_dropout: bool = False
    """An utterance's frames all lose the same values (Gal and Ghahramani 2016)."""
    relu_clip: float = 20.0
    """The clipped ReLU is min(max(x, 0), relu_clip)."""

    def __post_init__(self) -> None:
        if len(self.conv) > 3:
            raise ValueError(f"model.conv has {len(self.conv)} layers: DeepSpeech2 has 3 at most")
        if self.conv_dims == 1 and any(c.kernel[0] != 1 or c.stride[0] != 1 for c in self.conv):
            raise ValueError("model.conv_dims is 1: every convolution's kernel and stride must be 1 in frequency")
        check_ranges(
            self, "model.",
            rnn_layers=at_least(1), rnn_size=at_least(1), window=at_least(0), window_context=at_least(0),
            lookahead=at_least(0), fc_layers=at_least(0), fc_size=at_least(1), dropout=DROPOUT, relu_clip=POSITIVE,
        )  # fmt: skip
        if self.bidirectional and self.lookahead:
            raise ValueError(f"model.lookahead is {self.lookahead}: a bidirectional model sees the future already")
        if self.window and not self.bidirectional:
            raise ValueError(f"model.window is {self.window}: a unidirectional model has no backward direction")
        if self.window_context and not self.window:
            raise ValueError(f"model.window_context is {self.window_context}: model.window says after how many frames")
        if self.window and not self.window_context:
            raise ValueError("model.window_context is 0: the backward direction needs a frame at least beyond a window")
        if self.window and (self.cell == "lstm" or self.recurrent_norm == "step"):
            name = "cell" if self.cell == "lstm" else "recurrent_norm"
            raise ValueError(f"model.window is {self.window}: it cannot be with {name} = {getattr(self, name)!r}")
        if not self.bidirectional and (self.shared_input_weights or self.directions == "concat"):
            name = "shared_input_weights" if self.shared_input_weights else "directions"
            raise ValueError(f"model.{name} is {getattr(self, name)!r}: a unidirectional model has one direction")

    @property
    def windows(self) -> tuple[int, int]:
        """Frames of a window and of its context; (0, 0) where the backward direction begins at the end."""
        return self.window, self.window_context

    @property
    def future(self) -> int:
        """Output frames after a frame that the layers above the convolutions see, where they do not see all."""
        return self.window - 1 + self.window_context if self.window else max(self.lookahead - 1, 0)

    @property
    def subsampling(self) -> int:
        """Feature frames per output frame."""
        product = 1
        for layer in self.conv:
            product *= layer.stride[1]
        return product

    def output_frames(self, frames: int) -> int:
        """Output frames of `frames` feature frames."""
        for layer in self.conv:
            frames = conv_output_length(frames, layer.kernel[1], layer.stride[1])
        return frames

    def rnn_input_size(self, bins: int) -> int:
        """Channels times what the convolutions leave of `bins` frequency bins."""
        for layer in self.conv:
            bins = layer.output_bins(bins) if self.conv_dims == 2 else 1
        if bins < 1:
            raise ValueError("model.conv leaves no frequency bin: use smaller strides")
        return bins * (self.conv[-1].channels if self.conv else 1)

    @property
    def rnn_output_size(self) -> int:
        """Values per frame that a recurrent layer gives."""
        return self.rnn_size * (2 if self.directions == "concat" else 1)
