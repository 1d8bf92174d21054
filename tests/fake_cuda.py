"""A GPU and a TensorRT runtime that are none: memory is NumPy's, streams are lists, engines are ONNX Runtime.

Work put on a stream is done when somebody waits for it and not before, so that reading too early shows. Memory is
what was asked for and no more, calls outside `active` fail, and what was not freed can be counted, as can streams that
were dropped outside `active`, which pycuda would leak. Contexts of TensorRT-RTX see whether their settings still live.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime

from ds2_deploy.runtime.cuda_device import Bytes, DeviceMemoryError
from tests import fake_tensorrt


class FakeStream:
    def __init__(self, device: "FakeDevice", handle: int) -> None:
        self.handle, self._device = handle, device
        self.work: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None

    def __del__(self) -> None:
        self._device.leaked += not self._device.is_active()

    def put(self, work: Callable[[], None]) -> None:
        (self.work if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        self._device.check()
        assert self.captured is None, "a stream that is captured cannot be waited for"
        for work in self.work:
            work()
        self.work.clear()


class FakeMemory:
    def __init__(self, device: "FakeDevice", size: int) -> None:
        self._device = device
        device.last_address += 1 << 20
        self.address = device.last_address
        device.memory[self.address] = np.full(size, 0xAA, np.uint8)

    def free(self) -> None:
        self._device.check()
        del self._device.memory[self.address]


class FakeDevice:
    """`Device` with `capacity` bytes."""

    def __init__(self, capacity: int = 1 << 40, *, capturable: bool = True) -> None:
        self.capacity, self.capturable = capacity, capturable
        self.memory: dict[int, Bytes] = {}
        self.last_address = 0
        self.streams: weakref.WeakValueDictionary[int, FakeStream] = weakref.WeakValueDictionary()
        self.made_streams = self.leaked = self.launches = self.graphs = 0
        self._current = threading.local()

    @contextmanager
    def active(self) -> Iterator[None]:
        self._current.depth = getattr(self._current, "depth", 0) + 1
        try:
            yield
        finally:
            self._current.depth -= 1

    def is_active(self) -> bool:
        return getattr(self._current, "depth", 0) > 0

    def check(self) -> None:
        assert self.is_active(), "CUDA was called without its context"

    def create_stream(self) -> FakeStream:
        self.check()
        self.made_streams += 1
        stream = FakeStream(self, 1000 + self.made_streams)
        self.streams[stream.handle] = stream
        return stream

    def allocate(self, size: int) -> FakeMemory:
        self.check()
        if sum(map(len, list(self.memory.values()))) + size > self.capacity:
            raise DeviceMemoryError("The GPU's memory is full.")
        return FakeMemory(self, size)

    def page_locked(self, size: int) -> Bytes:
        self.check()
        return np.full(size, 0x55, np.uint8)

    def upload(self, memory: FakeMemory, host: Bytes, stream: FakeStream) -> None:
        self.check()
        stream.put(lambda: self._copy(self.memory[memory.address], host))

    def download(self, host: Bytes, memory: FakeMemory, stream: FakeStream) -> None:
        self.check()
        stream.put(lambda: self._copy(host, self.memory[memory.address][: len(host)]))

    def _copy(self, to: Bytes, what: Bytes) -> None:
        to[: len(what)] = what

    def capture(self, stream: FakeStream, enqueue: Callable[[], None]) -> "FakeGraph | None":
        self.check()
        stream.captured = captured = []
        enqueue()
        stream.captured = None
        if not self.capturable:
            return None

        self.graphs += 1
        return FakeGraph(self, stream, captured)


class FakeGraph:
    def __init__(self, device: FakeDevice, stream: FakeStream, captured: list[Callable[[], None]]) -> None:
        self._device, self._stream, self._captured = device, stream, captured

    def launch(self) -> None:
        self._device.launches += 1
        self._stream.work.extend(self._captured)

    def free(self) -> None:
        self._device.check()
        self._device.graphs -= 1


class Runtime:
    """What `fake_tensorrt` gets as its own: engines compute by ONNX Runtime what was parsed last."""

    device: FakeDevice

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> "Engine | None":
        if plan != b"plan":
            self.logger.log(fake_tensorrt.ILogger.Severity.ERROR, "the plan's magic tag does not fit")
            return None
        return Engine(self.device)


class Engine:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.session = onnxruntime.InferenceSession(fake_tensorrt.asked["parsed"])

    def create_runtime_config(self) -> fake_tensorrt.IRuntimeConfig:
        return fake_tensorrt.IRuntimeConfig()

    def create_execution_context(
        self, how: "fake_tensorrt.ExecutionContextAllocationStrategy | fake_tensorrt.IRuntimeConfig"
    ) -> "Context":
        config = how if isinstance(how, fake_tensorrt.IRuntimeConfig) else None
        memory = config._memory if config else how
        assert memory == fake_tensorrt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        return Context(self, config)


class Context:
    def __init__(self, engine: Engine, config: "fake_tensorrt.IRuntimeConfig | None") -> None:
        self._engine, self._device = engine, engine.device
        self._config = None if config is None else weakref.ref(config)
        self._compiled = config is None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._device.check()
        self._profile = fake_tensorrt.asked["profiles"][profile_index]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._profile[name]
        self._shapes[name] = shape
        return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))

    def infer_shapes(self) -> list[str]:
        inputs = self._engine.session.get_inputs()
        if missing := [i.name for i in inputs if i.name not in self._shapes]:
            return missing
        zeros = {i.name: np.zeros(self._shapes[i.name], self._dtype(i)) for i in inputs}
        names = [output.name for output in self._engine.session.get_outputs()]
        self._outputs = dict(zip(names, self._engine.session.run(names, zeros), strict=True))
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._outputs[name].shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._device.check()
        if not self._compiled:
            assert self._config is not None
            config = self._config()
            assert config is not None, "the settings of this context were freed"
            cache = config._cache()
            assert cache is not None, "the runtime cache of this context was freed"
            cache._content += b"+"
            self._compiled = True
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        self._device.streams[stream_handle].put(lambda: self._run(shapes, addresses))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feeds = {}
        for tensor in self._engine.session.get_inputs():
            dtype, shape = self._dtype(tensor), shapes[tensor.name]
            size = int(np.prod(shape)) * dtype.itemsize
            feeds[tensor.name] = self._device.memory[addresses[tensor.name]][:size].view(dtype).reshape(shape)
        names = [output.name for output in self._engine.session.get_outputs()]
        for name, value in zip(names, self._engine.session.run(names, feeds), strict=True):
            content = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
            self._device.memory[addresses[name]][: len(content)] = content

    @staticmethod
    def _dtype(tensor: Any) -> "np.dtype[Any]":
        return np.dtype({"tensor(float)": np.float32, "tensor(int64)": np.int64}[tensor.type])
