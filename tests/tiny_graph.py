"""A graph of the DS2 kind written by hand, so that building engines is tested without torch and its exporter."""

from pathlib import Path

import numpy as np
import pytest

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.config import ConvLayer, ModelConfig

onnx = pytest.importorskip("onnx")

CONV = ConvLayer(channels=8, kernel=(1, 11), stride=(1, 2))
METADATA = ModelMetadata(
    feature=FeatureConfig(normalization="none"),
    model=ModelConfig(conv_dims=1, conv=(CONV,), rnn_size=16, bidirectional=False),
)

# Waveform to log-probabilities with all that is special in a DS2 graph: a strided convolution as STFT in
# float32, masks made of the lengths, a GRU run backwards over the valid frames, a softmax in float32.
GRAPH = """
<ir_version: 10, opset_import: ["": 22]>
ds2 (float[B, S] audio, int64[B] audio_lengths) => (float[B, T, 29] log_probs, int64[B] lengths)
<int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] axis0 = {0}, int64[1] axis1 = {1},
 int64 window = {320}, int64 hop = {160}, float floor = {1e-6}>
{
  channel = Unsqueeze(audio, axis1)
  spectrum = Conv<strides = [160]>(channel, dft)
  square = Mul(spectrum, spectrum)
  power = Max(square, floor)
  feature = Log(power)
  missing = Sub(audio_lengths, window)
  whole = Add(missing, hop)
  frames = Div(whole, hop)
  input = Cast<to = 10>(feature)
  conv = Conv<strides = [2], pads = [5, 5]>(input, conv_weight)
  odd = Add(frames, one)
  half = Div(odd, two)
  lengths = Max(half, zero)
  extents = Shape<start = 2, end = 3>(conv)
  extent = Squeeze(extents)
  range = Range(zero, extent, one)
  row = Unsqueeze(range, axis0)
  column = Unsqueeze(lengths, axis1)
  valid = Less(row, column)
  mask = Unsqueeze(valid, axis1)
  masked = Where(mask, conv, nothing)
  sequence = Transpose<perm = [2, 0, 1]>(masked)
  at_least_one = Max(lengths, one)
  reversed = ReverseSequence<time_axis = 0, batch_axis = 1>(sequence, at_least_one)
  states = GRU<hidden_size = 16, linear_before_reset = 1>(reversed, gru_w, gru_r, gru_b)
  state = Squeeze(states, axis1)
  hidden = ReverseSequence<time_axis = 0, batch_axis = 1>(state, at_least_one)
  batch_first = Transpose<perm = [1, 0, 2]>(hidden)
  scores = MatMul(batch_first, output_weight)
  logits = Cast<to = 1>(scores)
  log_probs = LogSoftmax<axis = -1>(logits)
}
"""


def ds2_graph(*, half: bool) -> "onnx.ModelProto":
    kind = np.float16 if half else np.float32
    draw = np.random.default_rng(0)
    weights = {
        "dft": draw.standard_normal((161, 1, 320)).astype(np.float32),
        "conv_weight": draw.standard_normal((8, 161, 11)).astype(kind),
        "gru_w": draw.standard_normal((1, 48, 8)).astype(kind),
        "gru_r": draw.standard_normal((1, 48, 16)).astype(kind),
        "gru_b": draw.standard_normal((1, 96)).astype(kind),
        "output_weight": draw.standard_normal((16, 29)).astype(kind),
        "nothing": np.zeros((), kind),
    }
    graph = onnx.parser.parse_model(GRAPH if half else GRAPH.replace("to = 10", "to = 1"))
    graph.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for node in graph.graph.node:
        node.name = f"node_{node.output[0]}"
    onnx.checker.check_model(graph, full_check=True)
    return graph


def write_model(folder: Path) -> Path:
    """A model folder as far as building needs one."""
    folder.mkdir()
    (folder / "metadata.json").write_text(METADATA.to_json())
    onnx.save(ds2_graph(half=False), folder / "model.onnx")
    onnx.save(ds2_graph(half=True), folder / "model.fp16.onnx")
    return folder
