"""What a GPU alone can show: every backend says there what ONNX Runtime says on the CPU. `make gpu-check` runs these.

Each test skips with its reason where its backend cannot run.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.errors import InferenceError
from ds2_deploy.model_folder import ModelFolder, Precision, open_model
from ds2_deploy.runtime import NOT_HERE, open_backend, open_stream_backend
from ds2_deploy.runtime.gpu import gpus
from ds2_deploy.runtime.protocol import Backend, pad_batch
from ds2_deploy.runtime.streamed import Streamed
from export.parity import MAX_ABS
from export.profiles import parse_batch, parse_seconds
from export.to_tensorrt import build_engine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU")]


def recordings() -> list[npt.NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(int(s * 16_000)).astype(np.float32) for s in (2.5, 0.7, 4.0, 1.1, 0.3)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFolder]:
    """Copies of the bundled ones, with engines of up to five seconds where one can be built. Where none can, the tests
    of engines skip and say why: in `no-engine`, what the builder said."""
    made = {}
    for name in ("default", "streaming"):
        folder: Path = tmp_path_factory.mktemp(name)
        for file in open_model(name).path.iterdir():
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
        try:
            build_engine(folder, batch=parse_batch("1:2:4"), seconds=[parse_seconds("0:2:5")])
            if name == "streaming":
                build_engine(folder, stream=True, batch=parse_batch("1:4:8"))
        except NOT_HERE as error:  # of which a builder that refuses this GPU is one: the other backends go on
            (folder / "no-engine").write_text(str(error))
        made[name] = open_model(folder)
    return made


def opened(name: str, model: ModelFolder, *, stream: bool = False, precision: Precision = "fp32") -> Backend:
    """Skips where it cannot run here, such as an engine that this GPU is too old or too rare for."""
    refused = model.path / "no-engine"
    if name == "tensorrt" and refused.exists():
        pytest.skip(refused.read_text())
    try:
        if stream:
            return Streamed(open_stream_backend(name, model, device="cuda:0", precision=precision), model.metadata)
        return open_backend(name, model, device="cuda:0", precision=precision)
    except NOT_HERE as error:
        pytest.skip(str(error))


def assert_same(backend: Backend, model: ModelFolder, atol: float = MAX_ABS["fp32"]) -> None:
    batch = pad_batch(recordings())
    got, expected = backend.run(*batch), open_backend("onnxruntime", model, device="cpu").run(*batch)
    np.testing.assert_array_equal(got.lengths, expected.lengths)
    for row, other, length in zip(got.log_probs, expected.log_probs, expected.lengths, strict=True):
        np.testing.assert_allclose(row[:length], other[:length], atol=atol)


@pytest.mark.parametrize("model", ["default", "streaming"])
@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "tensorrt"])
def test_the_gpu_says_what_the_cpu_says(models: dict[str, ModelFolder], backend: str, model: str) -> None:
    assert_same(opened(backend, models[model]), models[model])


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "tensorrt"])
def test_chunk_by_chunk(models: dict[str, ModelFolder], backend: str) -> None:
    assert_same(opened(backend, models["streaming"], stream=True), models["streaming"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "chunk by chunk"])
def test_half_precision_in_pytorch(models: dict[str, ModelFolder], stream: bool) -> None:
    model = models["streaming"]
    assert_same(opened("torch", model, stream=stream, precision="fp16"), model, MAX_ABS["fp16"])


def test_all_backends_in_one_process_and_several_threads(models: dict[str, ModelFolder]) -> None:
    model = models["default"]
    backends = []
    for name in ("tensorrt", "torch", "onnxruntime"):
        with suppress(*NOT_HERE):
            backends.append(open_backend(name, model, device="cuda:0"))
    if len(backends) < 2:
        pytest.skip("fewer than two backends run on this GPU")
    with ThreadPoolExecutor(6) as pool:
        for _ in pool.map(lambda backend: assert_same(backend, model), backends * 4):
            pass


def test_what_is_longer_than_the_engine(models: dict[str, ModelFolder]) -> None:
    backend = opened("tensorrt", models["default"])
    with pytest.raises(InferenceError, match="longer than every profile"):
        backend.run(*pad_batch([np.zeros(160_000, np.float32)]))
