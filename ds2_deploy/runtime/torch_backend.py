"""The reference backend: the network itself, in PyTorch (needs the extra `train`). In float32 it is what the others are
compared with; on a GPU it runs in half precision, too."""

import time
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from ds2_deploy.errors import BackendUnavailableError
from ds2_deploy.model.checkpoint import load_weights
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.fold import fold_batch_norm
from ds2_deploy.model.streaming import StreamingDeepSpeech2
from ds2_deploy.model_folder import ModelFolder, Precision
from ds2_deploy.runtime.devices import cuda_ordinal
from ds2_deploy.runtime.protocol import STAGES, Emissions, Step, at_least, failed_on


class TorchBackend:
    """What the other backends are compared with."""

    name = "torch"
    max_samples = None

    def __init__(
        self, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        device = choose_device(device, precision)
        if threads is not None:
            torch.set_num_threads(threads)
        module = load_weights(model).model()
        self._place(halved(module) if precision == "fp16" else module, device)

    @classmethod
    def of(cls, module: DeepSpeech2, *, device: str = "cpu") -> Self:
        """Over a network in memory, which is moved to `device`."""
        backend = cls.__new__(cls)
        backend._place(module, device)
        return backend

    def _place(self, module: DeepSpeech2, device: str) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.device = choose_device(device)
        self.module = module.eval().to(self.device)

    @torch.inference_mode()
    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        """Whole recordings: `audio` (B, S) in [-1, 1], zero-padded; `lengths` (B,) samples of each."""
        samples = torch.from_numpy(at_least(audio, self.module.metadata.min_samples))
        try:
            log_probs, frames = self.module(samples.to(self.device), torch.from_numpy(lengths).to(self.device))
            return Emissions(log_probs.cpu().numpy(), frames.cpu().numpy())
        except RuntimeError as error:  # what PyTorch raises for want of memory, on a GPU a kind of it
            failure = failed_on("PyTorch", audio, error)
        raise failure  # out here, without its cause: that would hold the batch's tensors while smaller ones are tried

    @torch.inference_mode()
    def run_in_stages(
        self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
    ) -> tuple[Emissions, dict[str, float]]:
        """The same on a GPU, with the milliseconds of each part by CUDA events: copying there, computing, back."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]
        samples = torch.from_numpy(at_least(audio, self.module.metadata.min_samples))
        with torch.cuda.device(self.device):  # on whose stream marks are set
            marks[0].record()
            inputs = samples.to(self.device), torch.from_numpy(lengths).to(self.device)
            marks[1].record()
            start = time.perf_counter()
            log_probs, frames = self.module(*inputs)
            enqueue = 1000 * (time.perf_counter() - start)
            marks[2].record()
            emissions = Emissions(log_probs.cpu().numpy(), frames.cpu().numpy())
            marks[3].record()
            marks[3].synchronize()
        parts = [before.elapsed_time(after) for before, after in pairwise(marks)]
        return emissions, dict(zip(STAGES, parts, strict=True)) | {"enqueue": enqueue}


class TorchStreamBackend:
    """The reference for streams, in chunks of 100 ms, rounded up to whole frames or windows."""

    name = "torch"

    def __init__(
        self, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        device = choose_device(device, precision)
        whole = TorchBackend(model, device=device, threads=threads)  # what a stream folds into weights is float32's
        self._place(whole.module, model.metadata.stream_chunk_samples())
        if precision == "fp16":
            self._module.encoder.half()

    @classmethod
    def of(cls, module: DeepSpeech2, chunk_samples: int) -> Self:
        """Over a network in memory, on the device where it is."""
        backend = cls.__new__(cls)
        backend._place(module, chunk_samples)
        return backend

    def _place(self, module: DeepSpeech2, chunk_samples: int) -> None:
        self.chunk_samples = chunk_samples
        self._module = StreamingDeepSpeech2(module, chunk_samples)
        parameter = next(module.parameters())
        self._module.eval().to(parameter.device)
        self.device = str(parameter.device)

    def initial_state(self, batch: int) -> npt.NDArray[np.float32]:
        """(B, N) of streams that have heard nothing."""
        return np.zeros((batch, self._module.state_size), dtype=np.float32)

    @torch.inference_mode()
    def step(
        self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], state: npt.NDArray[np.float32]
    ) -> Step:
        """One chunk of each stream: `audio` (B, C), of which `lengths` (B,) samples are there."""
        try:
            inputs = (torch.from_numpy(array).to(self.device) for array in (audio, lengths, state))
            return Step(*(tensor.cpu().numpy() for tensor in self._module(*inputs)))
        except RuntimeError as error:
            failure = failed_on("PyTorch", audio, error)
        raise failure


def halved(module: DeepSpeech2) -> DeepSpeech2:
    """The network as FP16 graphs have it: batch norm folded in float32, then all but front end and softmax in half
    precision. Changes `module`."""
    fold_batch_norm(module.encoder)
    module.encoder.half()
    return module


def choose_device(device: str, precision: Precision = "fp32") -> str:
    """`auto`, `cpu` or `cuda:N` -> `cpu` or `cuda:N`; BackendUnavailableError where PyTorch does not see it.

    So it is for half precision on a CPU, which gives the right numbers there, but takes 1.6 times as long as float32
    (`default`, 3 s of sound, one core).
    """
    ordinal = cuda_ordinal(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not count):
        if precision == "fp16":
            raise BackendUnavailableError(
                "PyTorch runs fp16 on GPUs only, and has none here: onnxruntime runs it anywhere."
            )
        return "cpu"
    if (ordinal or 0) >= count:
        raise BackendUnavailableError(f"Cannot use {device}: PyTorch sees {count} GPUs here.")
    return f"cuda:{ordinal or 0}"
