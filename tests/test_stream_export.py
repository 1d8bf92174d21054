"""The exported streaming graph: its interface, and its frames against the offline graph's and PyTorch's."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession

from ds2_deploy.audio.load import load_audio
from ds2_deploy.errors import ModelError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import Checkpoint
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model_folder import ModelFolder, Precision, graph_file, open_model
from ds2_deploy.runtime import open_stream_backend
from ds2_deploy.runtime.ort_backend import OrtBackend, OrtStreamBackend
from ds2_deploy.runtime.protocol import Emissions, pad_batch
from ds2_deploy.runtime.streamed import Streamed
from ds2_deploy.runtime.torch_backend import TorchBackend
from export.exporter import export_model
from export.to_onnx import write_stream_onnx
from tests.conftest import noise
from tests.test_streaming_model import awkward_lengths, network

NETWORKS = {  # cell: features, convolutions, lookahead
    "rnn": ("running", "1d, stride 3", 4),
    "gru": ("centred", "2d, even kernels", 4),
    "lstm": ("windows of two and a half hops", "strides longer than kernels", 0),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeepSpeech2, Path]:
    """A GRU with lookahead, exported whole."""
    root = tmp_path_factory.mktemp("stream")
    model = network("gru", *NETWORKS["gru"])
    Checkpoint(metadata=model.metadata, weights=model.state_dict()).save(root / "model.pt")
    report = export_model(root / "model.pt", root / "model", chunk_ms=50)
    assert report.passed
    return model, root / "model"


def frames_of(emissions: Emissions) -> list[np.ndarray]:
    return [row[:length] for row, length in zip(emissions.log_probs, emissions.lengths, strict=True)]


@pytest.fixture(scope="module", params=NETWORKS)
def stream_graph(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DeepSpeech2, OrtStreamBackend]:
    """A network of each cell, and its streaming graph in ONNX Runtime."""
    model = network(request.param, *NETWORKS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    chunk = 3 * model.metadata.stream_unit_samples
    write_stream_onnx(model, folder / "stream.onnx", "fp32", chunk)
    backend = OrtStreamBackend(ModelFolder(folder, model.metadata), device="cpu", threads=1)
    assert backend.chunk_samples == chunk
    return model, backend


def check_against_pytorch(graph: tuple[DeepSpeech2, OrtStreamBackend], recordings: list[np.ndarray]) -> None:
    """Side by side in chunks, each must give what it gives alone and whole."""
    model, backend = graph
    batch = pad_batch(recordings)
    got = frames_of(Streamed(backend, model.metadata).run(*batch))
    reference = TorchBackend.of(model)
    for recording, frames in zip(recordings, got, strict=True):
        expected = frames_of(reference.run(recording[None], np.array([len(recording)])))[0]
        assert frames.shape == expected.shape
        np.testing.assert_allclose(frames, expected, atol=1e-4)


def test_chunks_of_any_length_equal_the_whole(stream_graph: tuple[DeepSpeech2, OrtStreamBackend]) -> None:
    lengths = awkward_lengths(stream_graph[0].metadata, stream_graph[1].chunk_samples)
    check_against_pytorch(stream_graph, [noise(n, seed=n) for n in lengths])


def test_chunks_of_speech_equal_the_whole(stream_graph: tuple[DeepSpeech2, OrtStreamBackend], ds2_data: Path) -> None:
    rate = stream_graph[0].metadata.feature.sample_rate
    files = sorted((ds2_data / "an4/wav/test").rglob("*.flac"))[::20]
    check_against_pytorch(stream_graph, [load_audio(file, rate) for file in files])


@pytest.mark.parametrize(("precision", "gap"), [("fp32", 2e-5), ("fp16", 0.02)])
def test_stream_and_offline_graph_agree(exported: tuple[DeepSpeech2, Path], precision: Precision, gap: float) -> None:
    model = open_model(exported[1])
    recordings = [noise(n, seed=n) for n in awkward_lengths(model.metadata, 800)]
    batch = pad_batch(recordings)
    whole = OrtBackend(model, device="cpu", precision=precision, threads=1).run(*batch)
    stream = OrtStreamBackend(model, device="cpu", precision=precision, threads=1)
    for frames, expected in zip(frames_of(Streamed(stream, model.metadata).run(*batch)), frames_of(whole), strict=True):
        np.testing.assert_allclose(frames, expected, atol=gap)


def test_full_short_and_empty_rows_in_one_batch(exported: tuple[DeepSpeech2, Path]) -> None:
    """Each row is what it would be alone, in the state as in the frames."""
    backend = open_stream_backend("onnxruntime", open_model(exported[1]), device="cpu", threads=1)
    chunk, rng = backend.chunk_samples, np.random.default_rng(0)
    lengths = np.array([chunk, chunk // 3, 0, chunk, 1])
    state = backend.initial_state(5)
    for _ in range(4):
        audio = 0.1 * rng.standard_normal((5, chunk)).astype(np.float32)
        together = backend.step(audio, lengths, state)
        for row in range(5):
            one = slice(row, row + 1)
            alone = backend.step(audio[one], lengths[one], state[one])
            count = int(alone.lengths[0])
            assert together.lengths[row] == count
            np.testing.assert_allclose(together.log_probs[row, :count], alone.log_probs[0, :count], atol=2e-5)
            np.testing.assert_allclose(together.state[row], alone.state[0], atol=2e-5)
        state = together.state
        lengths = np.where(lengths == chunk, lengths, 0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_interface(exported: tuple[DeepSpeech2, Path], precision: str) -> None:
    path = exported[1] / graph_file(precision, stream=True)
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    found = {tensor.name: (tensor.type, tensor.shape) for tensor in (*session.get_inputs(), *session.get_outputs())}
    size = found["state"][1][1]
    assert isinstance(size, int)
    assert found == {
        "audio": ("tensor(float)", ["batch", 960]),  # 50 ms, rounded up to frames of 20
        "audio_lengths": ("tensor(int64)", ["batch"]),
        "state": ("tensor(float)", ["batch", size]),
        "log_probs": ("tensor(float)", ["batch", 3, 29]),
        "lengths": ("tensor(int64)", ["batch"]),
        "next_state": ("tensor(float)", ["batch", size]),
    }
    metadata = ModelMetadata.from_json(session.get_modelmeta().custom_metadata_map["ds2"], str(path))
    assert metadata == exported[0].metadata


def test_nothing_of_this_machine_is_in_the_file(exported: tuple[DeepSpeech2, Path]) -> None:
    assert str(Path(__file__).parent.parent).encode() not in (exported[1] / "stream.onnx").read_bytes()


def test_half_precision_is_inside_alone(exported: tuple[DeepSpeech2, Path]) -> None:
    graph = onnx.load(exported[1] / "stream.fp16.onnx").graph
    types = {i.name: i.data_type for i in graph.initializer}
    weights = [types[node.input[1]] for node in graph.node if node.op_type in ("Conv", "GRU")]
    assert weights[0] == onnx.TensorProto.FLOAT  # the spectrogram
    assert set(weights[1:]) == {onnx.TensorProto.FLOAT16}


def test_the_report_covers_the_stream(exported: tuple[DeepSpeech2, Path]) -> None:
    report = json.loads((exported[1] / "parity.json").read_text())
    assert [(d["backend"], d["precision"]) for d in report["differences"]] == [
        ("onnxruntime", "fp32"),
        ("onnxruntime stream", "fp32"),
        ("onnxruntime", "fp16"),
        ("onnxruntime stream", "fp16"),
    ]


def test_a_model_that_cannot_stream_says_why() -> None:
    with pytest.raises(ModelError, match=r"cannot stream: .*'utterance'.*; model.bidirectional is true"):
        open_stream_backend("onnxruntime", open_model("default"))


@pytest.mark.parametrize("fp16", [False, True])
def test_an_engine_builds_of_it(exported: tuple[DeepSpeech2, Path], fp16: bool) -> None:
    pytest.importorskip("tensorrt_rtx")
    from ds2_deploy.runtime.engine_info import EngineInfo
    from export.to_tensorrt import build_engine

    engine = build_engine(exported[1], fp16=fp16, stream=True, runtime="tensorrt-rtx")
    info = EngineInfo.read(engine.with_suffix(".json"))
    assert info.source == graph_file("fp16" if fp16 else "fp32", stream=True)
    assert [tensor.name for tensor in info.outputs] == ["log_probs", "lengths", "next_state"]
    assert {tensor.name: tensor.dtype for tensor in info.inputs}["state"] == "float32"
