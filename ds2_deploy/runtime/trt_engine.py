"""An engine at work: lanes that copy in, compute and copy out, each on a stream of its own.

    lane 1   upload | compute | download | upload | compute ...
    lane 2            upload  | compute  | download ...          copies hide behind the other lane's computing

A lane has page-locked and device memory that grows to what it has met, and an execution context per profile, since
changing a context's profile would wait for the GPU. Callers of several threads each take a lane for one run.
"""

import queue
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ds2_deploy.errors import EngineError, InferenceError, OutputError, first_line
from ds2_deploy.files import atomic_path
from ds2_deploy.runtime.cuda_device import Bytes, Device, Graph, Memory
from ds2_deploy.runtime.engine_file import Engine
from ds2_deploy.runtime.protocol import STAGES

Array = npt.NDArray[Any]


class Output(NamedTuple):
    """Shape and type of one output of a run."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class LoadedEngine:
    """The native engine and all that must outlive its contexts.

    `few_shapes`: the same ones come again and again, as a stream's do: each has a context of its own and is launched
    as one CUDA graph, where it can be captured.
    """

    def __init__(self, engine: Engine, device: Device, *, few_shapes: bool) -> None:
        self.info, self.device, self.few_shapes = engine.info, device, few_shapes
        self._tensorrt = engine.tensorrt
        self._compiled_path = engine.path.with_suffix(".runtime-cache")
        self._log = engine.tensorrt.create_log()
        with device.active():
            self._native, self._runtime = engine.tensorrt.load(engine.plan, self._log)
            if self._native is None:
                raise EngineError(f"{engine.tensorrt.title} does not load {engine.path}: {self.reason(0)}.")
            compiled = self._compiled_path.read_bytes() if self._compiled_path.exists() else b""
            self._settings = engine.tensorrt.run_settings(self._native, compiled, few_shapes=few_shapes)
        self._kept = self._settings.known if self._settings else 0
        self.new_context = False
        """One was made since anybody looked; its first run may compile."""
        self.closed = False
        self.captures = few_shapes and self._settings is None
        """Whether lanes capture CUDA graphs: TensorRT-RTX does by itself."""

    def create_context(self, profile: int, stream: int) -> Any:
        """An execution context that has taken the profile."""
        context, self.new_context = self._tensorrt.create_context(self._native, self._settings), True
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise InferenceError(f"The GPU has no memory left for profile {profile} of the engine: {self.reason()}.")
        return context

    def reason(self, which: int = -1) -> str:
        """The first line of the library's last complaint, or of another."""
        complaint = self._log.errors[which] if self._log.errors else ""
        return first_line(complaint) or "the library gave no reason"

    def keep_compiled(self) -> None:
        """Leave what TensorRT-RTX compiled beside the engine, when there is more of it than before."""
        compiled = bytes(self._settings.cache.serialize()) if self._settings else b""
        if len(compiled) <= self._kept:
            return
        self._kept = len(compiled)
        with suppress(OutputError), atomic_path(self._compiled_path) as path:  # a read-only folder costs time alone
            path.write_bytes(compiled)

    def close(self) -> None:
        """After all contexts; each before what it stands on."""
        if self._settings:
            self._settings.close()
        self._native = None
        self._runtime = None


class RunningEngine:
    """`engine` on `device`, for up to `lanes` callers at once; further ones wait for a lane.

    What is forgotten is closed, in whichever thread that happens, and so is what is left when the process ends.
    """

    def __init__(self, engine: Engine, device: Device, *, lanes: int, few_shapes: bool = False) -> None:
        self.info = engine.info
        self.runtime = engine.tensorrt.title
        """Who runs it, with the version."""
        self._loaded = LoadedEngine(engine, device, few_shapes=few_shapes)
        self._lanes: Lanes = queue.LifoQueue()  # the lane just used has all it needs
        for _ in range(lanes):
            self._lanes.put(None)
        self._close = weakref.finalize(self, close, self._loaded, self._lanes, lanes)

    def run(self, profile: int, feeds: Mapping[str, Array], stages: dict[str, float] | None = None) -> dict[str, Array]:
        """Outputs by name; `feeds` must fit the profile. `stages`: wait for each of STAGES and add its milliseconds."""
        lane = self._lanes.get()
        try:
            if self._loaded.closed:
                raise InferenceError("This engine was closed.")
            with self._loaded.device.active():
                lane = lane or Lane(self._loaded)
                outputs = lane.run(profile, feeds, stages)
                if self._loaded.new_context:  # writing out what compiled at each run would hold them up
                    self._loaded.new_context = False
                    self._loaded.keep_compiled()
            return outputs
        finally:
            self._lanes.put(lane)

    def close(self) -> None:
        """Free everything on the GPU; waits for callers that are still at work."""
        self._close()


def close(engine: LoadedEngine, lanes: "Lanes", count: int) -> None:
    """Of a running engine and its lanes, when all are back; whoever comes later hears of it."""
    made = [lanes.get() for _ in range(count)]
    engine.closed = True
    lanes.put(None)
    with suppress(InferenceError), engine.device.active():  # a GPU that has failed has said so
        while made:
            with suppress(Exception):  # what one lane cannot give back must not keep the others
                if lane := made.pop():
                    lane.close()
            lane = None  # with its stream, while the device is active
        with suppress(Exception):
            engine.keep_compiled()
        engine.close()


class Lane:
    """One stream with its memory and contexts; used by one thread at a time, inside `device.active()`."""

    def __init__(self, engine: LoadedEngine) -> None:
        self._device = engine.device
        self._stream = self._device.create_stream()
        self._contexts: dict[Any, Any] = {}
        self._memory: dict[str, tuple[Bytes, Memory]] = {}
        self._graphs: dict[Any, Graph | None] = {}
        """None where a shape cannot be captured."""
        self._engine = engine  # last, so that it outlives the contexts

    def run(self, profile: int, feeds: Mapping[str, Array], stages: dict[str, float] | None = None) -> dict[str, Array]:
        """Copy in, compute, copy out; the arrays returned are the caller's own."""
        key = (profile, *(array.shape for array in feeds.values())) if self._engine.few_shapes else profile
        context = self._contexts.get(key)  # a graph holds on to its context's shapes, so it has one of its own
        if context is None:
            context = self._contexts[key] = self._engine.create_context(profile, self._stream.handle)
        for name, array in feeds.items():
            if not context.set_input_shape(name, array.shape):
                raise InferenceError(f"The engine does not take {name} of shape {array.shape}.")
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise InferenceError(f"The engine does not take these shapes: {self._engine.reason()}.") from error
        if missing:
            raise InferenceError(f"The engine lacks the shape of {', '.join(missing)}.")
        outputs = {
            tensor.name: Output(tuple(context.get_tensor_shape(tensor.name)), np.dtype(tensor.dtype))
            for tensor in self._engine.info.outputs
        }
        self._reserve(context, {name: array.nbytes for name, array in feeds.items()})
        self._reserve(context, {name: output.nbytes for name, output in outputs.items()})
        if stages is None:
            self._fill(feeds)
            self._compute(key, context, feeds, outputs)
            self._stream.synchronize()
            return self._taken(outputs)
        return self._in_stages(context, feeds, outputs, stages)

    def _fill(self, feeds: Mapping[str, Array]) -> None:
        """Copy to page-locked memory."""
        for name, array in feeds.items():
            self._host(name, array.nbytes)[:] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)

    def _taken(self, outputs: Mapping[str, Output]) -> dict[str, Array]:
        """Copies from page-locked memory."""
        return {
            name: self._host(name, output.nbytes).view(output.dtype).reshape(output.shape).copy()
            for name, output in outputs.items()
        }

    def close(self) -> None:
        self._stream.synchronize()
        self._forget_graphs()
        self._contexts.clear()
        for _, memory in self._memory.values():
            memory.free()
        self._memory.clear()

    def _compute(self, key: Any, context: Any, feeds: Mapping[str, Array], outputs: Mapping[str, Output]) -> None:
        """By a graph where this shape has one, by single calls the first time and where it cannot be captured."""

        def enqueue() -> None:
            for part in self._parts(context, feeds, outputs):
                part()

        if graph := self._graphs.get(key):
            graph.launch()
            return
        enqueue()
        if self._engine.captures and key not in self._graphs:
            self._stream.synchronize()  # the first run of a shape allocates, which no capture survives
            self._graphs[key] = self._device.capture(self._stream, enqueue)

    def _parts(
        self, context: Any, feeds: Mapping[str, Array], outputs: Mapping[str, Output]
    ) -> list[Callable[[], None]]:
        """What puts each of STAGES on the stream."""

        def upload() -> None:
            for name, array in feeds.items():
                self._device.upload(self._memory[name][1], self._host(name, array.nbytes), self._stream)

        def execute() -> None:
            if not context.execute_async_v3(self._stream.handle):
                raise InferenceError(f"The engine did not run: {self._engine.reason()}.")

        def download() -> None:
            for name, output in outputs.items():
                self._device.download(self._host(name, output.nbytes), self._memory[name][1], self._stream)

        return [upload, execute, download]

    def _in_stages(
        self, context: Any, feeds: Mapping[str, Array], outputs: Mapping[str, Output], stages: dict[str, float]
    ) -> dict[str, Array]:
        """The milliseconds of each part, waiting for each; copies within the host belong to those there and back."""
        upload, execute, download = self._parts(context, feeds, outputs)
        marks = [time.perf_counter()]
        self._fill(feeds)
        upload()
        self._stream.synchronize()
        marks.append(time.perf_counter())
        execute()
        launched = time.perf_counter()
        self._stream.synchronize()
        marks.append(time.perf_counter())
        download()
        self._stream.synchronize()
        taken = self._taken(outputs)
        marks.append(time.perf_counter())
        parts = [*zip(STAGES, pairwise(marks), strict=True), ("enqueue", (marks[1], launched))]
        for name, (start, end) in parts:
            stages[name] = stages.get(name, 0.0) + 1000 * (end - start)
        return taken

    def _reserve(self, context: Any, sizes: Mapping[str, int]) -> None:
        """Memory of at least these sizes under these names, half as much again where it grows; graphs end with it."""
        for name, size in sizes.items():
            if name not in self._memory or len(self._memory[name][0]) < size:
                self._stream.synchronize()
                if name in self._memory:
                    self._memory.pop(name)[1].free()
                wanted = size + size // 2
                self._memory[name] = (self._device.page_locked(wanted), self._device.allocate(wanted))
                self._forget_graphs()
            context.set_tensor_address(name, self._memory[name][1].address)

    def _forget_graphs(self) -> None:
        for graph in filter(None, self._graphs.values()):
            graph.free()
        self._graphs.clear()

    def _host(self, name: str, size: int) -> Bytes:
        return self._memory[name][0][:size]


Lanes = queue.LifoQueue[Lane | None]
"""Those that nobody is using; None: one that has not been made yet."""
