"""PyTorch's half precision: the network of the FP16 graphs. Its numbers are the same on a CPU, where it is refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ds2_deploy.commands.parity import _candidates
from ds2_deploy.errors import BackendUnavailableError, InferenceError
from ds2_deploy.model.checkpoint import save_weights
from ds2_deploy.model_folder import ModelFolder
from ds2_deploy.runtime import open_backend, open_stream_backend
from ds2_deploy.runtime.gpu import Gpu
from ds2_deploy.runtime.protocol import pad_batch
from ds2_deploy.runtime.streamed import Streamed
from ds2_deploy.runtime.torch_backend import TorchBackend, choose_device, halved
from export.parity import MAX_ABS
from tests.conftest import noise
from tests.tiny import FEATURES, MODELS, tiny_metadata, tiny_model

RECORDINGS = [noise(12_000), noise(5_000, seed=1), noise(100, seed=2)]


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    """A model that can stream, by windows."""
    feature = FEATURES["log mel, running, tail"]
    model = tiny_model(tiny_metadata(MODELS["gru, two directions by windows, 2d"], feature))
    save_weights(model, tmp_path / "model.safetensors")
    return ModelFolder(tmp_path, model.metadata)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is meant for the GPU runs on the CPU."""
    for module in ("gpu", "lineup"):
        monkeypatch.setattr(f"ds2_deploy.runtime.{module}.gpus", lambda: [Gpu("NVIDIA H200", (9, 0))])
    monkeypatch.setattr("ds2_deploy.runtime.torch_backend.choose_device", lambda device, precision="fp32": "cpu")


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_is_close_and_its_log_probabilities_are_not_half(name: str) -> None:
    model = tiny_model(tiny_metadata(MODELS[name]))
    batch = pad_batch(RECORDINGS)
    whole, half = TorchBackend.of(copy.deepcopy(model)).run(*batch), TorchBackend.of(halved(model)).run(*batch)
    np.testing.assert_array_equal(half.lengths, whole.lengths)
    assert half.log_probs.dtype == np.float32
    for got, expected, length in zip(half.log_probs, whole.log_probs, whole.lengths, strict=True):
        apart = np.abs(got[:length] - expected[:length]).max(initial=0)
        assert apart < MAX_ABS["fp16"]
        assert apart > 0 or length == 0  # it was in half


@pytest.mark.usefixtures("pretended_gpu")
def test_whole_recordings_and_streams_in_half_precision(folder: ModelFolder) -> None:
    whole = open_backend("torch", folder, precision="fp16")
    stream = open_stream_backend("torch", folder, precision="fp16")
    for module in (whole.module, stream._module):  # type: ignore[attr-defined]
        assert {parameter.dtype for parameter in module.encoder.parameters()} == {torch.float16}
        assert module.frontend.basis.dtype == torch.float32
    batch = pad_batch(RECORDINGS)
    expected, got = open_backend("torch", folder).run(*batch), Streamed(stream, folder.metadata).run(*batch)
    np.testing.assert_array_equal(got.lengths, expected.lengths)
    for row, other, length in zip(got.log_probs, expected.log_probs, expected.lengths, strict=True):
        np.testing.assert_allclose(row[:length], other[:length], atol=MAX_ABS["fp16"])


def test_want_of_memory_in_a_stream_is_one_sentence(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open_stream_backend("torch", folder, device="cpu")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stream._module, "forward", full)  # type: ignore[attr-defined]
    audio = np.zeros((1, stream.chunk_samples), np.float32)
    with pytest.raises(InferenceError, match="CUDA out of memory"):
        stream.step(audio, np.array([stream.chunk_samples]), stream.initial_state(1))


@pytest.mark.parametrize(
    ("device", "gpus", "chosen"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 2, "cuda:0"), ("cuda:1", 2, "cuda:1"),
     ("cuda", 0, None), ("cuda:2", 2, None)],
)  # fmt: skip
def test_the_device_is_the_one_asked_for(
    device: str, gpus: int, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if chosen is None:
        with pytest.raises(BackendUnavailableError, match=f"Cannot use {device}: PyTorch sees {gpus} GPUs here"):
            choose_device(device)
    else:
        assert choose_device(device) == chosen


@pytest.mark.parametrize("open_", [open_backend, open_stream_backend])
def test_threads_are_those_asked_for(open_: Any, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for threads in (3, None):
        open_("torch", folder, device="cpu", threads=threads)
    assert asked == [3]


@pytest.mark.parametrize("open_", [open_backend, open_stream_backend])
def test_a_cpu_refuses_half_precision_in_one_sentence(open_: object, folder: ModelFolder) -> None:
    with pytest.raises(
        BackendUnavailableError, match=r"^PyTorch runs fp16 on GPUs only, .*onnxruntime runs it anywhere\.$"
    ):
        open_("torch", folder, device="cpu", precision="fp16")  # type: ignore[operator]


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize(
    ("asked", "device", "compared"),
    [
        ([], "auto", [("torch", "fp16"), ("torch stream", "fp16")]),  # in fp32 it is the reference
        ([], "cpu", []),
        (["torch"], "cpu", [("torch", "fp32"), ("torch stream", "fp32")]),
        (["torch", "torch"], "cpu", [("torch", "fp32"), ("torch stream", "fp32")]),
    ],
)
def test_parity_compares_pytorch_in_half_where_it_runs(
    folder: ModelFolder,
    asked: list[str],
    device: str,
    compared: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("model.onnx", "stream.onnx"):  # no graph of half precision
        (folder.path / name).touch()
    monkeypatch.setattr(
        "ds2_deploy.runtime.lineup.BACKENDS", {"torch": "ds2_deploy.runtime.torch_backend:TorchBackend"}
    )
    assert [(backend.name, precision) for backend, precision in _candidates(folder, asked, device)] == compared
