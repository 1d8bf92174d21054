"""ONNX Runtime: the model folder's ONNX graphs on a CPU or, with onnxruntime-gpu, on an NVIDIA GPU.

Shapes: B batch, S samples, T output frames, V vocabulary; in streams C samples of a chunk, N state.
"""

import contextlib
import importlib.util
import io
import logging
import threading
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ds2_deploy.errors import BackendUnavailableError, InferenceError, ModelError, reason_of
from ds2_deploy.extras import require
from ds2_deploy.metadata import ONNX_KEY, ModelMetadata
from ds2_deploy.model_folder import ModelFolder, Precision
from ds2_deploy.runtime.devices import cuda_ordinal
from ds2_deploy.runtime.gpu import gpus, missing_gpu
from ds2_deploy.runtime.protocol import (
    INPUTS,
    OUTPUTS,
    STAGES,
    STREAM_INPUTS,
    STREAM_OUTPUTS,
    Emissions,
    Step,
    at_least,
    failed_on,
)

CUDA = "CUDAExecutionProvider"
HEAVY = {"GRU", "LSTM", "RNN", "Conv", "MatMul", "Gemm", "Scan", "Loop"}
FATAL_ONLY = 4  # ONNX Runtime's log levels go from 0, verbose; its errors reach us as exceptions

log = logging.getLogger(__name__)
_loading = threading.Lock()


class OrtBackend:
    """One ONNX Runtime session over the offline graph; a session may run in several threads at once."""

    name = "onnxruntime"
    max_samples = None

    def __init__(
        self, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        path = model.graph(precision)
        self.metadata = model.metadata
        self._session, self.device = _open_session(path, model.metadata, (INPUTS, OUTPUTS), device, threads)

    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        """Whole recordings: `audio` (B, S) in [-1, 1], zero-padded; `lengths` (B,) samples of each."""
        audio = at_least(audio, self.metadata.min_samples)
        feeds: dict[str, npt.NDArray[Any]] = {
            "audio": np.ascontiguousarray(audio, dtype=np.float32),
            "audio_lengths": np.ascontiguousarray(lengths, dtype=np.int64),
        }
        try:
            log_probs, frames = _run(self._session, self.device, OUTPUTS, feeds)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise failed_on("ONNX Runtime", audio, error) from error
        return Emissions(log_probs, frames)

    def run_in_stages(
        self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
    ) -> tuple[Emissions, dict[str, float]]:
        """The same with inputs and outputs on the device, and the milliseconds of each part, waiting for each."""
        ort, binding = require("onnxruntime"), self._session.io_binding()
        kind, _, ordinal = self.device.partition(":")
        marks = [time.perf_counter()]
        arrays = at_least(audio, self.metadata.min_samples), lengths
        for name, array in zip(INPUTS, arrays, strict=True):
            contiguous = np.ascontiguousarray(array)
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(contiguous, kind, int(ordinal or 0)))
        for name in OUTPUTS:
            binding.bind_output(name, kind, int(ordinal or 0))
        binding.synchronize_inputs()
        marks.append(time.perf_counter())
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        marks.append(time.perf_counter())
        log_probs, frames = binding.copy_outputs_to_cpu()
        marks.append(time.perf_counter())
        parts = [1000 * (after - before) for before, after in pairwise(marks)]
        return Emissions(log_probs, frames), dict(zip(STAGES, parts, strict=True))


class OrtStreamBackend:
    """One ONNX Runtime session over the streaming graph."""

    name = "onnxruntime"

    def __init__(
        self, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        path = model.graph(precision, stream=True)
        names = STREAM_INPUTS, STREAM_OUTPUTS
        self._session, self.device = _open_session(path, model.metadata, names, device, threads)
        shapes = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        self.chunk_samples: int = shapes["audio"][1]
        self._state_size: int = shapes["state"][1]

    def initial_state(self, batch: int) -> npt.NDArray[np.float32]:
        """(B, N) of streams that have heard nothing."""
        return np.zeros((batch, self._state_size), dtype=np.float32)

    def step(
        self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], state: npt.NDArray[np.float32]
    ) -> Step:
        """One chunk of each stream: `audio` (B, C), of which `lengths` (B,) samples are there."""
        try:
            feeds = dict(zip(STREAM_INPUTS, map(np.ascontiguousarray, (audio, lengths, state)), strict=True))
            return Step(*_run(self._session, self.device, STREAM_OUTPUTS, feeds))
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise InferenceError(
                f"ONNX Runtime failed on a step of {len(audio)} streams: {reason_of(error)[:200]}."
            ) from error


def _run(session: Any, device: str, outputs: list[str], feeds: dict[str, npt.NDArray[Any]]) -> list[Any]:
    """What the graph makes of contiguous `feeds`, bound to the device: one copy there, one back, none in between."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    kind, _, ordinal = device.partition(":")
    for name in outputs:
        binding.bind_output(name, kind, int(ordinal or 0))
    session.run_with_iobinding(binding)
    copied: list[Any] = binding.copy_outputs_to_cpu()
    return copied


def _preload(ort: Any) -> None:
    with _loading:  # one thread at a time, or stdout would stay where the other had put it
        _preload_once(ort)


@cache
def _preload_once(ort: Any) -> None:
    """CUDA and cuDNN from pip's nvidia packages; a CUDA that is a plugin registers here, too. Once: nobody in the
    process can print meanwhile, for it prints what it does not find, which need not matter."""
    with contextlib.redirect_stdout(io.StringIO()):
        for folder in (None, *_library_folders(ort)):
            ort.preload_dlls(directory=folder)


def _library_folders(ort: Any) -> list[str]:
    """Those of pip's nvidia packages that do not lie beside ONNX Runtime, where alone it looks: in another environment
    that this one goes on from, say."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec and spec.submodule_search_locations) or ()]
    beside = Path(ort.__file__).parents[1]
    return [str(folder) for root in roots if root.parent != beside for folder in sorted(root.glob("*/lib"))]


def choose_device(ort: Any, device: str) -> str:
    """`cpu` or `cuda:N`; BackendUnavailableError where a GPU was asked for and cannot be used."""
    ordinal = cuda_ordinal(device)
    if device == "cpu":
        return "cpu"
    present = gpus()
    if present:
        _preload(ort)
    supported = CUDA in ort.get_available_providers()
    if ordinal is None:
        return "cuda:0" if present and supported else "cpu"
    if ordinal >= len(present):
        raise BackendUnavailableError(f"Cannot use {device}: {missing_gpu(present)}.")
    if not supported:
        raise BackendUnavailableError(
            f"Cannot use {device}: the ONNX Runtime installed here knows no CUDA; replace it with "
            "pip uninstall onnxruntime && pip install 'ds2_deploy[gpu]'."
        )
    return f"cuda:{ordinal}"


def _open_session(
    path: Path, metadata: ModelMetadata, names: tuple[list[str], list[str]], device: str, threads: int | None
) -> tuple[Any, str]:
    """The session and the device it runs on."""
    ort = require("onnxruntime")
    device = choose_device(ort, device)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads or 0  # 0: a thread per core
    if device != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:  # its fallback would print to stdout, and load the model once more
        session = ort.InferenceSession(path, options, providers=_providers(device), enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        reason = reason_of(error)
        if device != "cpu" and isinstance(error, RuntimeError):  # of the provider; a graph's errors are its own
            raise BackendUnavailableError(f"ONNX Runtime could not start CUDA on {device}: {reason}.") from error
        raise ModelError(f"ONNX Runtime cannot load {path}: {reason}; export the model again.") from error
    if device != "cpu" and session.get_providers()[0] != CUDA:  # it falls back to the CPU without an error
        raise BackendUnavailableError(
            f"ONNX Runtime could not start CUDA on {device}: its CUDA and cuDNN libraries are missing, which "
            "pip install 'ds2_deploy[gpu]' brings, or do not fit the driver; or choose the device cpu."
        )
    if device != "cpu" and (left := heavy_on_cpu(session)):
        log.warning(
            "ONNX Runtime %s has no CUDA kernel for %s in %s and leaves it to the processor, which is slow: upgrade "
            "it, export the model with --recurrence loop, or use another backend.",
            ort.__version__,
            ", ".join(left),
            path.name,
        )
    found = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    if found != names:
        raise ModelError(f"{path} has inputs {found[0]} and outputs {found[1]}: it was not written by ds2 export.")
    if inside := session.get_modelmeta().custom_metadata_map.get(ONNX_KEY):
        metadata.check_graph(inside, path)
    return session, device


def heavy_on_cpu(session: Any) -> list[str]:
    """Operators that do most of the work and that this session leaves to the processor; it must have recorded it."""
    assignment: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()  # old versions lack it
    on_cpu = {node.op_type for part in assignment if part.ep_name != CUDA for node in part.get_nodes()}
    return sorted(on_cpu & HEAVY)


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    options = {
        "device_id": int(device.removeprefix("cuda:")),
        "use_tf32": 0,  # TF32 rounds the spectrogram by up to 0.8 on the log
        "cudnn_conv_algo_search": "HEURISTIC",  # the default searches anew for every shape
    }
    return [(CUDA, options), "CPUExecutionProvider"]
