"""From a checkpoint's network to ONNX: dynamic batch and samples, native RNN nodes, metadata inside the file.

The dynamo exporter cannot export nn.GRU with a dynamic time axis, so the network is first rewritten into a form whose
recurrent layers are ONNX's own nodes:

    batch norm  -> folded into the convolution, linear layer or input weights beside it (exact: an affine map each)
    nn.GRU      -> GRU node, time-major, linear_before_reset=1, gates reordered from (r, z, n) to (z, r, h)
    backward    -> ReverseSequence by the lengths, a forward node, ReverseSequence again

or, where asked for, into loops of our own (export/recurrence.py).
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
from ds2_deploy.metadata import ONNX_KEY, ModelMetadata
from ds2_deploy.model.cells import ClippedRNN
from ds2_deploy.model.deepspeech2 import DeepSpeech2, Encoder
from ds2_deploy.model.fold import fold_batch_norm
from ds2_deploy.model.layers import RecurrentLayer
from ds2_deploy.model.streaming import StreamingDeepSpeech2
from ds2_deploy.model_folder import Precision
from ds2_deploy.runtime.protocol import INPUTS, OUTPUTS, STREAM_INPUTS, STREAM_OUTPUTS
from export.recurrence import BothDirections, HoistedRNN, Recurrence

OPSET = 18
"""Not newer: ONNX Runtime leaves an operator to the processor whose version its CUDA kernels do not name, and until
spring 2026 they named none for version 22, which recurrent nodes have from opset 22 on (microsoft/onnxruntime, issue
27729). Read in its sources, not measured."""
Hidden = Tensor | tuple[Tensor, ...]
"""(1, B, H), or two of them for an LSTM."""

# ONNX operator and, per ONNX gate, its place among PyTorch's stacked gates
ONNX_CELLS: dict[type[nn.RNNBase], tuple[str, tuple[int, ...]]] = {
    nn.RNN: ("RNN", (0,)),
    ClippedRNN: ("RNN", (0,)),
    nn.GRU: ("GRU", (1, 0, 2)),  # z, r, h  from  r, z, n
    nn.LSTM: ("LSTM", (0, 3, 1, 2)),  # i, o, f, c  from  i, f, g, o
}


class OnnxRNN(nn.Module):
    """One direction as an ONNX node, called like the nn.RNNBase it replaces: (T, B, D) -> (T, B, H), last states."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.operator, gates = ONNX_CELLS[type(rnn)]
        self.hidden_size = rnn.hidden_size
        self.attributes: dict[str, Any] = {"hidden_size": rnn.hidden_size}
        if isinstance(rnn, nn.GRU):
            self.attributes["linear_before_reset"] = 1  # PyTorch's GRU; 0 is silently another network
        elif isinstance(rnn, ClippedRNN):  # ONNX clips before the activation, at -clip, too: a ReLU does not mind
            self.attributes |= {"activations": ["Relu"], "clip": rnn.clip}
        weights = {name: parameter.detach() for name, parameter in rnn.named_parameters()}

        def reordered(name: str) -> Tensor:
            stacked = torch.split(weights[f"{name}_l0"], self.hidden_size)
            return torch.cat([stacked[gate] for gate in gates])

        self.w = nn.Parameter(reordered("weight_ih")[None])  # (1, gates H, D)
        self.r = nn.Parameter(reordered("weight_hh")[None])  # (1, gates H, H)
        self.b = nn.Parameter(torch.cat([reordered("bias_ih"), reordered("bias_hh")])[None])  # (1, 2 gates H)

    def forward(self, x: Tensor, hidden: Hidden | None = None) -> tuple[Tensor, Hidden]:
        frames, batch, _ = x.shape
        before = () if hidden is None else (None, *(hidden if isinstance(hidden, tuple) else (hidden,)))
        state = (1, batch, self.hidden_size)
        states = (state, state) if self.operator == "LSTM" else (state,)
        outputs = torch.onnx.ops.symbolic_multi_out(
            self.operator,
            (x, self.w, self.r, self.b, *before),  # None: all rows have all frames
            attrs=self.attributes,
            dtypes=(x.dtype,) * (1 + len(states)),
            shapes=((frames, 1, batch, self.hidden_size), *states),
            version=OPSET,
        )
        after = tuple(outputs[1:])
        return outputs[0].squeeze(1), after if len(after) > 1 else after[0]  # (T, 1, B, H) -> (T, B, H)


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


def exportable(model: DeepSpeech2, precision: Precision, recurrence: Recurrence = "node") -> DeepSpeech2:
    """A copy without batch norm, with recurrent layers in their form, and half precision in all but front end and
    softmax. The frames of a recording are not known, so it cannot be unrolled and gets a loop."""
    model = copy.deepcopy(model).cpu().float().eval()
    fold_batch_norm(model.encoder)
    _use_onnx_cells(model.encoder, precision, "loop" if recurrence == "unrolled" else recurrence)
    return model


def exportable_stream(
    model: DeepSpeech2, precision: Precision, chunk_samples: int, recurrence: Recurrence = "node"
) -> StreamingDeepSpeech2:
    """The same for chunks of `chunk_samples`; the state stays in float32."""
    stream = StreamingDeepSpeech2(copy.deepcopy(model).cpu().float(), chunk_samples).eval()
    _use_onnx_cells(stream.encoder, precision, recurrence)
    return stream


def _use_onnx_cells(encoder: Encoder, precision: Precision, recurrence: Recurrence) -> None:
    """By windows the directions go different ways, so no loop holds both."""
    layers, windows = encoder.rnn, encoder.config.window > 0
    for number, layer in enumerate(layers):
        assert isinstance(layer, RecurrentLayer)
        if recurrence != "node" and layer.backward_rnn is not None and not windows:
            layers[number] = BothDirections(layer, OnnxReversal())
            continue
        layer.forward_rnn, *backward = (
            OnnxRNN(rnn) if recurrence == "node" else HoistedRNN([rnn], unrolled=recurrence == "unrolled")
            for rnn in layer.directions
        )
        layer.backward_rnn, layer.reversal = backward[0] if backward else None, OnnxReversal()
    if precision == "fp16":
        encoder.half()


def write_onnx(model: DeepSpeech2, path: Path, precision: Precision, recurrence: Recurrence = "node") -> None:
    """Write the offline graph: audio (B, S), audio_lengths (B,) -> log_probs (B, T, V), lengths (B,)."""
    metadata = model.metadata
    # several windows, too: with one the exporter would take their number for a constant
    samples = max(4 * metadata.min_samples, metadata.feature.sample_rate, 4 * metadata.stream_unit_samples)
    example = (torch.zeros(2, samples), torch.tensor([samples, samples // 2]))
    axes = ({0: "batch", 1: "samples"}, {0: "batch"})
    _write(exportable(model, precision, recurrence), example, axes, (INPUTS, OUTPUTS), metadata, path)


def write_stream_onnx(
    model: DeepSpeech2, path: Path, precision: Precision, chunk_samples: int, recurrence: Recurrence = "node"
) -> None:
    """Write the streaming graph: audio (B, C), audio_lengths (B,), state (B, N) -> log_probs (B, t, V), lengths (B,),
    next_state (B, N); C and N fixed. See ds2_deploy/model/streaming.py."""
    stream = exportable_stream(model, precision, chunk_samples, recurrence)
    example = (
        torch.zeros(2, chunk_samples),
        torch.tensor([chunk_samples, chunk_samples // 2]),
        torch.zeros(2, stream.state_size),
    )
    _write(stream, example, ({0: "batch"},) * 3, (STREAM_INPUTS, STREAM_OUTPUTS), model.metadata, path)


def _write(
    module: nn.Module,
    example: tuple[Tensor, ...],
    axes: tuple[dict[int, str], ...],
    names: tuple[list[str], list[str]],
    metadata: ModelMetadata,
    path: Path,
) -> None:
    for package in ("onnx", "onnxscript"):
        require(package)
    with _quiet():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            input_names=names[0],
            output_names=names[1],
            dynamic_shapes=axes,
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
