"""The reference backend: the network itself in float32, in PyTorch (needs the extra `train`)."""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from ds2_deploy.errors import BackendUnavailableError
from ds2_deploy.model.checkpoint import load_weights
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model_folder import ModelFolder
from ds2_deploy.runtime import cuda_ordinal
from ds2_deploy.runtime.engine_info import Precision
from ds2_deploy.runtime.protocol import Emissions, at_least


class TorchBackend:
    """What the other backends are compared with."""

    name = "torch"

    def __init__(
        self, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        if precision != "fp32":
            raise BackendUnavailableError("The torch backend is the float32 reference: fp16 runs in onnxruntime.")
        if threads is not None:
            torch.set_num_threads(threads)
        self._place(load_weights(model.path, model.metadata), device)

    @classmethod
    def of(cls, module: DeepSpeech2, *, device: str = "cpu") -> Self:
        """Over a network in memory, which is moved to `device`."""
        backend = cls.__new__(cls)
        backend._place(module, device)
        return backend

    def _place(self, module: DeepSpeech2, device: str) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.device = choose_device(device)
        self._module = module.eval().to(self.device)

    @torch.inference_mode()
    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        """Whole recordings: `audio` (B, S) in [-1, 1], zero-padded; `lengths` (B,) samples of each."""
        samples = torch.from_numpy(at_least(audio, self._module.metadata.min_samples))
        log_probs, frames = self._module(samples.to(self.device), torch.from_numpy(lengths).to(self.device))
        return Emissions(log_probs.cpu().numpy(), frames.cpu().numpy())


def choose_device(device: str) -> str:
    """`auto`, `cpu` or `cuda:N` -> `cpu` or `cuda:N`; BackendUnavailableError where PyTorch does not see it."""
    ordinal = cuda_ordinal(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not count):
        return "cpu"
    if (ordinal or 0) >= count:
        raise BackendUnavailableError(f"Cannot use {device}: PyTorch sees {count} GPUs here.")
    return f"cuda:{ordinal or 0}"
