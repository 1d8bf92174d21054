"""ONNX Runtime behind the Backend protocol, the choice of backends, and finding models."""

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ds2_deploy import runtime
from ds2_deploy.errors import (
    BackendUnavailableError,
    ConfigError,
    DS2Error,
    MissingPackageError,
    ModelError,
    ModelNotFoundError,
)
from ds2_deploy.model_folder import ModelFolder, open_model
from ds2_deploy.runtime import open_backend, ort_backend
from ds2_deploy.runtime.gpu import Gpu
from ds2_deploy.runtime.ort_backend import CUDA, OrtBackend, _preload_once, choose_device, heavy_on_cpu
from ds2_deploy.runtime.protocol import INPUTS, OUTPUTS, pad_batch
from tests.conftest import ConvModel, noise


@pytest.fixture
def folder(conv_model: ConvModel, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(conv_model.path, tmp_path / "model"))


def test_cuda_is_also_looked_for_in_the_packages_of_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself looks beside where it lies."""
    here, there = tmp_path / "site", tmp_path / "torch-site"
    for root in (here, there):
        for name in ("cu13/lib", "cudnn/lib", "nccl/include"):
            (root / "nvidia" / name).mkdir(parents=True)
        monkeypatch.syspath_prepend(root)
    looked: list[str | None] = []
    ort: Any = ModuleType("onnxruntime")
    ort.__file__ = str(here / "onnxruntime" / "__init__.py")
    ort.preload_dlls = lambda directory: looked.append(directory)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    _preload_once(ort)
    ours = [folder for folder in looked if folder is None or Path(folder).is_relative_to(tmp_path)]
    assert ours == [None, str(there / "nvidia/cu13/lib"), str(there / "nvidia/cudnn/lib")]


def test_each_row_is_what_it_is_alone(conv_model: ConvModel) -> None:
    backend = open_backend("onnxruntime", open_model(conv_model.path), device="cpu", threads=1)
    assert (backend.name, backend.device) == ("onnxruntime", "cpu")
    recordings = [noise(length, seed=length) for length in (320, 480, 479, 5000)]
    log_probs, lengths = backend.run(*pad_batch(recordings))
    assert log_probs.dtype == np.float32
    assert lengths.tolist() == [1, 2, 1, 30]
    for row, length, samples in zip(log_probs, lengths, recordings, strict=True):
        scores = np.stack([conv_model.weight @ samples[t * 160 : t * 160 + 320] for t in range(length)])  # (T, V)
        expected = scores - np.log(np.exp(scores.astype(np.float64)).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(row[:length], expected, atol=1e-4)


def test_stages_are_those_of_the_same_run(conv_model: ConvModel) -> None:
    backend, batch = OrtBackend(open_model(conv_model.path), device="cpu"), pad_batch([noise(4000), noise(900)])
    emissions, stages = backend.run_in_stages(*batch)
    expected = backend.run(*batch)
    np.testing.assert_array_equal(emissions.log_probs, expected.log_probs)
    np.testing.assert_array_equal(emissions.lengths, expected.lengths)
    assert list(stages) == ["h2d", "compute", "d2h"]


def test_batches_at_the_edge(conv_model: ConvModel) -> None:
    backend = open_backend("onnxruntime", open_model(conv_model.path))
    log_probs, lengths = backend.run(np.zeros((2, 0), dtype=np.float32), np.zeros(2, dtype=np.int64))
    assert log_probs.shape[0] == 2
    assert lengths.tolist() == [0, 0]
    strided = np.asfortranarray(np.stack([noise(640), noise(640, seed=1)]))
    expected = backend.run(np.ascontiguousarray(strided), np.array([640, 640]))
    np.testing.assert_array_equal(backend.run(strided, np.array([640, 640])).log_probs, expected.log_probs)


def test_graphs_that_cannot_be_loaded(folder: Path) -> None:
    model = open_model(folder)
    with pytest.raises(ModelError, match=r"holds no model\.fp16\.onnx"):
        open_backend("onnxruntime", model, precision="fp16")
    (folder / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"cannot load .*model\.onnx") as caught:
        open_backend("onnxruntime", model)
    assert "\n" not in str(caught.value)


def test_a_graph_of_another_project(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(folder / "model.onnx")
    for node in graph.graph.node:
        node.input[:] = ["waveform" if name == "audio" else name for name in node.input]
    graph.graph.input[0].name = "waveform"
    onnx.save(graph, folder / "model.onnx")
    with pytest.raises(ModelError, match="not written by ds2 export"):
        open_backend("onnxruntime", open_model(folder))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"name": "tensorrt"}, BackendUnavailableError, "Cannot run TensorRT on cuda:0|has no TensorRT engine"),
        ({"name": "tensorrt", "device": "cpu"}, BackendUnavailableError, "choose the backend onnxruntime"),
        ({"name": "tpu"}, ConfigError, "no backend 'tpu'"),
        ({"name": "onnxruntime", "device": "cuda:99"}, BackendUnavailableError, "cuda:99"),
        ({"name": "onnxruntime", "device": "gpu"}, ConfigError, "no device 'gpu'"),
        ({"name": "onnxruntime", "device": "cuda:x"}, ConfigError, "no device 'cuda:x'"),
    ],
)
def test_choices_that_cannot_be_had(
    conv_model: ConvModel, options: dict[str, str], error: type[DS2Error], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_backend(model=open_model(conv_model.path), **options)  # type: ignore[arg-type]


def test_auto_takes_what_is_there(conv_model: ConvModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(conv_model.path)
    assert open_backend("auto", model).name == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    monkeypatch.setattr(runtime, "BACKENDS", {**runtime.BACKENDS, "torch": "tests.test_ort_backend:Stub"})
    assert open_backend("auto", model).name == "stub"
    monkeypatch.setattr(runtime, "BACKENDS", {"onnxruntime": runtime.BACKENDS["onnxruntime"]})
    with pytest.raises(MissingPackageError, match=r"pip install 'ds2_deploy\[cpu\]'"):
        open_backend("auto", model)


class Stub:
    name, device = "stub", "cpu"

    def __init__(self, model: ModelFolder, **options: object) -> None: ...


def test_torch_missing_is_one_sentence(conv_model: ConvModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ds2_deploy.runtime.torch_backend")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"'torch'.*ds2_deploy\[train\]"):
        open_backend("torch", open_model(conv_model.path))


def test_models_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'nothing'"):
        open_model("nothing")
    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(b"x")
    with pytest.raises(ModelError, match="ds2 export"):
        open_model(checkpoint)
    (folder / "metadata.json").unlink()
    with pytest.raises(ModelError, match=r"holds no metadata\.json"):
        open_model(folder)


def test_a_newer_format_is_named(folder: Path) -> None:
    metadata = folder / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(ModelError, match=r"metadata\.json has format version 99"):
        open_model(folder)


def test_a_graph_of_another_model_is_refused(tmp_path):
    """Metadata edited after the export would give wrong text without a word."""
    from ds2_deploy.model_folder import BUNDLED

    (tmp_path / "model.onnx").write_bytes((BUNDLED / "default/model.onnx").read_bytes())
    text = (BUNDLED / "default/metadata.json").read_text()
    (tmp_path / "metadata.json").write_text(text.replace('"sample_rate": 16000', '"sample_rate": 8000'))
    with pytest.raises(ModelError, match="exported with another feature"):
        open_backend("onnxruntime", open_model(tmp_path), device="cpu")


def test_heavy_operators_left_to_the_processor_are_named() -> None:
    def part(provider: str, *operators: str) -> SimpleNamespace:
        return SimpleNamespace(
            ep_name=provider, get_nodes=lambda: [SimpleNamespace(op_type=name) for name in operators]
        )

    parts = [part(CUDA, "Conv", "GRU"), part("CPUExecutionProvider", "GRU", "Shape"), part(CUDA, "MatMul")]
    session = SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)
    assert heavy_on_cpu(session) == ["GRU"]
    assert heavy_on_cpu(SimpleNamespace()) == []  # a version that cannot tell


def test_a_session_records_where_its_operators_run() -> None:
    """Of the real one, whose names are read above: on a processor all of them are left to it."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(open_model("default").path / "model.onnx", options, ["CPUExecutionProvider"])
    assert {"GRU", "Conv", "MatMul"} <= set(heavy_on_cpu(session))


class Machine(ModuleType):
    """GPUs, and an ONNX Runtime that starts where it is told to, or on the CPU, and notes how."""

    def __init__(self) -> None:
        super().__init__("onnxruntime")
        self.gpus: list[Gpu] = []
        self.providers = [CUDA, "CPUExecutionProvider"]
        self.started = self.providers
        self.asked: dict[str, Any] = {}

    def get_available_providers(self) -> list[str]:
        return self.providers

    def SessionOptions(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(add_session_config_entry=lambda *_: None)

    def InferenceSession(self, _: Path, options: SimpleNamespace, *, providers: list[Any], **__: object) -> Any:  # noqa: N802
        self.asked = {"threads": options.intra_op_num_threads, "providers": providers}
        inputs, outputs = ([SimpleNamespace(name=name) for name in names] for names in (INPUTS, OUTPUTS))
        return SimpleNamespace(
            get_inputs=lambda: inputs,
            get_outputs=lambda: outputs,
            get_providers=lambda: self.started,
            get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Of two GPUs."""
    made = Machine()
    made.gpus = [Gpu("NVIDIA H200", (9, 0))] * 2
    monkeypatch.setattr(ort_backend, "gpus", lambda: made.gpus)
    monkeypatch.setattr(ort_backend, "_preload", lambda _: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", made)
    return made


@pytest.mark.parametrize(
    ("device", "gpus", "cuda", "chosen"),
    [
        ("auto", 2, True, "cuda:0"),
        ("auto", 0, True, "cpu"),  # the package for GPUs, on a machine without
        ("auto", 2, False, "cpu"),
        ("cpu", 2, True, "cpu"),
        ("cuda", 2, True, "cuda:0"),
        ("cuda:1", 2, True, "cuda:1"),
        ("cuda:2", 2, True, "only 2 GPUs were found"),
        ("cuda:0", 0, True, "no NVIDIA GPU or driver was found"),
        ("cuda:0", 2, False, "knows no CUDA"),
    ],
)
def test_the_device_is_the_one_asked_for(machine: Machine, device: str, gpus: int, cuda: bool, chosen: str) -> None:
    machine.gpus = machine.gpus[:gpus]
    machine.providers = machine.providers if cuda else machine.providers[1:]
    if chosen.startswith(("cpu", "cuda")):
        assert choose_device(machine, device) == chosen
    else:
        with pytest.raises(BackendUnavailableError, match=f"Cannot use {device}: .*{chosen}"):
            choose_device(machine, device)


def test_a_session_on_a_gpu_does_not_round_and_has_its_threads(conv_model: ConvModel, machine: Machine) -> None:
    assert OrtBackend(open_model(conv_model.path), device="cuda:1", threads=3).device == "cuda:1"
    (cuda, options), cpu = machine.asked["providers"]
    assert (machine.asked["threads"], cuda, cpu) == (3, CUDA, "CPUExecutionProvider")
    assert (options["device_id"], options["use_tf32"]) == (1, 0)
    OrtBackend(open_model(conv_model.path), device="cpu")
    assert machine.asked == {"threads": 0, "providers": ["CPUExecutionProvider"]}


def test_a_session_that_falls_back_to_the_processor_is_none(conv_model: ConvModel, machine: Machine) -> None:
    machine.started = machine.providers[1:]
    with pytest.raises(BackendUnavailableError, match=r"could not start CUDA on cuda:0: its CUDA and cuDNN libraries"):
        OrtBackend(open_model(conv_model.path))


def test_a_provider_that_does_not_start_says_so_and_prints_nothing(
    conv_model: ConvModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ort = pytest.importorskip("onnxruntime")

    def start(self: object, *_: object) -> None:
        raise RuntimeError("CUDA_PATH is set but CUDA wasn't able to be loaded.\nPlease install it.")

    monkeypatch.setattr("ds2_deploy.runtime.ort_backend.choose_device", lambda *_: "cuda:0")
    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", start)
    with pytest.raises(BackendUnavailableError, match=r"could not start CUDA on cuda:0: CUDA_PATH is set .* loaded\.$"):
        OrtBackend(open_model(conv_model.path), device="cuda:0")
    assert capsys.readouterr().out == ""
