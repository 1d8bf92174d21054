"""The TensorRT backend above the device seam: a fake GPU computes with ONNX Runtime, late and strictly."""

import gc
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.bench.worker import Inputs, Spec, _Worker
from ds2_deploy.commands.parity import _candidates
from ds2_deploy.errors import BackendUnavailableError, EngineError, InferenceError, MissingPackageError
from ds2_deploy.model_folder import ModelFolder, open_model
from ds2_deploy.runtime import open_backend, trt_backend
from ds2_deploy.runtime.cuda_device import DeviceMemoryError
from ds2_deploy.runtime.gpu import Gpu
from ds2_deploy.runtime.ort_backend import OrtBackend
from ds2_deploy.runtime.protocol import pad_batch
from ds2_deploy.runtime.trt_backend import TensorRTBackend, TensorRTStreamBackend
from ds2_deploy.runtime.trt_engine import Lane
from export.profiles import parse_batch, parse_seconds
from export.to_tensorrt import build_engine
from tests import fake_cuda, fake_tensorrt
from tests.fake_cuda import FakeDevice
from tests.tiny_graph import onnx, write_model

H200 = Gpu("NVIDIA H200", (9, 0))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A GPU, its driver and TensorRT 10.9."""
    fake_tensorrt.reset()
    made = FakeDevice()
    monkeypatch.setattr(fake_cuda.Runtime, "device", made, raising=False)
    monkeypatch.setattr(fake_tensorrt, "Runtime", fake_cuda.Runtime, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    for module in ("trt", "trt_backend"):
        monkeypatch.setattr(f"ds2_deploy.runtime.{module}.gpus", lambda: [H200])
    monkeypatch.setattr(trt_backend, "PycudaDevice", lambda ordinal: made)
    return made


@pytest.fixture
def model(tmp_path: Path, device: FakeDevice) -> ModelFolder:
    """With an engine of two profiles, up to one and up to three seconds, of up to four recordings."""
    write_model(tmp_path / "model")
    build_engine(
        tmp_path / "model", batch=parse_batch("1:2:4"), seconds=[parse_seconds("0:1:1"), parse_seconds("1:2:3")]
    )
    return open_model(tmp_path / "model")


def recordings(*seconds: float, seed: int = 0) -> list[npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [0.1 * rng.standard_normal(int(length * 16_000)).astype(np.float32) for length in seconds]


def assert_same(backend: TensorRTBackend, model: ModelFolder, audio: list[npt.NDArray[np.float32]]) -> None:
    batch = pad_batch(audio)
    got, expected = backend.run(*batch), OrtBackend(model, device="cpu").run(*batch)
    np.testing.assert_array_equal(got.lengths, expected.lengths)
    for row, other, length in zip(got.log_probs, expected.log_probs, expected.lengths, strict=True):
        np.testing.assert_allclose(row[:length], other[:length], atol=1e-3)  # its wild weights enlarge rounding


@pytest.mark.parametrize(
    "seconds", [(0.5,), (0.02,), (0.01,), (1.0, 0.3), (2.9, 1.1, 0.2, 2.0), (0.4,) * 9, (3.0,) * 5]
)
def test_says_what_onnx_runtime_says(model: ModelFolder, seconds: tuple[float, ...]) -> None:
    """Short ones are padded to the profile, large batches are split to fit it."""
    backend = open_backend("tensorrt", model)
    assert isinstance(backend, TensorRTBackend)
    assert (backend.name, backend.device, backend.max_samples) == ("tensorrt", "cuda:0", 48_000)
    assert_same(backend, model, recordings(*seconds))


def test_memory_is_used_again_and_given_back(model: ModelFolder, device: FakeDevice) -> None:
    backend = TensorRTBackend(model)
    for seconds in ((0.5,), (3.0, 2.0), (0.3, 0.2), (2.5, 1.0)):
        assert_same(backend, model, recordings(*seconds))
    assert len(device.memory) == 4  # an array per tensor, each as large as the largest so far
    assert device.made_streams == 1  # one caller, one lane
    backend.close()
    assert not device.memory
    with pytest.raises(InferenceError, match="was closed"):
        backend.run(*pad_batch(recordings(0.5)))


def test_what_is_forgotten_is_given_back_in_whichever_thread(model: ModelFolder, device: FakeDevice) -> None:
    backends = [TensorRTBackend(model)]
    assert_same(backends[0], model, recordings(0.5))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(backends.clear).result(10)
    gc.collect()
    assert (device.memory, len(device.streams), device.leaked) == ({}, 0, 0)


def test_stages_are_those_of_the_same_run(model: ModelFolder) -> None:
    backend, batch = TensorRTBackend(model), pad_batch(recordings(*(0.4,) * 9))  # two runs of the profile
    emissions, stages = backend.run_in_stages(*batch)
    np.testing.assert_array_equal(emissions.log_probs, backend.run(*batch).log_probs)
    assert set(stages) == {"h2d", "compute", "d2h", "enqueue"}
    assert stages["enqueue"] <= stages["compute"]
    assert min(stages.values()) > 0


def test_bench_measures_it(model: ModelFolder) -> None:
    worker = _Worker(Spec(str(model.path), "tensorrt", "fp32", "cuda:0", 1, stream=False))
    (engine,) = (model.path / "engines").glob("*.engine")
    loaded = worker.loaded
    assert (loaded.runtime, loaded.max_samples) == ("TensorRT 10.9.0", 48_000)
    assert loaded.file_mb == engine.stat().st_size / 1e6
    assert loaded.build_s is not None
    assert loaded.build_s > 0
    inputs = Inputs(*pad_batch(recordings(1.0, 0.3)))
    assert len(worker.prepare(inputs)) == OrtBackend(model, device="cpu").run(*inputs).lengths.sum()
    timed = worker.runs(0.05)
    assert timed.wrong == 0
    assert set(timed.stages) == {"h2d", "compute", "d2h", "enqueue"}


def test_parity_compares_what_there_is_an_engine_of(model: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for by name, too; but one that is there and cannot be used is an error."""
    ((backend, precision),) = _candidates(model, ["tensorrt"], "auto")
    assert (backend.name, precision) == ("tensorrt", "fp32")
    assert "Not tensorrt fp16: " in capsys.readouterr().err
    (path,) = (model.path / "engines").glob("*.engine")
    path.write_bytes(b"cut off")
    with pytest.raises(EngineError, match="cut off"):
        _candidates(model, ["tensorrt"], "auto")
    for engine in (path, path.with_suffix(".json")):
        engine.unlink()
    with pytest.raises(BackendUnavailableError, match=r"has no TensorRT engine of model\.onnx"):
        _candidates(model, ["tensorrt"], "auto")


def test_where_nothing_runs_onnx_runtime_says_why(model: ModelFolder) -> None:
    """Of a model that has but one precision, too."""
    for file in (model.path / "engines").iterdir():
        file.unlink()
    (model.path / "model.onnx").rename(model.path / "model.fp16.onnx")
    with pytest.raises(BackendUnavailableError, match="Cannot use cuda:0"):
        _candidates(model, [], "cuda:0")


def test_results_are_the_callers_own(model: ModelFolder) -> None:
    backend = TensorRTBackend(model)
    first = backend.run(*pad_batch(recordings(0.5))).log_probs
    before = first.copy()
    backend.run(*pad_batch(recordings(0.5, seed=1)))
    np.testing.assert_array_equal(first, before)


def test_longer_than_every_profile(model: ModelFolder) -> None:
    with pytest.raises(InferenceError, match=r"of 3\.5 s is longer than every profile .* takes 3\.0 s: build one with"):
        TensorRTBackend(model).run(*pad_batch(recordings(3.5)))


@pytest.mark.parametrize(("batch", "seconds"), [("3:3:4", "0:1:1"), ("1:2:4", "2:2:3")])
def test_blanks_where_a_profile_asks_for_more(model: ModelFolder, batch: str, seconds: str) -> None:
    """Rows, and samples."""
    fake_tensorrt.reset()  # of the profiles of the engine before
    build_engine(model.path, batch=parse_batch(batch), seconds=[parse_seconds(seconds)], rebuild=True)
    audio, lengths = pad_batch(recordings(0.5, 0.7))
    got = TensorRTBackend(model).run(audio, lengths)
    silence = np.zeros((2, 32_000 - audio.shape[1]), np.float32)  # this graph's convolution sees what follows the end
    longer = np.hstack([audio, silence]) if seconds == "2:2:3" else audio
    expected = OrtBackend(model, device="cpu").run(longer, lengths)
    for row, other, length in zip(got.log_probs, expected.log_probs, expected.lengths, strict=True):
        np.testing.assert_allclose(row[:length], other[:length], atol=1e-3)


def test_a_full_gpu_takes_smaller_batches_and_then_says_so(model: ModelFolder, device: FakeDevice) -> None:
    device.capacity = 400_000  # for two recordings of a second, half as much again, and their results
    backend = TensorRTBackend(model)
    assert_same(backend, model, recordings(1.0, 1.0, 1.0, 0.5))
    device.capacity = 10_000
    with pytest.raises(DeviceMemoryError, match="memory is full"):
        TensorRTBackend(model).run(*pad_batch(recordings(1.0)))
    assert issubclass(DeviceMemoryError, InferenceError)  # which the recogniser knows


def test_threads_take_turns_on_two_lanes(model: ModelFolder, device: FakeDevice) -> None:
    backend = TensorRTBackend(model)
    batches = [pad_batch(recordings(0.3 + 0.2 * n, seed=n)) for n in range(12)]
    expected = [OrtBackend(model, device="cpu").run(*batch).log_probs for batch in batches]
    start = threading.Barrier(6)

    def run(numbers: list[int]) -> list[npt.NDArray[np.float32]]:
        start.wait()
        return [backend.run(*batches[number]).log_probs for number in numbers]

    with ThreadPoolExecutor(6) as pool:
        for pair, found in zip(range(0, 12, 2), pool.map(run, [[n, n + 1] for n in range(0, 12, 2)]), strict=True):
            for number, log_probs in enumerate(found, pair):
                np.testing.assert_allclose(log_probs, expected[number], atol=1e-3)
    assert 1 <= device.made_streams <= 2
    backend.close()
    assert not device.memory


def test_closing_waits_for_who_is_at_work(
    model: ModelFolder, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, inside, ended, run = TensorRTBackend(model), threading.Event(), threading.Event(), Lane.run

    def slow(*arguments: Any) -> Any:
        inside.set()
        time.sleep(0.2)
        result = run(*arguments)
        ended.set()
        return result

    monkeypatch.setattr(Lane, "run", slow)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(backend.run, *pad_batch(recordings(0.5)))
        assert inside.wait(10)
        backend.close()
        assert ended.is_set()
        running.result(10)
    backend.close()  # does nothing more
    assert not device.memory


def test_a_plan_the_library_refuses(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ds2_deploy.runtime.engine_file.checked_plan", lambda *_: b"something else"
    )  # as if the checks had let it pass
    with pytest.raises(EngineError, match=r"TensorRT 10\.9\.0 does not load .*: the plan's magic tag does not fit"):
        TensorRTBackend(model)


class TestStream:
    @pytest.fixture
    def stream_model(self, model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
        """Each row of the state adds up the audio it has heard."""
        text = """
        <ir_version: 10, opset_import: ["": 22]>
        stream (float[B, 1600] audio, int64[B] audio_lengths, float[B, 1600] state)
            => (float[B, 1600, 1] log_probs, int64[B] lengths, float[B, 1600] next_state)
        <int64[1] last = {-1}>
        { next_state = Add(audio, state)  log_probs = Unsqueeze(next_state, last)  lengths = Abs(audio_lengths) }
        """
        onnx.save(onnx.parser.parse_model(text), model.path / "stream.onnx")
        tensor, network = fake_tensorrt._Tensor, fake_tensorrt.INetworkDefinition
        row, count = ("FLOAT", (-1, 1600)), ("INT64", (-1,))
        named = {"audio": row, "audio_lengths": count, "state": row}
        monkeypatch.setattr(network, "_inputs", [tensor(name, *what) for name, what in named.items()])
        named = {"log_probs": ("FLOAT", (-1, 1600, 1)), "lengths": count, "next_state": row}
        monkeypatch.setattr(network, "_outputs", [tensor(name, *what) for name, what in named.items()])
        for name in ("num_inputs", "num_outputs"):
            monkeypatch.setattr(network, name, 3)
        fake_tensorrt.reset()
        build_engine(model.path, stream=True, batch=parse_batch("1:4:6"))
        return model

    def sums(self, backend: TensorRTStreamBackend, batches: list[int]) -> None:
        """Steps of growing and shrinking batches add up, whatever the padding and the graphs."""
        rng = np.random.default_rng(0)
        state, truth = backend.initial_state(10), np.zeros((10, 1600), np.float32)
        for batch in batches:
            audio = rng.standard_normal((batch, 1600)).astype(np.float32)
            step = backend.step(audio, np.arange(batch, dtype=np.int64), state[:batch])
            truth[:batch] += audio
            state[:batch] = step.state
            np.testing.assert_array_equal(step.lengths, np.arange(batch))
            np.testing.assert_allclose(step.log_probs[..., 0], truth[:batch], atol=1e-5)
        np.testing.assert_allclose(state, truth, atol=1e-5)

    def test_steps_in_graphs(self, stream_model: ModelFolder, device: FakeDevice) -> None:
        backend = TensorRTStreamBackend(stream_model)
        assert (backend.chunk_samples, backend.initial_state(2).shape) == (1600, (2, 1600))
        self.sums(backend, [1, 3, 4, 1, 6, 10, 2, 3, 1, 6, 5])
        assert device.launches >= 5  # sizes 1, 2, 4 and 6 came again
        assert device.graphs >= 4
        backend.close()
        assert (device.graphs, device.memory) == (0, {})

    def test_steps_where_nothing_can_be_captured(self, stream_model: ModelFolder, device: FakeDevice) -> None:
        device.capturable = False
        self.sums(TensorRTStreamBackend(stream_model), [1, 3, 4, 1, 6, 10])
        assert device.launches == 0


class TestRtx:
    """TensorRT-RTX compiles for the GPU when it runs, and keeps what it compiled."""

    @pytest.fixture
    def rtx_model(self, device: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt)
        write_model(tmp_path / "model")
        self.build(tmp_path / "model")
        return open_model(tmp_path / "model")

    def build(self, model: Path) -> Path:
        profiles = [parse_seconds("0:1:1"), parse_seconds("1:2:3")]
        return build_engine(model, runtime="tensorrt-rtx", batch=parse_batch("1:2:4"), seconds=profiles, rebuild=True)

    def test_what_was_compiled_stays_beside_the_engine(self, rtx_model: ModelFolder) -> None:
        (engine,) = rtx_model.path.glob("engines/*.engine")
        kept = engine.with_suffix(".runtime-cache")
        backend = TensorRTBackend(rtx_model)
        assert_same(backend, rtx_model, recordings(0.5))
        assert kept.read_bytes() == b"H200+"
        assert_same(backend, rtx_model, recordings(2.0))  # the other profile
        backend.close()
        assert kept.read_bytes() == b"H200++"
        self.build(rtx_model.path)
        assert not kept.exists()

    def test_what_another_gpu_compiled_is_replaced(self, rtx_model: ModelFolder) -> None:
        (engine,) = rtx_model.path.glob("engines/*.engine")
        engine.with_suffix(".runtime-cache").write_bytes(b"of another GPU, and longer than what this one compiles")
        assert_same(TensorRTBackend(rtx_model), rtx_model, recordings(0.5))
        assert engine.with_suffix(".runtime-cache").read_bytes() == b"H200+"


class TestUnavailable:
    def test_no_gpu(self, model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ds2_deploy.runtime.trt_backend.gpus", list)
        with pytest.raises(BackendUnavailableError, match=r"on cuda:0: no NVIDIA GPU or driver was found"):
            open_backend("tensorrt", model)

    def test_a_gpu_that_is_not_there(self, model: ModelFolder) -> None:
        with pytest.raises(BackendUnavailableError, match=r"on cuda:3: only 1 GPUs were found"):
            open_backend("tensorrt", model, device="cuda:3")

    def test_the_cpu(self, model: ModelFolder) -> None:
        with pytest.raises(BackendUnavailableError, match="choose the backend onnxruntime for the CPU"):
            open_backend("tensorrt", model, device="cpu")

    def test_no_pycuda(self, model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        from ds2_deploy.runtime.cuda_device import PycudaDevice

        monkeypatch.setattr(trt_backend, "PycudaDevice", PycudaDevice)
        monkeypatch.setitem(sys.modules, "pycuda", None)
        with pytest.raises(MissingPackageError, match=r"needs the package 'pycuda', .*: pip install pycuda"):
            open_backend("tensorrt", model)

    @pytest.mark.parametrize(
        ("complaint", "reason"),
        [
            ("CUDA initialization failure with error: 35.\nMore of it.", "CUDA initialization failure with error: 35"),
            ("", "the library gave no reason"),
        ],
    )
    def test_a_library_that_does_not_start(
        self, model: ModelFolder, monkeypatch: pytest.MonkeyPatch, complaint: str, reason: str
    ) -> None:
        def broken(log: Any) -> None:
            log.log(fake_tensorrt.ILogger.Severity.ERROR, complaint)
            raise TypeError("pybind11::init(): factory function returned nullptr")

        monkeypatch.setattr(fake_tensorrt, "Runtime", broken)
        with pytest.raises(EngineError, match=rf"does not load .*: {reason}\.$"):
            open_backend("tensorrt", model)
        assert open_backend("auto", model).name == "onnxruntime"

    def test_no_engine(self, model: ModelFolder) -> None:
        with pytest.raises(BackendUnavailableError, match=r"has no TensorRT engine of model\.fp16\.onnx: build one"):
            open_backend("tensorrt", model, precision="fp16")


@pytest.mark.parametrize("pycuda", [False, True])
def test_a_capture_that_is_refused_ends_and_is_none(pycuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's enqueue returns false then, or a copy of ours fails, and the stream must leave its capture."""
    from ds2_deploy.runtime import cuda_device

    error = FakePycuda.Error if pycuda else InferenceError

    calls: list[str] = []

    class Driver:
        def __getattr__(self, name: str) -> Callable[..., int]:
            def call(*_: object) -> int:
                calls.append(name)
                return 901 if name == "cuStreamEndCapture" else 0

            return call

    def refused() -> None:
        raise error("The engine did not run.")

    monkeypatch.setattr(cuda_device, "driver_library", Driver)
    monkeypatch.setattr(cuda_device, "pycuda_driver", FakePycuda)
    device = cuda_device.PycudaDevice(0)
    assert device.capture(SimpleNamespace(handle=1), refused) is None
    assert calls == ["cuStreamBeginCapture_v2", "cuStreamEndCapture"]


class FakePycuda:
    """Its errors, and a context."""

    class Error(Exception):
        pass

    class MemoryError(Error, MemoryError):  # type: ignore[misc]
        pass

    class Context:
        pushed = 0

        @classmethod
        def pop(cls) -> None:
            cls.pushed -= 1

        def push(self) -> None:
            type(self).pushed += 1

    def init(self) -> None:
        pass

    def Device(self, ordinal: int) -> Any:  # noqa: N802
        if ordinal:
            raise self.Error("cuDevicePrimaryCtxRetain failed: exclusive-thread device already in use")
        return SimpleNamespace(retain_primary_context=self.Context)


def test_what_cuda_says_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from ds2_deploy.runtime import cuda_device

    monkeypatch.setattr(cuda_device, "pycuda_driver", FakePycuda)
    device = cuda_device.PycudaDevice(0)
    with pytest.raises(DeviceMemoryError, match=r"is full: cuMemHostAlloc failed: out of memory\.$"), device.active():
        raise FakePycuda.MemoryError("cuMemHostAlloc failed: out of memory")
    with pytest.raises(InferenceError, match=r"^The GPU failed: cuStreamSynchronize failed\.$"), device.active():
        raise FakePycuda.Error("cuStreamSynchronize failed")
    assert FakePycuda.Context.pushed == 0
    with pytest.raises(BackendUnavailableError, match=r"Cannot use cuda:1: .* already in use\.$"):
        cuda_device.PycudaDevice(1)
