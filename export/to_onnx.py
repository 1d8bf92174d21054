"""From a checkpoint's network to ONNX: dynamic batch and samples, native RNN nodes, metadata inside the file.

The dynamo exporter cannot export nn.GRU with a dynamic time axis, so the network is first rewritten into a form whose
recurrent layers are ONNX's own nodes:

    batch norm  -> folded into the convolution, linear layer or input weights beside it (exact: an affine map each)
    nn.GRU      -> GRU node, time-major, linear_before_reset=1, gates reordered from (r, z, n) to (z, r, h)
    backward    -> ReverseSequence by the lengths, a forward node, ReverseSequence again
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ds2_deploy.extras import require
from ds2_deploy.metadata import ONNX_KEY
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.layers import FullyConnected, MaskedConv, RecurrentLayer, SequenceBatchNorm
from ds2_deploy.runtime.engine_info import Precision
from ds2_deploy.runtime.protocol import INPUTS, OUTPUTS

OPSET = 22

# ONNX operator and, per ONNX gate, its place among PyTorch's stacked gates
ONNX_CELLS: dict[type[nn.RNNBase], tuple[str, tuple[int, ...]]] = {
    nn.RNN: ("RNN", (0,)),
    nn.GRU: ("GRU", (1, 0, 2)),  # z, r, h  from  r, z, n
    nn.LSTM: ("LSTM", (0, 3, 1, 2)),  # i, o, f, c  from  i, f, g, o
}


class OnnxRNN(nn.Module):
    """One direction as an ONNX node: (T, B, D) -> ((T, B, H),), like the nn.RNNBase it replaces."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.operator, gates = ONNX_CELLS[type(rnn)]
        self.hidden_size = rnn.hidden_size
        weights = {name: parameter.detach() for name, parameter in rnn.named_parameters()}

        def reordered(name: str) -> Tensor:
            stacked = torch.split(weights[f"{name}_l0"], self.hidden_size)
            return torch.cat([stacked[gate] for gate in gates])

        self.w = nn.Parameter(reordered("weight_ih")[None])  # (1, gates H, D)
        self.r = nn.Parameter(reordered("weight_hh")[None])  # (1, gates H, H)
        self.b = nn.Parameter(torch.cat([reordered("bias_ih"), reordered("bias_hh")])[None])  # (1, 2 gates H)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        frames, batch, _ = x.shape
        attributes: dict[str, Any] = {"hidden_size": self.hidden_size}
        if self.operator == "GRU":
            attributes["linear_before_reset"] = 1  # PyTorch's GRU; 0 is silently another network
        state = (1, batch, self.hidden_size)
        states = (state, state) if self.operator == "LSTM" else (state,)
        outputs = torch.onnx.ops.symbolic_multi_out(
            self.operator,
            (x, self.w, self.r, self.b),
            attrs=attributes,
            dtypes=(x.dtype,) * (1 + len(states)),
            shapes=((frames, 1, batch, self.hidden_size), *states),
            version=OPSET,
        )
        return (outputs[0].squeeze(1),)  # (T, 1, B, H) -> (T, B, H)


class OnnxReversal(nn.Module):
    """TimeReversal as an ONNX node."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        # An empty row reverses its first, masked frame: what TensorRT does with length 0 is not documented.
        return torch.onnx.ops.symbolic(
            "ReverseSequence",
            (x, lengths.clamp(min=1)),
            attrs={"batch_axis": 1, "time_axis": 0},
            dtype=x.dtype,
            shape=x.shape,
            version=10,
        )


def exportable(model: DeepSpeech2, precision: Precision) -> DeepSpeech2:
    """A copy without batch norm, with ONNX's recurrent nodes, and half precision in all but front end and softmax."""
    model = copy.deepcopy(model).cpu().float().eval()
    for module in model.encoder.modules():
        fold_batch_norm(module)
        if isinstance(module, RecurrentLayer):
            assert isinstance(module.forward_rnn, nn.RNNBase)
            module.forward_rnn = OnnxRNN(module.forward_rnn)
            if isinstance(module.backward_rnn, nn.RNNBase):
                module.backward_rnn = OnnxRNN(module.backward_rnn)
                module.reversal = OnnxReversal()
    if precision == "fp16":
        model.encoder.half()
    return model


@torch.no_grad()
def fold_batch_norm(layer: nn.Module) -> None:
    """Multiply a layer's frozen batch norm into the weights beside it, in float64."""
    if isinstance(layer, (MaskedConv, FullyConnected)) and layer.norm is not None:
        linear = layer.conv if isinstance(layer, MaskedConv) else layer.linear
        scale, shift = _affine(layer.norm)
        weight = linear.weight.double()
        linear.weight.copy_(weight * scale.view(-1, *[1] * (weight.dim() - 1)))
        linear.bias = nn.Parameter(shift.to(linear.weight.dtype))
        layer.norm = None
    elif isinstance(layer, RecurrentLayer) and layer.norm is not None:
        scale, shift = _affine(layer.norm)
        for rnn in (layer.forward_rnn, layer.backward_rnn):
            if isinstance(rnn, nn.RNNBase):  # W (s x + t) + b = (W s) x + (W t + b)
                parameters = dict(rnn.named_parameters())
                weight, bias = parameters["weight_ih_l0"], parameters["bias_ih_l0"]
                bias.copy_(bias.double() + weight.double() @ shift)
                weight.copy_(weight.double() * scale)
        layer.norm = None


def _affine(norm: SequenceBatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of batch norm in evaluation, in float64."""
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def write_onnx(model: DeepSpeech2, path: Path, precision: Precision) -> None:
    """Write one graph: audio (B, S), audio_lengths (B,) -> log_probs (B, T, V), lengths (B,)."""
    for package in ("onnx", "onnxscript"):
        require(package)
    metadata = model.metadata
    samples = max(4 * metadata.min_samples, metadata.feature.sample_rate)
    example = (torch.zeros(2, samples), torch.tensor([samples, samples // 2]))
    with _quiet():
        program = torch.onnx.export(
            exportable(model, precision),
            example,
            dynamo=True,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=({0: "batch", 1: "samples"}, {0: "batch"}),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with the paths of this machine
    program.model.metadata_props[ONNX_KEY] = metadata.to_json()
    program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own remarks off the user's screen; its errors still are exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
