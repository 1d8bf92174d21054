"""The one seam over TensorRT 10 and 11 (module `tensorrt`) and TensorRT-RTX (module `tensorrt_rtx`).

They share one Python API. What differs is kept here: what is installed, which needs a GPU to build, how a
network becomes strongly typed, which GPUs and versions an engine is for, and what a build leaves for the next one.
"""

import importlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from ds2_deploy.errors import BackendUnavailableError, ConfigError, MissingPackageError, reason_of
from ds2_deploy.extras import missing_sentence
from ds2_deploy.runtime.engine_info import RuntimeName
from ds2_deploy.runtime.gpu import Gpu, gpus

RuntimeChoice = Literal["auto", "tensorrt", "tensorrt-rtx"]

MODULES: dict[RuntimeName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
TITLES: dict[RuntimeName, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_OLDEST = 10  # earlier versions choose precisions themselves
_PORTABLE = "8.0+"  # what TensorRT-RTX builds for unless told otherwise
_TURING = (7, 5)  # which TensorRT-RTX serves only with an engine of its own
_AMPERE = (8, 0)  # the oldest that a hardware-compatible engine of TensorRT runs on

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What an engine may give up, and what for."""

    tf32: bool = False
    """Round the factors of float32 products to TF32, which is faster and spoils the spectrogram."""
    hardware_compatible: bool = False
    """For every GPU from compute capability 8.0 on, instead of the one it is built on: slower there."""
    version_compatible: bool = False
    """For later versions of TensorRT, too: larger, and slower to load."""
    layers: bool = False
    """Write what was parsed and what it became, layer by layer."""


class Target(NamedTuple):
    """What an engine is for."""

    gpu: Gpu | None
    """The GPU it is tuned on; None where it is built ahead of time."""
    compute_capability: str
    """GPUs it runs on: `9.0` is that one alone, `8.0+` that one and later."""
    tag: str
    """Runtime and target as file names spell them: `tensorrt-sm90`, `tensorrt-rtx`."""


@dataclass
class RunSettings:
    """TensorRT-RTX's way to run. Contexts hold on to neither, nor `config` to `cache`: they must go in that order."""

    config: Any
    cache: Any
    """What it compiled for this GPU."""
    known: int
    """Bytes of what an earlier process compiled and this one could take over."""

    def close(self) -> None:
        """After all contexts."""
        self.config = None
        self.cache = None


class Progress(Protocol):
    """Hears of a build's phases, which lie inside each other, and may end it."""

    def start(self, phase: str, parent: str | None, steps: int) -> None: ...

    def step(self, phase: str, number: int) -> bool:
        """Whether to go on."""
        ...

    def finish(self, phase: str) -> None: ...


def installed(name: RuntimeName) -> bool:
    return importlib.util.find_spec(MODULES[name]) is not None


def choose(runtime: RuntimeChoice) -> "TensorRT":
    """The runtime to build with: `auto` is TensorRT where it and a GPU are there, else TensorRT-RTX.

    Raises MissingPackageError or BackendUnavailableError, one sentence on what is missing.
    """
    gpu = next(iter(gpus()), None)
    if runtime == "auto":
        runtime = "tensorrt" if gpu and installed("tensorrt") else "tensorrt-rtx"
    if runtime == "tensorrt" and installed(runtime) and gpu is None:
        raise BackendUnavailableError(
            "TensorRT builds on the GPU that will run the engine, and the NVIDIA driver offers none here: "
            "build on that machine, or with --runtime tensorrt-rtx, which builds ahead of time."
        )
    return load_runtime(runtime, gpu)


def _missing(runtime: RuntimeName) -> str:
    sentence = missing_sentence(MODULES[runtime])
    if runtime == "tensorrt":
        sentence += " (it fetches its libraries from NVIDIA's own package index, which must be within reach)"
    return sentence


def load_runtime(name: RuntimeName, gpu: Gpu | None) -> "TensorRT":
    """One flavour; MissingPackageError or BackendUnavailableError where it is not installed or does not load."""
    if not installed(name):
        raise MissingPackageError(_missing(name))
    try:
        api = importlib.import_module(MODULES[name])
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(f"{TITLES[name]} is installed but does not load: {reason_of(error)}.") from error
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
        return f"{TITLES[self.name]} {self.version}"

    @property
    def version(self) -> str:
        return str(self.api.__version__)

    def target(self, options: BuildOptions) -> Target:
        """What an engine is built for; ConfigError where the options ask for what this flavour cannot do."""
        if options.version_compatible and self.name == "tensorrt-rtx":
            raise ConfigError("--version-compatible is TensorRT's: an engine of TensorRT-RTX serves its version alone.")
        gpu, rtx = self.gpu, self.name == "tensorrt-rtx"
        if gpu is None or (rtx and gpu.compute_capability != _TURING):
            return Target(None, _PORTABLE, self.name)
        if options.hardware_compatible and gpu.compute_capability < _AMPERE:
            raise ConfigError(f"--hardware-compatible needs a GPU of compute capability 8.0 or later: this is {gpu}.")
        if options.hardware_compatible:
            return Target(gpu, _PORTABLE, f"{self.name}-sm80plus")
        major, minor = gpu.compute_capability
        return Target(gpu, f"{major}.{minor}", f"{self.name}-sm{major}{minor}")

    def create_network(self, builder: Any) -> Any:
        """An empty network whose types are those of the ONNX file (11 and TensorRT-RTX know no others)."""
        flag = getattr(self.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def create_config(self, builder: Any, options: BuildOptions) -> Any:
        """TF32 off unless wanted, and the target where it is not the default."""
        config = builder.create_builder_config()
        if not options.tf32:
            config.clear_flag(self.api.BuilderFlag.TF32)
        if options.layers:
            config.profiling_verbosity = self.api.ProfilingVerbosity.DETAILED
        if self.name == "tensorrt-rtx":
            if self.target(options).gpu:
                config.num_compute_capabilities = 1
                config.set_compute_capability(self.api.ComputeCapability.SM75, 0)
            return config
        if options.hardware_compatible:
            config.hardware_compatibility_level = self.api.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.version_compatible:
            config.set_flag(self.api.BuilderFlag.VERSION_COMPATIBLE)
        return config

    def use_timing_cache(self, config: Any, content: bytes) -> None:
        """Start from what earlier builds measured, or anew where the library refuses it; TensorRT-RTX, which measures
        nothing, keeps none."""
        if self.name == "tensorrt-rtx":
            return
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            _logger.info("What was measured before is not this library's: measured anew.")
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def timing_cache(self, config: Any) -> bytes | None:
        """What this build and those before it measured."""
        if self.name == "tensorrt-rtx":
            return None
        cache = config.get_timing_cache()
        return bytes(cache.serialize()) if cache else None

    def create_monitor(self, progress: Progress) -> Any:
        """The native library's progress monitor, which tells `progress`."""

        class Monitor(self.api.IProgressMonitor):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                progress.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return progress.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                progress.finish(phase_name)

        return Monitor()

    def load(self, plan: bytes, log: Any) -> tuple[Any, Any]:
        """The engine and the runtime that must outlive it; no engine (None) where the library refuses the plan, or
        does not start."""
        try:
            runtime = self.api.Runtime(log)
        except TypeError:  # how pybind11 says that the native constructor returned nothing
            return None, None
        runtime.engine_host_code_allowed = True  # which a version-compatible engine brings; its hash was checked
        return runtime.deserialize_cuda_engine(plan), runtime

    def create_context(self, engine: Any, settings: RunSettings | None) -> Any:
        """An execution context with the memory of the profile that it takes; `settings` from `run_settings`."""
        return engine.create_execution_context(settings.config if settings else self._memory)

    @property
    def _memory(self) -> Any:
        """Of a context: what its profile needs, not what the largest one does."""
        return self.api.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE

    def run_settings(self, engine: Any, compiled: bytes, *, few_shapes: bool) -> RunSettings | None:
        """TensorRT-RTX's way to run, with what it `compiled` for this GPU before; None for TensorRT, which compiles
        nothing and leaves CUDA graphs to us.

        A stream's few shapes get kernels of their own, at once, and CUDA graphs. Recordings are of nearly as many
        lengths as there are batches: kernels for each would be compiled without end, and kept as long as the context.
        """
        if self.name == "tensorrt":
            return None
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        known = len(compiled) if compiled and cache.deserialize(compiled) else 0
        config.set_runtime_cache(cache)
        config.set_execution_context_allocation_strategy(self._memory)
        kernels, graphs = self.api.DynamicShapesKernelSpecializationStrategy, self.api.CudaGraphStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER if few_shapes else kernels.NONE
        config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if few_shapes else graphs.DISABLED
        return RunSettings(config, cache, known)

    def inspect(self, plan: memoryview, log: Any) -> Any:
        """The layers of a built engine as the library describes them; None where there is no GPU to load it on."""
        if self.gpu is None:
            return None
        engine, _runtime = self.load(bytes(plan), log)  # the runtime must outlive it
        if engine is None:
            return None
        return json.loads(engine.create_engine_inspector().get_engine_information(self.api.LayerInformationFormat.JSON))

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
