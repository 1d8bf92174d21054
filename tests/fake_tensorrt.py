"""What building and running call of the package `tensorrt` 10, which cannot be installed where the tests run; with
what running calls of TensorRT-RTX besides.

Whether these names exist is checked against the real `tensorrt_rtx`, which has the same API.
"""

import weakref
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np

__version__ = "10.9.0"
CLASSES = [
    "ILogger", "Builder", "INetworkDefinition", "OnnxParser", "IBuilderConfig", "IOptimizationProfile", "ITimingCache",
    "IProgressMonitor", "HardwareCompatibilityLevel", "ProfilingVerbosity", "BuilderFlag", "IRuntimeConfig",
    "IRuntimeCache", "ExecutionContextAllocationStrategy", "DynamicShapesKernelSpecializationStrategy",
    "CudaGraphStrategy",
]  # fmt: skip

asked: dict[str, Any] = {}
starts = True
plan: bytes | None = b"plan"


def reset() -> None:
    asked.clear()


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class BuilderFlag(IntEnum):
    TF32 = 7
    VERSION_COMPATIBLE = 13


class HardwareCompatibilityLevel(IntEnum):
    NONE, AMPERE_PLUS = range(2)


class ProfilingVerbosity(IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class DynamicShapesKernelSpecializationStrategy(IntEnum):
    LAZY, EAGER, NONE = range(3)


class CudaGraphStrategy(IntEnum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class IRuntimeCache:
    """TensorRT-RTX's: one mark for each context that ran. It takes over what begins with its GPU's name."""

    def __init__(self) -> None:
        self._content = b"H200"

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"H200"):
            return False
        self._content = blob
        return True

    def serialize(self) -> memoryview:
        return memoryview(self._content)


class IRuntimeConfig:
    """TensorRT-RTX's: it holds no reference to its cache, so whoever drops that reads freed memory."""

    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = weakref.ref(cache)
        return True

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._memory = strategy


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class ITimingCache:
    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> memoryview:
        return memoryview(self._content + b"+")


class NetworkDefinitionCreationFlag:
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class IOptimizationProfile:
    __slots__ = ("_shapes",)

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self._shapes[input] = (min, opt, max)


class IBuilderConfig:
    """Without the compute capabilities of TensorRT-RTX; assigning to them fails."""

    __slots__ = ("_cache", "_logger", "hardware_compatibility_level", "profiling_verbosity", "progress_monitor")

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor: IProgressMonitor | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        asked.setdefault("set", []).append(flag.name)

    def clear_flag(self, flag: BuilderFlag) -> None:
        asked.setdefault("cleared", []).append(flag.name)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if serialized_timing_cache == b"damaged":
            self._logger.log(ILogger.Severity.ERROR, "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
            return None
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not isinstance(cache, ITimingCache):
            raise TypeError("set_timing_cache(): incompatible function arguments.")
        if cache._content == b"another driver's":
            self._logger.log(ILogger.Severity.ERROR, "the timing cache will not be used")
            return ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self._cache

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        asked.setdefault("profiles", []).append(profile._shapes)
        return len(asked["profiles"]) - 1


class _Tensor:
    def __init__(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class INetworkDefinition:
    num_inputs, num_outputs = 2, 2
    _inputs: ClassVar = [_Tensor("audio", "FLOAT", (-1, -1)), _Tensor("audio_lengths", "INT64", (-1,))]
    _outputs: ClassVar = [_Tensor("log_probs", "FLOAT", (-1, -1, 29)), _Tensor("lengths", "INT64", (-1,))]

    def get_input(self, index: int) -> _Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> _Tensor:
        return self._outputs[index]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        pass

    def parse_from_file(self, model: str) -> bool:
        asked["parsed"] = model
        return True


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        if not starts:
            logger.log(ILogger.Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> INetworkDefinition:
        asked["network_flags"] = flags
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        asked["hardware"] = config.hardware_compatibility_level.name
        if monitor := config.progress_monitor:
            monitor.phase_start("whole", None, 2)
            if not monitor.step_complete("whole", 0):
                return None
            monitor.phase_finish("whole")
        if plan is None:
            self._logger.log(ILogger.Severity.WARNING, "a warning")
            self._logger.log(
                ILogger.Severity.ERROR,
                "IBuilder::build: Error Code 2: Internal Error (out of memory. In build at /_src/builder.cpp:12)",
            )
            self._logger.log(ILogger.Severity.ERROR, "second complaint")
        return plan


def nptype(dtype: str) -> type[np.generic]:
    return {"FLOAT": np.float32, "INT64": np.int64}[dtype]
