"""A GPU and a TensorRT runtime that are none: memory is NumPy's, streams are lists, engines are ONNX Runtime.

Work put on a stream is done when somebody waits for it and not before, so that reading too early shows. Memory is
what was asked for and no more, calls outside `active` fail, and what was not freed can be counted.
"""

import threading
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
        self.streams: dict[int, FakeStream] = {}
        self.launches = 0
        self._current = threading.local()

    @contextmanager
    def active(self) -> Iterator[None]:
        self._current.depth = getattr(self._current, "depth", 0) + 1
        try:
            yield
        finally:
            self._current.depth -= 1

    def check(self) -> None:
        assert getattr(self._current, "depth", 0) > 0, "CUDA was called without its context"

    def create_stream(self) -> FakeStream:
        self.check()
        stream = FakeStream(self, 1000 + len(self.streams))
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

    def capture(self, stream: FakeStream, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        self.check()
        stream.captured = captured = []
        enqueue()
        stream.captured = None
        if not self.capturable:
            return None

        def launch() -> None:
            self.launches += 1
            stream.work.extend(captured)

        return launch


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

    def create_execution_context(self) -> "Context":
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._device = engine, engine.device
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
