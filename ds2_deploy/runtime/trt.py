"""The one seam over TensorRT 10 and 11 (module `tensorrt`) and TensorRT-RTX (module `tensorrt_rtx`).

They share one Python API. What differs is kept here: what is installed, which needs a GPU to build, how a
network becomes strongly typed, and which GPUs an engine is for.
"""

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from typing import Any, Literal

from ds2_deploy.errors import BackendUnavailableError, MissingPackageError
from ds2_deploy.extras import missing_sentence
from ds2_deploy.runtime.engine_info import RuntimeName
from ds2_deploy.runtime.gpu import Gpu, gpus

RuntimeChoice = Literal["auto", "tensorrt", "tensorrt-rtx"]

MODULES: dict[RuntimeName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_TITLES: dict[RuntimeName, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_OLDEST = 10  # earlier versions choose precisions themselves
_PORTABLE = "8.0+"  # what TensorRT-RTX builds for unless told otherwise
_TURING = (7, 5)  # which TensorRT-RTX serves only with an engine of its own

_logger = logging.getLogger(__name__)


def installed(name: RuntimeName) -> bool:
    return importlib.util.find_spec(MODULES[name]) is not None


def choose(runtime: RuntimeChoice) -> "TensorRT":
    """The runtime to build with: `auto` is TensorRT where it and a GPU are there, else TensorRT-RTX.

    Raises MissingPackageError or BackendUnavailableError, one sentence on what is missing.
    """
    gpu = next(iter(gpus()), None)
    if runtime == "auto":
        runtime = "tensorrt" if gpu and installed("tensorrt") else "tensorrt-rtx"
    if not installed(runtime):
        raise MissingPackageError(_missing(runtime))
    if runtime == "tensorrt" and gpu is None:
        raise BackendUnavailableError(
            "TensorRT builds on the GPU that will run the engine, and the NVIDIA driver offers none here: "
            "build on that machine, or with --runtime tensorrt-rtx, which builds ahead of time."
        )
    return _load(runtime, gpu)


def _missing(runtime: RuntimeName) -> str:
    sentence = missing_sentence(MODULES[runtime])
    if runtime == "tensorrt":
        sentence += " (it fetches its libraries from NVIDIA's own package index, which must be within reach)"
    return sentence


def _load(name: RuntimeName, gpu: Gpu | None) -> "TensorRT":
    try:
        api = importlib.import_module(MODULES[name])
    except (ImportError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise BackendUnavailableError(f"{_TITLES[name]} is installed but does not load: {reason}.") from error
    if name == "tensorrt" and int(api.__version__.partition(".")[0]) < _OLDEST:
        raise BackendUnavailableError(f"TensorRT {api.__version__} is too old: install version {_OLDEST} or later.")
    return TensorRT(name, api, gpu)


@dataclass(frozen=True)
class TensorRT:
    """One installed flavour."""

    name: RuntimeName
    api: Any
    """The module: `tensorrt` or `tensorrt_rtx`."""
    gpu: Gpu | None
    """The GPU of this process, where there is one."""

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{_TITLES[self.name]} {self.version}"

    @property
    def version(self) -> str:
        return str(self.api.__version__)

    @property
    def target(self) -> Gpu | None:
        """The GPU an engine is built for; None where it is built for all that TensorRT-RTX serves."""
        if self.gpu and (self.name == "tensorrt" or self.gpu.compute_capability == _TURING):
            return self.gpu
        return None

    @property
    def compute_capability(self) -> str:
        """GPUs an engine runs on: `9.0` is that one alone, `8.0+` that one and later."""
        return "{}.{}".format(*self.target.compute_capability) if self.target else _PORTABLE

    @property
    def tag(self) -> str:
        """Runtime and target as file names spell them: `tensorrt-sm90`, `tensorrt-rtx`."""
        return "{}-sm{}{}".format(self.name, *self.target.compute_capability) if self.target else self.name

    def create_network(self, builder: Any) -> Any:
        """An empty network whose types are those of the ONNX file (11 and TensorRT-RTX know no others)."""
        flag = getattr(self.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def create_config(self, builder: Any) -> Any:
        """TF32 off, and the target where it is not the default."""
        config = builder.create_builder_config()
        config.clear_flag(self.api.BuilderFlag.TF32)
        if self.name == "tensorrt-rtx" and self.target:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self.api.ComputeCapability.SM75, 0)
        return config

    def create_log(self) -> Any:
        """A logger for the native library that keeps lines (`errors`) instead of printing them.

        Not everything it calls an error is one: TensorRT-RTX complains of the missing GPU while it builds
        without one. Everything but its chatter goes to Python's `logging` as well, at level DEBUG.
        """
        severity = self.api.ILogger.Severity
        noise = "cudaError" if self.gpu is None else None

        class Log(self.api.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()
                self.errors: list[str] = []

            def log(self, level: Any, message: str) -> None:
                if int(level) <= int(severity.INFO):
                    _logger.debug("%s", message)
                if int(level) <= int(severity.ERROR) and not (noise and noise in message):
                    self.errors.append(message)

        return Log()
