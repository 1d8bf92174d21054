"""One backend in a process of its own: so its memory is its own, and another's crash is not this one's.

The parent asks, one thing at a time; what is timed is timed in here, so that the way between them costs nothing.
"""

import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.bench.environment import process_device_mb
from ds2_deploy.bench.load_test import LoadTest, Served, serve
from ds2_deploy.bench.report import Loaded
from ds2_deploy.decoding import make_decoder
from ds2_deploy.decoding.outcome import text_or_nothing
from ds2_deploy.errors import BenchError, DS2Error
from ds2_deploy.extras import distribution_version
from ds2_deploy.model_folder import WEIGHTS_FILE, ModelFolder, Precision, graph_file, open_model
from ds2_deploy.runtime import open_backend, open_stream_backend
from ds2_deploy.runtime.protocol import run_alone

STEADY = 0.05
"""Two medians of a warm-up's runs that differ by less: it is warm."""
WARM_UP_RUNS = 3
"""Whose median is looked at; at least two such groups."""
MOST_WARM_UP_S = 10.0
STAGED_RUNS = 10


class Spec(NamedTuple):
    """What a worker loads."""

    model: str
    backend: str
    precision: Precision
    device: str
    threads: int
    stream: bool

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"


class Timed(NamedTuple):
    """Runs of one cell."""

    runs_ms: list[float]
    stages: dict[str, list[float]]
    wall_s: float
    host_mb: float
    device_mb: float | None
    wrong: int
    """Runs whose labels were not those of the cell's first run, or of the same step's in the first pass."""


class Inputs(NamedTuple):
    """Of a cell: a padded batch (B, S) and its lengths (B,), or chunks (n, B, C) of streams."""

    audio: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]


class TimedUtterance(NamedTuple):
    """A recording from file to text."""

    audio_ms: float
    model_ms: float
    text_ms: float
    whole_ms: float
    text: str
    seconds: float
    finite: bool
    """Whether the log-probabilities were numbers."""


class Remote:
    """The parent's end of a worker. BenchError where the process has died, and the DS2Errors of the worker itself."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.loaded: Loaded = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, *arguments: Any) -> Any:
        """The answer of the worker's method `what`."""
        try:
            self._connection.send((what, arguments))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _died(self) -> BenchError:
        self._process.join(5)
        code = self._process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else None
        how = f"by signal {name}" if name else f"with code {code}"
        why = ", most likely for want of memory" if name == "SIGKILL" else ""
        return BenchError(f"The process of {self.spec.name} ended {how}{why}.")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._connection.close()
        self._process.terminate()
        self._process.join(5)


def _serve(connection: Connection, spec: Spec) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, who ends us
    logging.disable(logging.CRITICAL)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        try:
            worker = _Worker(spec)
        except Exception as error:
            connection.send(_told(spec.name, error))
            return
        connection.send(worker.loaded)
        while True:
            what, arguments = connection.recv()
            connection.send(_answered(worker, what, arguments))


def _answered(worker: "_Worker", what: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return getattr(worker, what)(*arguments)
    except Exception as error:
        return _told(worker.loaded.name, error)


def _told(name: str, error: Exception) -> DS2Error:
    """What the parent is sent: whatever a library raised is its to tell."""
    return error if isinstance(error, DS2Error) else BenchError(f"{name}: {type(error).__name__}: {error}")


class _Worker:
    """What the parent may ask for."""

    def __init__(self, spec: Spec) -> None:
        self.folder = open_model(spec.model)
        options: dict[str, Any] = {"device": spec.device, "precision": spec.precision, "threads": spec.threads}
        start = time.perf_counter()
        self.backend: Any
        if spec.stream:
            self.backend = open_stream_backend(spec.backend, self.folder, **options)
        else:
            self.backend = open_backend(spec.backend, self.folder, **options)
        load_s = time.perf_counter() - start
        self.decoder = make_decoder("greedy", self.folder.metadata.alphabet)
        self.inputs: Inputs
        self.labels: list[npt.NDArray[np.int64]]  # of the cell's first run, or of each step of its first pass
        self.loaded = Loaded(
            backend=spec.backend,
            precision=spec.precision,
            device=self.backend.device,
            runtime=_runtime(self.backend),
            stream=spec.stream,
            chunk_samples=self.backend.chunk_samples if spec.stream else None,
            max_samples=None if spec.stream else self.backend.max_samples,
            file_mb=_file_mb(self.folder, self.backend, spec),
            load_s=load_s,
            build_s=self.backend.engine.info.build_s if spec.backend == "tensorrt" else None,
            host_mb=peak_mb(),
        )

    # --- batches and streams: the same inputs again and again ----------------------------------------------------

    def prepare(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Take a cell's inputs; returns its log-probabilities: the valid frames of all rows, or streams, in turn."""
        self.inputs, self.at = inputs, 0
        self.run, count = (self._step, len(inputs.audio)) if self.loaded.stream else (self._run, 1)
        first = [self.run() for _ in range(count)]
        self.labels = [_labels(*run) for run in first]
        rows = range(len(inputs.lengths))
        return np.concatenate([log_probs[row, : lengths[row]] for row in rows for log_probs, lengths in first])

    def _run(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        log_probs, lengths = self.backend.run(*self.inputs)
        return log_probs, lengths

    def _step(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The next chunk of every stream; after the last one the first again, from the first state."""
        if self.at == 0:
            self.state = self.backend.initial_state(len(self.inputs.lengths))
        log_probs, lengths, self.state = self.backend.step(self.inputs.audio[self.at], self.inputs.lengths, self.state)
        self.at = (self.at + 1) % len(self.inputs.audio)
        return log_probs, lengths

    def warm_up(self) -> tuple[int, bool]:
        """Runs until two groups of them take as long; how many there were, and whether they came to that."""
        start, medians, runs = time.perf_counter(), [], 0
        while True:
            group = []
            for _ in range(WARM_UP_RUNS):
                before = time.perf_counter()
                self.run()
                group.append(time.perf_counter() - before)
            runs += WARM_UP_RUNS
            medians.append(float(np.median(group)))
            steady = len(medians) > 1 and abs(medians[-1] - medians[-2]) <= STEADY * medians[-1]
            if steady or time.perf_counter() - start > MOST_WARM_UP_S:
                return runs, steady

    def runs(self, seconds: float) -> Timed:
        """As many runs as fit into `seconds`, at least one; each is checked, outside of its time.

        `wall_s` is the clock's from the first to the last, without what checking took.
        """
        self.at = 0
        runs_ms: list[float] = []
        wrong, checking_s = 0, 0.0
        with peaks(self.backend.device) as peak:
            begin = time.perf_counter()
            while (start := time.perf_counter()) - begin - checking_s < seconds or not runs_ms:
                log_probs, lengths = self.run()
                end = time.perf_counter()
                wrong += not np.array_equal(_labels(log_probs, lengths), self.labels[len(runs_ms) % len(self.labels)])
                runs_ms.append(1000 * (end - start))
                checking_s += time.perf_counter() - end
            wall_s = time.perf_counter() - begin - checking_s
            host_mb, device_mb = peak()
        return Timed(runs_ms, self._stages(len(runs_ms)), wall_s, host_mb, device_mb, wrong)

    def _stages(self, runs: int) -> dict[str, list[float]]:
        """On a GPU, of separate runs, for waiting for each part slows the whole down."""
        stages: dict[str, list[float]] = {}
        if self.backend.device != "cpu" and hasattr(self.backend, "run_in_stages"):
            for _ in range(min(runs, STAGED_RUNS)):
                _, parts = self.backend.run_in_stages(*self.inputs)
                for name, milliseconds in parts.items():
                    stages.setdefault(name, []).append(milliseconds)
        return stages

    # --- from files to text ------------------------------------------------------------------------------------

    def utterances(self, paths: list[Path]) -> tuple[list[TimedUtterance], float, float, float | None]:
        """Each from file to text, alone; seconds of all together, peaks of memory."""
        rate = self.folder.metadata.feature.sample_rate
        found = []
        with peaks(self.backend.device) as peak:
            begin = time.perf_counter()
            for path in paths:
                start = time.perf_counter()
                audio = load_audio(path, rate)
                read = time.perf_counter()
                log_probs = run_alone(self.backend, audio)
                heard = time.perf_counter()
                text = text_or_nothing(self.decoder, log_probs)
                end = time.perf_counter()
                times = (1000 * (read - start), 1000 * (heard - read), 1000 * (end - heard), 1000 * (end - start))
                found.append(TimedUtterance(*times, text, len(audio) / rate, bool(np.isfinite(log_probs).all())))
            wall_s = time.perf_counter() - begin
        return found, wall_s, *peak()

    def load_test(self, recordings: list[Samples], test: LoadTest) -> tuple[Served, int, float, float | None]:
        """Serve requests that come whether or not others are done; how many texts differ from those heard alone."""
        alone = [text_or_nothing(self.decoder, run_alone(self.backend, samples)) for samples in recordings]
        with peaks(self.backend.device) as peak:
            served = serve(self.backend, self.decoder, recordings, test)
        wrong = sum(text != alone[number] for text, number in zip(served.texts, test.numbers, strict=False))
        return served, wrong, *peak()


def _labels(log_probs: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(sum of T,) the most probable ones of all rows' valid frames."""
    return np.concatenate([row[:length].argmax(axis=-1) for row, length in zip(log_probs, lengths, strict=True)])


def _file_mb(folder: ModelFolder, backend: Any, spec: Spec) -> float:
    """Of what the backend reads."""
    if spec.backend == "tensorrt":
        return float(backend.engine.info.size_bytes / 1e6)
    path = folder.path / (WEIGHTS_FILE if spec.backend == "torch" else graph_file(spec.precision, stream=spec.stream))
    return path.stat().st_size / 1e6 if path.is_file() else 0.0


def _runtime(backend: Any) -> str:
    """Library and version of a backend."""
    if backend.name == "tensorrt":
        return str(backend.engine.runtime)
    return distribution_version(backend.name) or str(backend.name)


def peak_mb() -> float:
    """Of this process since it began, or since it was last reset, where the system can; 0 where it tells nothing."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6
    with suppress(ImportError):
        resource = importlib.import_module("resource")  # Windows has none
        used = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6
    return 0.0


@contextmanager
def peaks(device: str) -> Iterator[Callable[[], tuple[float, float | None]]]:
    """A function that gives peak host memory within the block, and what the process holds of the device, in megabytes.

    Runtimes keep what they once took of a device, so that is their peak, library and context included.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux forgets the peak so far

    def peak() -> tuple[float, float | None]:
        return peak_mb(), None if device == "cpu" else process_device_mb(os.getpid())

    yield peak
