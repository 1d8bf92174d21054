"""ModelConfig: output lengths against windows counted one by one, and what it refuses."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from ds2_deploy.model.config import ConvLayer, ModelConfig, conv_output_length


def counted_length(length: int, kernel: int, stride: int) -> int:
    """Positions of a kernel over the zero-padded input, by numpy's own sliding windows."""
    if length == 0:
        return 0
    padded = np.zeros(length + 2 * ((kernel - 1) // 2))
    if len(padded) < kernel:
        return 0
    return len(np.lib.stride_tricks.sliding_window_view(padded, kernel)[::stride])


@pytest.mark.parametrize(("kernel", "stride"), list(product([1, 2, 3, 4, 5, 8, 11], [1, 2, 3, 5])))
def test_conv_output_length_counts_kernel_positions(kernel: int, stride: int) -> None:
    for length in range(40):
        assert conv_output_length(length, kernel, stride) == counted_length(length, kernel, stride), length


@pytest.mark.parametrize("strides", [(1,), (2,), (2, 1), (3, 2), (2, 2, 2), (1, 3, 1)])
def test_output_frames_chain_the_layers(strides: tuple[int, ...]) -> None:
    kernels = (11, 4, 3)
    layers = tuple(ConvLayer(channels=1, kernel=(3, k), stride=(1, s)) for k, s in zip(kernels, strides, strict=False))
    config = ModelConfig(conv=layers)
    assert config.subsampling == np.prod(strides)
    for frames in range(60):
        expected = frames
        for layer in layers:
            expected = counted_length(expected, layer.kernel[1], layer.stride[1])
        assert config.output_frames(frames) == expected, frames


def test_rnn_input_size_of_the_paper_and_of_one_dimension() -> None:
    # 161 bins -> 81 -> 41, times 32 channels: 1312, the figure of the paper's 2D network
    assert ModelConfig().rnn_input_size(161) == 32 * 41
    flat = ModelConfig(conv_dims=1, conv=(ConvLayer(channels=7, kernel=(1, 5), stride=(1, 2)),))
    assert flat.rnn_input_size(161) == 7


def test_convolutions_that_leave_no_bin_are_refused() -> None:
    layer = ConvLayer(channels=4, kernel=(8, 3))  # padded by 3 + 3: one bin makes 7, too few for 8
    assert ModelConfig(conv=(layer,)).rnn_input_size(2) == 4
    with pytest.raises(ValueError, match="no frequency bin"):
        ModelConfig(conv=(layer,)).rnn_input_size(1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"conv": (ConvLayer(channels=1, kernel=(1, 1)),) * 4}, r"model\.conv has 4 layers"),
        ({"conv_dims": 1}, r"model\.conv_dims is 1"),  # the default kernels span 41 bins
        ({"rnn_layers": 0}, r"model\.rnn_layers is 0"),
        ({"rnn_size": -1}, r"model\.rnn_size is -1"),
        ({"fc_size": 0}, r"model\.fc_size is 0"),
        ({"fc_layers": -1}, r"model\.fc_layers is -1"),
        ({"lookahead": -1, "bidirectional": False}, r"model\.lookahead is -1"),
        ({"lookahead": 20}, r"model\.lookahead is 20: a bidirectional"),
        ({"window": -1}, r"model\.window is -1"),
        ({"window": 2}, r"model\.window_context is 0: the backward direction needs"),
        ({"window_context": 2}, r"model\.window_context is 2: model\.window says"),
        ({"window": 2, "window_context": 3, "bidirectional": False}, "has no backward direction"),
        ({"window": 2, "window_context": 3, "cell": "lstm"}, "cannot be with cell = 'lstm'"),
        ({"window": 2, "window_context": 3, "recurrent_norm": "step"}, "cannot be with recurrent_norm = 'step'"),
        ({"dropout": 1.0}, r"model\.dropout is 1\.0"),
        ({"dropout": float("nan")}, r"model\.dropout is nan"),
        ({"relu_clip": 0.0}, r"model\.relu_clip is 0\.0"),
        ({"relu_clip": float("nan")}, r"model\.relu_clip is nan"),
    ],
)
def test_unusable_values_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ModelConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 0}, {"kernel": (0, 3)}, {"kernel": (3, 0)}, {"stride": (0, 1)}, {"stride": (1, -2)},
        {"same": True, "kernel": (3, 4)}, {"same": True, "stride": (3, 1)}, {"same": True, "residual": True},
    ],
)  # fmt: skip
def test_unusable_convolutions_are_refused(changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {"channels": 1, "kernel": (3, 3)} | changes
    with pytest.raises(ValueError, match="a convolution of"):
        ConvLayer(**values)
