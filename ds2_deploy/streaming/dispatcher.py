"""Dispatcher: many streams through one model, in batches.

Batch Dispatch (section 7 of the paper): whatever is ready goes into one batch, and the next batch starts the moment
the last one ends; nobody waits for a batch to fill. Under load batches grow by themselves.

    streams with a chunk, first come first served     worker: batch -> model step -> results -> back of the queue
    [ s3 s7 s1 s9 ... ]                       ->      worker: ...

A stream stands in the queue once, however much of it waits, so one that sends a whole file at once gets a chunk per
turn like everybody else; and whoever sends faster than the model steps is made to wait.
"""

import atexit
import gc
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ds2_deploy.decoding import make_decoder
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.decoding.search import BeamConfig
from ds2_deploy.errors import OverloadError, StreamError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model_folder import Precision, open_model
from ds2_deploy.ranges import check_counts
from ds2_deploy.runtime import open_stream_backend
from ds2_deploy.runtime.devices import GPU_WORKERS, cpu_cores
from ds2_deploy.runtime.protocol import StreamBackend
from ds2_deploy.streaming.endpoint import EndpointConfig
from ds2_deploy.streaming.stepping import step_streams
from ds2_deploy.streaming.stream import Stream, StreamResult, check_process

MAX_BATCH = 32
"""Streams of a step. On a CPU a step takes as long per stream from 4 streams on, and short steps let others in."""
MAX_STREAMS = 1000
COLLECT_S = 5.0
"""Between looks for forgotten streams, which take a second where a service holds much: a full one is asked often."""
EXIT_S = 5.0
"""For how long workers hold back the end of a program that has not closed its dispatcher, with a step or a listener."""
MAX_WAITING_CHUNKS = 10
"""What one stream may have waiting before whoever feeds it has to wait."""


class Dispatcher:
    """The heart of an online service: thread-safe; a context manager, or `close()` it. One that is open when the
    program ends is closed then."""

    def __init__(
        self,
        backend: StreamBackend,
        metadata: ModelMetadata,
        decoder: Decoder,
        *,
        workers: int = 1,
        max_batch: int = MAX_BATCH,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        check_counts(workers=workers, max_batch=max_batch, max_streams=max_streams)
        self.metadata, self.backend = metadata, backend
        self._decoder = decoder
        self._max_batch, self._max_streams = max_batch, max_streams
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._queue: deque[Stream] = deque()
        self._queued: set[int] = set()  # ids of streams in the queue or in a step
        self._idle = 0
        self._closed = False
        self._process = os.getpid()
        self._collect_at = 0.0  # by the monotonic clock
        self._work = threading.Condition()  # guards all above
        self._workers = [
            threading.Thread(target=self._run, name=f"ds2-stream-{i}", daemon=True) for i in range(workers)
        ]
        for worker in self._workers:
            worker.start()
        atexit.register(self._close, EXIT_S)

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str] = "streaming",
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: Precision = "fp32",
        decoder: str | BeamConfig = "greedy",
        threads: int | None = None,
        max_batch: int = MAX_BATCH,
        max_streams: int = MAX_STREAMS,
    ) -> "Dispatcher":
        """Load a bundled streaming model or a model folder.

        `threads`: of the CPU, each a worker, None for one per core; a GPU has GPU_WORKERS, whatever it says.
        """
        threads = cpu_cores() if threads is None else threads
        check_counts(threads=threads)
        folder = open_model(model)
        loaded = open_stream_backend(backend, folder, device=device, precision=precision, threads=1)
        return cls(
            loaded,
            folder.metadata,
            make_decoder(decoder, folder.metadata.alphabet, folder.path),
            workers=threads if loaded.device == "cpu" else GPU_WORKERS,
            max_batch=max_batch,
            max_streams=max_streams,
        )

    def create_stream(
        self,
        *,
        endpoint: EndpointConfig | None = None,
        on_result: Callable[[StreamResult], None] | None = None,
    ) -> Stream:
        """A new stream; OverloadError where `max_streams` are open (closed and forgotten ones do not count;
        those whose own listeners refer to them are looked for every COLLECT_S seconds). StreamError where the
        dispatcher was closed, and in a process forked from its own.

        `on_result` is called in a worker's thread with every utterance that grows or becomes final, in order. It must
        be quick, and not feed, end, reset or wait for a stream, which may have to wait for that very worker (a
        StreamError); `close` it may.
        """
        check_process(self._process)
        with self._work:
            self._check_open()
            if len(self._streams) >= self._max_streams and time.monotonic() >= self._collect_at:
                gc.collect()  # of the forgotten, those that their own listeners refer to
                self._collect_at = time.monotonic() + COLLECT_S
            if len(self._streams) >= self._max_streams:
                raise OverloadError(
                    f"{self._max_streams} streams are open, which is all this dispatcher takes: try again later."
                )
            stream = Stream(self, self.metadata, self._decoder, endpoint=endpoint, on_result=on_result)
            self._streams.add(stream)
            return stream

    def close(self) -> None:
        """Stop after the steps under way; streams that wait hear that it is over."""
        self._close(None)

    def _close(self, patience_s: float | None) -> None:
        """Wait for busy workers, at the end of the program for so many seconds at most: one that is within the model
        while the interpreter goes down aborts the process."""
        atexit.unregister(self._close)
        if os.getpid() != self._process:  # forked: there is nothing to stop here
            return
        with self._work:
            self._closed = True
            self._queue.clear()
            streams = list(self._streams)
            self._work.notify_all()
        if not self.is_worker():  # else a listener closes it: two could wait for each other
            until = None if patience_s is None else time.monotonic() + patience_s
            for worker in self._workers:
                worker.join(None if until is None else max(until - time.monotonic(), 0))
        for stream in streams:
            if not stream.finished:
                stream.fail(StreamError("The dispatcher was closed."))

    def __enter__(self) -> "Dispatcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- for its streams ----------------------------------------------------------------------------------------

    def pump(self, stream: Stream) -> None:
        """Queue it if it has a chunk; return when not too much of it waits."""
        if stream.ready:
            try:
                self._enqueue(stream)
            except StreamError as error:  # closed: nobody will ever step it
                stream.fail(error)
                raise
        stream.wait_for_room(MAX_WAITING_CHUNKS * self.backend.chunk_samples)

    def release(self, stream: Stream) -> None:
        """The stream was closed and counts no more."""
        with self._work:
            self._streams.discard(stream)

    def is_worker(self) -> bool:
        """Whether this is one of its threads, as in a listener."""
        return threading.current_thread() in self._workers

    def _enqueue(self, stream: Stream) -> None:
        with self._work:
            self._check_open()
            if id(stream) not in self._queued:
                self._queued.add(id(stream))
                self._queue.append(stream)
                self._work.notify()

    def _check_open(self) -> None:
        if self._closed:
            raise StreamError("The dispatcher was closed.")

    # --- workers ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                step_streams(self.backend, batch)
            except Exception as error:  # no memory for the batch itself: a worker must not end of it
                for stream in batch:
                    stream.fail(error.with_traceback(None))
            while batch:  # emptied: what is forgotten elsewhere must not live on here
                self._put_back(batch.pop(0))

    def _next_batch(self) -> list[Stream]:
        """The streams first in line, leaving their share to workers that idle; empty at the end."""
        with self._work:
            self._idle += 1
            self._work.wait_for(lambda: self._queue or self._closed)
            size = min(-(-len(self._queue) // self._idle), self._max_batch)
            self._idle -= 1
            return [self._queue.popleft() for _ in range(size)]

    def _put_back(self, stream: Stream) -> None:
        """To the end of the line if it has another chunk."""
        with self._work:
            self._queued.discard(id(stream))
        if stream.ready:  # asked without the lock: its reader may hold it up
            with suppress(StreamError):  # closed, which `close` tells it
                self._enqueue(stream)
