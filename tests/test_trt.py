"""The seam over TensorRT and TensorRT-RTX: the choice, the versions, the log. TensorRT itself is a fake."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ds2_deploy.errors import BackendUnavailableError, ConfigError, EngineError, MissingPackageError
from ds2_deploy.runtime.engine_info import EngineInfo
from ds2_deploy.runtime.gpu import Gpu
from ds2_deploy.runtime.trt import BuildOptions, choose
from export.profiles import parse_batch, parse_seconds
from export.progress import BuildProgress
from export.to_tensorrt import build_engine
from tests import fake_tensorrt
from tests.tiny_graph import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu("NVIDIA H200", (9, 0))
    monkeypatch.setattr("ds2_deploy.runtime.trt.gpus", lambda: [gpu])
    return gpu


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """TensorRT 10 as far as building calls it; what it was asked is in `fake.asked`."""
    fake_tensorrt.reset()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    return fake_tensorrt


class TestTensorRT:
    def test_version_10(self, model: Path, fake: ModuleType, h200: Gpu) -> None:
        path = build_engine(model, fp16=True, batch=parse_batch("1:2:4"), seconds=[parse_seconds("1:2:3")])
        assert path.name == "model.fp16.tensorrt-sm90.engine"
        assert path.read_bytes() == b"plan"
        assert fake.asked == {
            "network_flags": 1 << 1,  # strongly typed
            "parsed": str(model / "model.fp16.onnx"),
            "cleared": ["TF32"],
            "hardware": "NONE",
            "profiles": [
                {"audio": ((1, 16000), (2, 32000), (4, 48000)), "audio_lengths": ((1,), (2,), (4,))},
            ],
        }
        info = json.loads(path.with_suffix(".json").read_text())
        assert (info["runtime"], info["runtime_version"]) == ("tensorrt", "10.9.0")
        assert (info["gpu"], info["compute_capability"]) == ("NVIDIA H200", "9.0")

    def test_what_an_engine_gives_up(self, model: Path, fake: ModuleType, h200: Gpu) -> None:
        options = BuildOptions(tf32=True, hardware_compatible=True, version_compatible=True)
        path = build_engine(model, options=options)
        assert path.name == "model.tf32.tensorrt-sm80plus.engine"
        assert "cleared" not in fake.asked
        assert (fake.asked["set"], fake.asked["hardware"]) == (["VERSION_COMPATIBLE"], "AMPERE_PLUS")
        info = EngineInfo.read(path.with_suffix(".json"))
        assert (info.tf32, info.version_compatible, info.compute_capability) == (True, True, "8.0+")
        assert info.gpu == "NVIDIA H200"  # on which it was tuned

    def test_hardware_compatible_on_what_is_too_old(
        self, model: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ds2_deploy.runtime.trt.gpus", lambda: [Gpu("Tesla T4", (7, 5))])
        with pytest.raises(ConfigError, match=r"needs a GPU of compute capability 8\.0 or later: this is Tesla T4"):
            build_engine(model, options=BuildOptions(hardware_compatible=True))

    def test_the_timing_cache_grows_from_build_to_build(self, model: Path, fake: ModuleType, h200: Gpu) -> None:
        cache = build_engine(model).with_name("tensorrt-sm90.10.9.0.timing-cache")
        assert cache.read_bytes() == b"+"
        build_engine(model, fp16=True)
        assert cache.read_bytes() == b"++"

    @pytest.mark.parametrize("content", [b"damaged", b"another driver's"])
    def test_a_timing_cache_that_is_refused(
        self, model: Path, fake: ModuleType, h200: Gpu, monkeypatch: pytest.MonkeyPatch, content: bytes
    ) -> None:
        (model / "engines").mkdir()
        cache = model / "engines" / "tensorrt-sm90.10.9.0.timing-cache"
        cache.write_bytes(content)
        monkeypatch.setattr(fake, "plan", None)
        with pytest.raises(EngineError, match=r"Internal Error \(out of memory\)"):  # not what is wrong with the cache
            build_engine(model)
        monkeypatch.setattr(fake, "plan", b"plan")
        build_engine(model)
        assert cache.read_bytes() == b"+"

    def test_a_graph_that_is_replaced_meanwhile(self, model: Path, fake: ModuleType, h200: Gpu) -> None:
        graph = model / "model.onnx"

        def replace(share: float, phase: str) -> None:
            other = graph.with_suffix(".other")
            other.write_bytes(graph.read_bytes() + b"\x00")
            other.rename(graph)

        with pytest.raises(EngineError, match=r"model\.onnx was replaced while an engine was built from it"):
            build_engine(model, progress=BuildProgress(replace))
        assert not list(model.glob("engines/*.engine"))

    def test_progress_is_told_and_can_stop_the_build(self, model: Path, fake: ModuleType, h200: Gpu) -> None:
        heard: list[tuple[float, str]] = []
        progress = BuildProgress(lambda share, phase: heard.append((share, phase)))
        build_engine(model, progress=progress)
        assert heard == [(0.0, "whole"), (0.5, "whole")]
        progress.stop()
        with pytest.raises(EngineError, match="gave no reason"):
            build_engine(model, fp16=True, progress=progress)

    def test_a_later_version_without_the_flag(
        self, model: Path, fake: ModuleType, h200: Gpu, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fake, "__version__", "12.0.0")
        monkeypatch.delattr(fake.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        build_engine(model)
        assert fake.asked["network_flags"] == 0

    @pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
    def test_the_fake_calls_nothing_that_is_not_there(self) -> None:
        """TensorRT-RTX has TensorRT's API: what the fake offers must exist under the same names."""
        import tensorrt_rtx

        for name in fake_tensorrt.CLASSES:
            mine, real = getattr(fake_tensorrt, name), getattr(tensorrt_rtx, name)
            assert {a for a in vars(mine) if not a.startswith("_")} <= set(dir(real)), name

    def test_automatic_choice(self, fake: ModuleType, h200: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
        assert choose("auto").name == "tensorrt"
        monkeypatch.setattr("ds2_deploy.runtime.trt.gpus", list)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)
        assert choose("auto").name == "tensorrt-rtx"

    def test_without_a_gpu(self, fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ds2_deploy.runtime.trt.gpus", list)
        with pytest.raises(BackendUnavailableError, match=r"driver offers none here: .* --runtime tensorrt-rtx"):
            choose("tensorrt")

    def test_too_old(self, fake: ModuleType, h200: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fake, "__version__", "8.6.1")
        with pytest.raises(BackendUnavailableError, match=r"TensorRT 8\.6\.1 is too old: install version 10"):
            choose("tensorrt")

    @pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx", "auto"])
    def test_not_installed(self, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ds2_deploy.runtime.trt.installed", lambda _: False)
        with pytest.raises(MissingPackageError, match=r"pip install 'ds2_deploy\[tensorrt(-rtx)?\]'"):
            choose(runtime)

    def test_installed_but_broken(self, tmp_path: Path, h200: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        with pytest.raises(BackendUnavailableError, match=r"does not load: libnvinfer\.so\.10"):
            choose("tensorrt")

    def test_library_that_does_not_start(
        self, model: Path, fake: ModuleType, h200: Gpu, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fake, "starts", False)
        with pytest.raises(EngineError, match=r"TensorRT 10\.9\.0 cannot .*: CUDA initialization failure"):
            build_engine(model)

    def test_failed_build_says_why_once_and_logs_the_rest(
        self,
        model: Path,
        fake: ModuleType,
        h200: Gpu,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(fake, "plan", None)
        with pytest.raises(EngineError, match=r"model\.onnx: Internal Error \(out of memory\)\.$"):
            build_engine(model)
        assert [record.message for record in caplog.records] == ["second complaint"]
        assert not (model / "engines").exists()


def test_cuda_complaints_count_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU TensorRT-RTX logs them while all is well; with one they are the reason."""
    for gpus, kept in (([], ["real"]), ([Gpu("NVIDIA H200", (9, 0))], ["cudaError 35: x", "real"])):
        monkeypatch.setattr("ds2_deploy.runtime.trt.gpus", lambda gpus=gpus: gpus)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt)
        log = choose("tensorrt-rtx").create_log()
        log.log(fake_tensorrt.ILogger.Severity.ERROR, "cudaError 35: x")
        log.log(fake_tensorrt.ILogger.Severity.INTERNAL_ERROR, "real")
        log.log(fake_tensorrt.ILogger.Severity.WARNING, "warning")
        assert log.errors == kept
