"""Loading an engine: every fact is checked before the library sees a byte. TensorRT and the GPUs are fakes."""

import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from ds2_deploy.errors import BackendUnavailableError, EngineError, MissingPackageError
from ds2_deploy.model_folder import ModelFolder, open_model
from ds2_deploy.runtime.engine_file import open_engine
from ds2_deploy.runtime.engine_info import EngineInfo
from ds2_deploy.runtime.gpu import Gpu
from ds2_deploy.runtime.trt import BuildOptions
from export.to_tensorrt import build_engine
from tests import fake_tensorrt
from tests.tiny_graph import write_model

H200, L4 = Gpu("NVIDIA H200", (9, 0)), Gpu("NVIDIA L4", (8, 9))
A100, T4 = Gpu("NVIDIA A100", (8, 0)), Gpu("Tesla T4", (7, 5))


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """TensorRT 10.9.0 with an H200; as TensorRT-RTX, too, which has the same API."""
    fake_tensorrt.reset()
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, fake_tensorrt)
    monkeypatch.setattr("ds2_deploy.runtime.trt.installed", lambda _: True)
    monkeypatch.setattr("ds2_deploy.runtime.trt.gpus", lambda: [H200])
    return fake_tensorrt


@pytest.fixture
def model(tmp_path: Path, tensorrt: ModuleType) -> ModelFolder:
    write_model(tmp_path / "model")
    return open_model(tmp_path / "model")


def changed(path: Path, **facts: object) -> None:
    """Another fact in the JSON beside an engine."""
    info = EngineInfo.read(path.with_suffix(".json"))
    msgspec.structs.replace(info, **facts).write(path.with_suffix(".json"))


def refusal(model: ModelFolder, gpu: Gpu = H200) -> str:
    with pytest.raises(EngineError) as caught:
        open_engine(model, gpu, "fp32")
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


def test_an_engine_in_order(model: ModelFolder) -> None:
    path = build_engine(model.path)
    engine = open_engine(model, H200, "fp32")
    assert (engine.path, engine.plan, engine.tensorrt.name) == (path, b"plan", "tensorrt")


def test_another_gpu(model: ModelFolder) -> None:
    build_engine(model.path)
    assert (
        "was built by TensorRT 10.9.0 for compute capability 9.0; this is TensorRT 10.9.0 on NVIDIA L4 (compute "
        "capability 8.9): build it again here."
    ) in refusal(model, L4)


def test_another_version(model: ModelFolder) -> None:
    path = build_engine(model.path)
    for version in ("10.8.0", "10.9.0.1", "10.10.0", "11.0.0"):
        changed(path, runtime_version=version)
        assert f"built by TensorRT {version} for compute capability 9.0; this is TensorRT 10.9.0" in refusal(model)


@pytest.mark.parametrize(
    ("built", "served"), [("10.8.0", True), ("10.9rc3.0", True), ("10.10.0", False), ("9.3.0", False)]
)
def test_a_version_compatible_engine_serves_later_ones_of_its_generation(
    model: ModelFolder, built: str, served: bool
) -> None:
    path = build_engine(model.path, options=BuildOptions(version_compatible=True))
    changed(path, runtime_version=built)
    if served:
        assert open_engine(model, H200, "fp32").path == path
    else:
        assert f"built by TensorRT {built}" in refusal(model)


@pytest.mark.parametrize(("gpu", "served"), [(H200, True), (L4, True), (A100, True), (T4, False)])
def test_a_hardware_compatible_engine_serves_later_gpus(model: ModelFolder, gpu: Gpu, served: bool) -> None:
    path = build_engine(model.path, options=BuildOptions(hardware_compatible=True))
    if served:
        assert open_engine(model, gpu, "fp32").path == path
    else:
        assert "for compute capability 8.0+; this is TensorRT 10.9.0 on Tesla T4" in refusal(model, gpu)


def test_another_model(model: ModelFolder) -> None:
    build_engine(model.path)
    graph = model.path / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    assert "was built from another model.onnx than the one beside it: add --rebuild" in refusal(model)


def test_other_metadata(model: ModelFolder) -> None:
    build_engine(model.path)
    other = ModelFolder(model.path, msgspec.structs.replace(model.metadata, name="another"))
    assert "was built from another model.onnx" in refusal(other)


def test_the_graph_need_not_travel_with_the_engine(model: ModelFolder) -> None:
    path = build_engine(model.path)
    (model.path / "model.onnx").unlink()
    assert open_engine(model, H200, "fp32").path == path


def test_a_truncated_and_an_altered_plan(model: ModelFolder) -> None:
    path = build_engine(model.path)
    path.write_bytes(b"pla")
    assert "has 3 bytes where its JSON says 4: it is cut off" in refusal(model)
    path.write_bytes(b"Plan")
    assert "is not what its JSON describes (SHA-256): it was altered" in refusal(model)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "Cannot read"), (b"", "does not describe an engine"), (b'{"runtime": "x"}', "does not describe")],
)
def test_a_json_that_is_missing_or_wrong(model: ModelFolder, content: bytes | None, reason: str) -> None:
    path = build_engine(model.path).with_suffix(".json")
    path.unlink() if content is None else path.write_bytes(content)
    assert reason in refusal(model)


def test_a_damaged_engine_of_another_precision_is_not_to_blame(model: ModelFolder) -> None:
    build_engine(model.path, fp16=True).with_suffix(".json").write_bytes(b"")
    with pytest.raises(BackendUnavailableError, match=r"has no TensorRT engine of model\.onnx"):
        open_engine(model, H200, "fp32")
    with pytest.raises(EngineError, match="does not describe an engine"):
        open_engine(model, H200, "fp16")


def test_a_gpu_that_is_none(model: ModelFolder) -> None:
    path = build_engine(model.path).with_suffix(".json")
    path.write_text(path.read_text().replace('"9.0"', '"sm90"'))
    assert "does not describe an engine" in refusal(model)


def test_another_precision_is_no_engine_of_this_one(model: ModelFolder) -> None:
    build_engine(model.path, fp16=True)
    with pytest.raises(BackendUnavailableError, match=r"has no TensorRT engine of model\.onnx: .*build-engine \S+\.$"):
        open_engine(model, H200, "fp32")
    with pytest.raises(BackendUnavailableError, match=r"of stream\.fp16\.onnx: .* --fp16 --stream\.$"):
        open_engine(model, H200, "fp16", stream=True)


def test_the_best_engine_comes_first(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    build_engine(model.path, options=BuildOptions(tf32=True))
    portable = build_engine(model.path, runtime="tensorrt-rtx")
    assert open_engine(model, H200, "fp32").path == portable  # rather than rounded products
    compatible = build_engine(model.path, options=BuildOptions(hardware_compatible=True))
    assert open_engine(model, H200, "fp32").path == compatible
    own = build_engine(model.path)
    assert open_engine(model, H200, "fp32").path == own
    assert open_engine(model, L4, "fp32").path == compatible  # the first that can be used
    assert refusal(model, T4).startswith(f"{own} was built by")  # where none can, the best says why


def test_a_runtime_that_is_not_installed(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    build_engine(model.path)
    monkeypatch.setattr("ds2_deploy.runtime.trt.installed", lambda _: False)
    with pytest.raises(MissingPackageError, match=r"pip install 'ds2_deploy\[tensorrt\]'"):
        open_engine(model, H200, "fp32")
