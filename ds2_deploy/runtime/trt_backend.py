"""TensorRT and TensorRT-RTX: the engines of a model folder on an NVIDIA GPU.

Shapes: B batch, S samples, T output frames, V vocabulary; in streams C samples of a chunk, N state.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ds2_deploy.errors import BackendUnavailableError, InferenceError
from ds2_deploy.model_folder import ModelFolder, Precision
from ds2_deploy.runtime.cuda_device import DeviceMemoryError, PycudaDevice
from ds2_deploy.runtime.devices import GPU_WORKERS, cuda_ordinal
from ds2_deploy.runtime.engine_file import open_engine
from ds2_deploy.runtime.engine_info import OptimizationProfile
from ds2_deploy.runtime.gpu import gpus, missing_gpu
from ds2_deploy.runtime.protocol import INPUTS, OUTPUTS, STREAM_INPUTS, STREAM_OUTPUTS, Emissions, Step, at_least
from ds2_deploy.runtime.trt_engine import Array, RunningEngine


class TensorRTBackend:
    """The offline engine; several threads may run it at once."""

    name = "tensorrt"

    def __init__(
        self, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        self.metadata = model.metadata
        self.engine, self.device = _open(model, device, precision, stream=False)
        self._profiles = self.engine.info.profiles
        self.max_samples = max(profile.inputs["audio"].max[1] for profile in self._profiles)
        """Longest recording; a longer one is an InferenceError."""

    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        """Whole recordings: `audio` (B, S) in [-1, 1], zero-padded; `lengths` (B,) samples of each.

        Batches larger than the profile's go in several runs, and so do those that the GPU's memory is too small for.
        """
        return self._run_all(audio, lengths, None)

    def run_in_stages(
        self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
    ) -> tuple[Emissions, dict[str, float]]:
        """The same, and the milliseconds of each part, waiting for each."""
        stages: dict[str, float] = {}
        return self._run_all(audio, lengths, stages), stages

    def _run_all(self, audio: Array, lengths: Array, stages: dict[str, float] | None) -> Emissions:
        number = self._profile(audio.shape[1])
        shapes = self._profiles[number].inputs["audio"]
        audio = at_least(audio, shapes.min[1])
        parts = [
            self._run(number, shapes.min[0], audio[rows], lengths[rows], stages)
            for rows in _slices(len(audio), shapes.max[0])
        ]
        log_probs, frames = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Emissions(log_probs, frames)

    def close(self) -> None:
        """Free the GPU's memory; the backend cannot be used afterwards."""
        self.engine.close()

    def _profile(self, samples: int) -> int:
        """The narrowest one that holds recordings of this length."""
        limits = [profile.inputs["audio"].max[1] for profile in self._profiles]
        fitting = [number for number, limit in enumerate(limits) if samples <= limit]
        if not fitting:
            rate = self.metadata.feature.sample_rate
            raise InferenceError(
                f"A recording of {samples / rate:.1f} s is longer than every profile of the engine, of which the "
                f"longest takes {max(limits) / rate:.1f} s: build one with --seconds 0:{samples // rate + 1}:"
                f"{samples // rate + 1}, or let it be cut."
            )
        return min(fitting, key=lambda number: limits[number])

    def _run(
        self, profile: int, least: int, audio: Array, lengths: Array, stages: dict[str, float] | None
    ) -> tuple[Array, Array]:
        """Rows that fit the profile, in halves where the GPU's memory does not hold them; blank rows up to `least`."""
        try:
            outputs = self.engine.run(profile, dict(zip(INPUTS, _rows((audio, lengths), least), strict=True)), stages)
        except DeviceMemoryError:
            if len(audio) == 1:
                raise
            half = len(audio) // 2
            halves = (slice(half), slice(half, None))
            parts = [self._run(profile, least, audio[rows], lengths[rows], stages) for rows in halves]
            return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        log_probs, frames = (outputs[name][: len(audio)] for name in OUTPUTS)
        return log_probs, frames


class TensorRTStreamBackend:
    """The streaming engine: few batch sizes, so that each can be one CUDA graph."""

    name = "tensorrt"

    def __init__(
        self, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        self.engine, self.device = _open(model, device, precision, stream=True)
        (profile,) = self.engine.info.profiles
        self._sizes = batch_sizes(profile)
        self.chunk_samples = profile.inputs["audio"].max[1]
        self._state_size = profile.inputs["state"].max[1]

    def initial_state(self, batch: int) -> npt.NDArray[np.float32]:
        """(B, N) of streams that have heard nothing."""
        return np.zeros((batch, self._state_size), dtype=np.float32)

    def step(
        self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], state: npt.NDArray[np.float32]
    ) -> Step:
        """One chunk of each stream: `audio` (B, C), of which `lengths` (B,) samples are there."""
        parts = []
        for rows in _slices(len(audio), self._sizes[-1]):
            feeds = [array[rows] for array in (audio, lengths, state)]
            size = next(size for size in self._sizes if size >= len(feeds[0]))
            outputs = self.engine.run(0, dict(zip(STREAM_INPUTS, _rows(feeds, size), strict=True)))
            parts.append([outputs[name][: len(feeds[0])] for name in STREAM_OUTPUTS])
        return Step(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def close(self) -> None:
        """Free the GPU's memory; the backend cannot be used afterwards."""
        self.engine.close()


def batch_sizes(profile: OptimizationProfile) -> list[int]:
    """The batches that run: the profile's least, its doubles, its most.

    >>> from ds2_deploy.runtime.engine_info import ShapeRange
    >>> batch_sizes(OptimizationProfile(inputs={"audio": ShapeRange(min=(1, 1600), opt=(8, 1600), max=(12, 1600))}))
    [1, 2, 4, 8, 12]
    """
    sizes, most = [profile.inputs["audio"].min[0]], profile.inputs["audio"].max[0]
    while sizes[-1] * 2 < most:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == most else [*sizes, most]


def _open(model: ModelFolder, device: str, precision: Precision, *, stream: bool) -> tuple[RunningEngine, str]:
    """The engine for this GPU, and the GPU; BackendUnavailableError or MissingPackageError says what is missing."""
    ordinal = cuda_ordinal(device) or 0
    if device == "cpu":
        raise BackendUnavailableError("TensorRT runs on an NVIDIA GPU: choose the backend onnxruntime for the CPU.")
    present = gpus()
    if ordinal >= len(present):
        raise BackendUnavailableError(f"Cannot run TensorRT on cuda:{ordinal}: {missing_gpu(present)}.")
    engine = open_engine(model, present[ordinal], precision, stream=stream)
    try:
        running = RunningEngine(engine, PycudaDevice(ordinal), lanes=GPU_WORKERS, few_shapes=stream)
    except InferenceError as error:
        raise BackendUnavailableError(f"Cannot run TensorRT on cuda:{ordinal}: {error}") from error
    return running, f"cuda:{ordinal}"


def _slices(rows: int, most: int) -> Iterator[slice]:
    """As few pieces of at most `most` rows as there can be, of like size."""
    pieces = -(-rows // most)
    for number in range(pieces):
        yield slice(rows * number // pieces, rows * (number + 1) // pieces)


def _rows(arrays: Sequence[Array], size: int) -> list[Array]:
    """Each (B, ...) with rows of zeros up to `size`, or as it is where it has as many."""
    missing = size - len(arrays[0])
    if missing <= 0:
        return list(arrays)
    return [np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) for array in arrays]
