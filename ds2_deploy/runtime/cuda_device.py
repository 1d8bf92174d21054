"""The little of CUDA that running an engine takes: memory on the GPU, page-locked memory, streams, graphs.

`Device` is the seam: what is above it runs on a fake, too (tests/fake_cuda.py), and this file is the only one that
needs a GPU. The context is the device's primary one, which torch and ONNX Runtime use as well, so that all of them
live in one process; a context of its own (`pycuda.autoinit`) would break the others.
"""

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ds2_deploy.errors import BackendUnavailableError, InferenceError, MissingPackageError, reason_of
from ds2_deploy.runtime.gpu import driver_library

Bytes = npt.NDArray[np.uint8]
"""(N,) memory of the host."""


class DeviceMemoryError(InferenceError, MemoryError):
    """The GPU's memory is full."""


class Memory(Protocol):
    """Bytes on the GPU."""

    address: int

    def free(self) -> None: ...


class DeviceStream(Protocol):
    """Work in order: each piece begins when the one before it is done."""

    handle: int

    def synchronize(self) -> None:
        """Wait until all of it is done."""
        ...


class Graph(Protocol):
    """Work that was captured on a stream."""

    def launch(self) -> None:
        """Put it on that stream again."""
        ...

    def free(self) -> None: ...


class Device(Protocol):
    """One GPU; every call but `active` must be made inside `active`."""

    def active(self) -> AbstractContextManager[None]:
        """Makes the device current in this thread. What fails inside is an InferenceError, of memory a
        DeviceMemoryError."""
        ...

    def create_stream(self) -> DeviceStream: ...

    def allocate(self, size: int) -> Memory:
        """DeviceMemoryError where the GPU's memory is full."""
        ...

    def page_locked(self, size: int) -> Bytes:
        """(size,) from which and to which the GPU copies while the host does something else."""
        ...

    def upload(self, memory: Memory, host: Bytes, stream: DeviceStream) -> None:
        """Enqueue a copy of page-locked `host`, which must stay as it is until it is done."""
        ...

    def download(self, host: Bytes, memory: Memory, stream: DeviceStream) -> None: ...

    def capture(self, stream: DeviceStream, enqueue: Callable[[], None]) -> Graph | None:
        """What `enqueue` puts on the stream, as one CUDA graph to launch there; None where it cannot be captured."""
        ...


def pycuda_driver() -> Any:
    """The module; MissingPackageError or BackendUnavailableError where there is none that works."""
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "Running an engine needs the package 'pycuda', which is not installed: pip install pycuda (it is "
            "compiled, for which the CUDA toolkit's headers must be there)."
        ) from error
    except ImportError as error:
        raise BackendUnavailableError(f"pycuda is installed but does not load: {error}.") from error


class PycudaDevice:
    """`Device` on pycuda. CUDA graphs, which pycuda does not know, are asked of the driver."""

    def __init__(self, ordinal: int) -> None:
        """BackendUnavailableError where the GPU is there and cannot be used: all of it is taken, by somebody else."""
        self._cuda = pycuda_driver()
        try:
            self._cuda.init()
            self._context = self._cuda.Device(ordinal).retain_primary_context()
        except self._cuda.Error as error:
            raise BackendUnavailableError(f"Cannot use cuda:{ordinal}: {reason_of(error)}.") from error

    @contextmanager
    def active(self) -> Iterator[None]:
        try:
            self._context.push()
            try:
                yield
            finally:
                self._cuda.Context.pop()
        except self._cuda.MemoryError as error:
            raise DeviceMemoryError(f"The GPU, or its page-locked memory, is full: {reason_of(error)}.") from error
        except self._cuda.Error as error:
            raise InferenceError(f"The GPU failed: {reason_of(error)}.") from error

    def create_stream(self) -> DeviceStream:
        non_blocking = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, on which torch works
        stream: DeviceStream = self._cuda.Stream(non_blocking)
        return stream

    def allocate(self, size: int) -> Memory:
        try:
            return _Allocation(self._cuda.mem_alloc(max(size, 1)))
        except self._cuda.MemoryError as error:
            free, total = self._cuda.mem_get_info()
            raise DeviceMemoryError(
                f"The GPU's memory is full: {size / 1e6:.1f} MB were wanted, {free / 1e6:.0f} of {total / 1e6:.0f} MB "
                "are free; use smaller batches or a shorter profile."
            ) from error

    def page_locked(self, size: int) -> Bytes:
        memory: Bytes = self._cuda.pagelocked_empty(max(size, 1), np.uint8)
        return memory

    def upload(self, memory: Memory, host: Bytes, stream: DeviceStream) -> None:
        self._cuda.memcpy_htod_async(memory.address, host, stream)

    def download(self, host: Bytes, memory: Memory, stream: DeviceStream) -> None:
        self._cuda.memcpy_dtoh_async(host, memory.address, stream)

    def capture(self, stream: DeviceStream, enqueue: Callable[[], None]) -> Graph | None:
        driver, handle = driver_library(), ctypes.c_void_p(stream.handle)
        graph, launchable = ctypes.c_void_p(), ctypes.c_void_p()
        thread_local = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may do what they want meanwhile
        if driver is None or driver.cuStreamBeginCapture_v2(handle, thread_local):
            return None
        refused = False
        try:
            enqueue()
        except (InferenceError, self._cuda.Error):  # some layer, such as a loop, or a call of ours cannot be captured
            refused = True
        finally:
            failed = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
        if not graph:
            return None
        refused = refused or failed or driver.cuGraphInstantiateWithFlags(ctypes.byref(launchable), graph, 0)
        driver.cuGraphDestroy(graph)  # what can be launched is a copy
        return None if refused else _Graph(driver, launchable, handle)


class _Graph:
    def __init__(self, driver: ctypes.CDLL, launchable: ctypes.c_void_p, stream: ctypes.c_void_p) -> None:
        self._driver, self._launchable, self._stream = driver, launchable, stream

    def launch(self) -> None:
        if code := self._driver.cuGraphLaunch(self._launchable, self._stream):
            raise InferenceError(f"The CUDA graph did not start (driver error {code}).")

    def free(self) -> None:
        self._driver.cuGraphExecDestroy(self._launchable)


class _Allocation:
    def __init__(self, allocation: Any) -> None:
        self._allocation = allocation
        self.address = int(allocation)

    def free(self) -> None:
        self._allocation.free()
