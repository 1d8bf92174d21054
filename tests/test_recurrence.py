"""Recurrent layers in other forms than ONNX's nodes: the same numbers as PyTorch's own, alone, exported and built."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from torch import Tensor, nn  # noqa: E402

from ds2_deploy.audio.features import FeatureConfig  # noqa: E402
from ds2_deploy.model.cells import ClippedRNN  # noqa: E402
from ds2_deploy.model.config import ModelConfig  # noqa: E402
from ds2_deploy.model.layers import RecurrentLayer, TimeReversal  # noqa: E402
from ds2_deploy.model_folder import METADATA_FILE, open_model  # noqa: E402
from ds2_deploy.runtime.ort_backend import OrtBackend, OrtStreamBackend  # noqa: E402
from ds2_deploy.runtime.streamed import Streamed  # noqa: E402
from ds2_deploy.runtime.torch_backend import TorchBackend  # noqa: E402
from export.parity import compare, probe_recordings  # noqa: E402
from export.recurrence import BothDirections, HoistedRNN  # noqa: E402
from export.to_onnx import write_onnx, write_stream_onnx  # noqa: E402
from tests.tiny import CONV_2D, tiny_metadata, tiny_model  # noqa: E402

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM, "rnn_relu": lambda size, hidden: ClippedRNN(size, hidden, 0.5)}


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("unrolled", [False, True], ids=["loop", "unrolled"])
@pytest.mark.parametrize("cell", CELLS)
def test_one_direction(cell: str, unrolled: bool) -> None:
    torch.manual_seed(0)
    rnn = CELLS[cell](5, 7)
    hoisted = HoistedRNN([rnn], unrolled=unrolled)
    x, state = torch.randn(9, 3, 5), torch.randn(1, 3, 7).relu()
    hidden = (state, torch.randn(1, 3, 7)) if cell == "lstm" else state
    for before in (None, hidden):
        (expected, last), (y, after) = rnn(x, before), hoisted(x, before)
        close(y, expected)
        for one, other in zip(*((s if isinstance(s, tuple) else (s,)) for s in (after, last)), strict=True):
            close(one, other)


@torch.no_grad()
@pytest.mark.parametrize("directions", ["sum", "concat"])
@pytest.mark.parametrize("cell", CELLS)
def test_both_directions_in_one_loop(cell: str, directions: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(cell=cell, rnn_size=6, directions=directions, batch_norm=False, shared_input_weights=True)
    layer = RecurrentLayer(4, config).eval()
    x, lengths = torch.randn(8, 3, 4), torch.tensor([8, 5, 0])
    mask = (torch.arange(8)[:, None] < lengths)[..., None]
    y, expected = (module(x, lengths, mask) for module in (BothDirections(layer, TimeReversal()), layer))
    close(y * mask, expected * mask)


def exported(folder: Path, model: ModelConfig, feature: FeatureConfig, recurrence: str) -> None:
    """A half- and a full-precision graph, offline and, where it can be, as a stream, compared with PyTorch."""
    metadata = tiny_metadata(model, feature)
    network = tiny_model(metadata)
    (folder / METADATA_FILE).write_text(metadata.to_json())
    written = open_model(folder)
    candidates = []
    if metadata.streaming_obstacles:
        for precision in ("fp32", "fp16"):
            name = "model.onnx" if precision == "fp32" else "model.fp16.onnx"
            write_onnx(network, folder / name, precision, recurrence)
            candidates.append((OrtBackend(written, device="cpu", precision=precision), precision))
    else:
        write_stream_onnx(network, folder / "stream.onnx", "fp32", metadata.stream_chunk_samples(), recurrence)
        candidates.append((Streamed(OrtStreamBackend(written, device="cpu"), metadata), "fp32"))
    report = compare(TorchBackend.of(network), candidates, probe_recordings(metadata))
    assert report.passed, report.failures()
    if importlib.util.find_spec("tensorrt_rtx"):
        from export.profiles import parse_seconds
        from export.to_tensorrt import build_engine

        stream = not metadata.streaming_obstacles
        build_engine(folder, fp16=not stream, stream=stream, seconds=[] if stream else [parse_seconds("0:1:2")])


def nodes(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_an_offline_graph_with_loops(tmp_path: Path) -> None:
    model = ModelConfig(conv=CONV_2D, cell="gru", rnn_layers=2, rnn_size=8)
    exported(tmp_path, model, FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512), "loop")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node].count("Scan") == 2  # one for both directions of a layer
    assert not {"GRU", "Loop"} & nodes(tmp_path / "model.onnx")


def test_a_stream_without_loops(tmp_path: Path) -> None:
    model = ModelConfig(conv=CONV_2D, cell="lstm", rnn_layers=1, rnn_size=8, bidirectional=False, lookahead=3)
    feature = FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512, normalization="global")
    exported(tmp_path, model, feature, "unrolled")
    assert not {"LSTM", "Scan", "Loop"} & nodes(tmp_path / "stream.onnx")


def test_windows_without_loops(tmp_path: Path) -> None:
    """A direction each, for they take different steps."""
    model = ModelConfig(conv=CONV_2D, cell="gru", rnn_layers=1, rnn_size=8, window=2, window_context=3)
    feature = FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512, normalization="global")
    exported(tmp_path, model, feature, "unrolled")
    assert not {"GRU", "Scan", "Loop"} & nodes(tmp_path / "stream.onnx")


def test_projection_is_one_product() -> None:
    """All frames and both directions: (T B, D) by (D, N G H)."""
    hoisted = HoistedRNN([nn.GRU(5, 7), nn.GRU(5, 7)], unrolled=False)
    assert hoisted.w.shape == (5, 2 * 3 * 7)
    assert [tuple(part.shape) for part in hoisted.project(torch.zeros(9, 3, 5))] == [(9, 3, 21)] * 2
    assert np.prod(hoisted.r.shape) == 2 * 7 * 21
