"""An open-loop load test: requests arrive at random, whatever the server is doing (DS2 paper, section 7).

The server is Batch Dispatch: whatever waits goes into the next batch, which starts the moment the last one ends. A
request's latency runs from the moment it was due to arrive, not from when somebody had time to accept it.
"""

import threading
import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ds2_deploy.audio.load import Samples
from ds2_deploy.decoding.outcome import text_or_nothing
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.runtime.protocol import Backend, pad_batch

SAMPLING_S = 0.0005
"""How often the requests in the system are counted."""
DRAIN_S = 20.0
"""So long after the last arrival a server may go on; what is not done then is lost, and the report says so."""


class LoadTest(NamedTuple):
    """What is offered."""

    arrivals_s: list[float]
    """When each request comes, from the start."""
    numbers: list[int]
    """Which recording it brings."""
    most: int
    """Recordings that go together at most."""


class Served(NamedTuple):
    """What became of it, in the order of arrival."""

    latencies_ms: list[float]
    """Of all requests: the last ones, which are lost, had waited so long when the test stopped, and were not done."""
    waits_ms: list[float]
    """Until its batch began."""
    model_ms: list[float]
    text_ms: list[float]
    texts: list[str]
    batches: list[int]
    """Sizes."""
    begins: list[int]
    """Of busy periods: the requests that found a server without work."""
    padding: float
    in_system: float
    """Average over time, counted about every SAMPLING_S."""
    wall_s: float
    """From the start to the last text."""
    lost: int
    finite: bool
    """Whether all log-probabilities were numbers."""


def poisson(rate: float, seconds: float, recordings: int, most: int, seed: int) -> LoadTest:
    """Arrivals at `rate` a second for `seconds`, at least one, each with a recording drawn at random."""
    rng = np.random.default_rng(seed)
    arrivals = np.sort(rng.uniform(0, seconds, max(rng.poisson(rate * seconds), 1)))
    return LoadTest(arrivals.tolist(), rng.integers(0, recordings, len(arrivals)).tolist(), most)


def serve(backend: Backend, decoder: Decoder, recordings: list[Samples], test: LoadTest) -> Served:
    """Run the test in this thread, after two batches to warm up; a second thread counts the requests in the system."""
    for most in (1, test.most):
        backend.run(*pad_batch([recordings[n] for n in test.numbers[:most]]))
    arrivals, count = np.array(test.arrivals_s), len(test.arrivals_s)
    done = np.full(count, np.nan)
    latencies, waits, models, texts = (np.full(count, np.nan) for _ in range(4))
    texts_told: list[str] = []
    batches: list[int] = []
    begins = [0]
    padded, real, finite = 0, 0, True
    counter = _Counter(arrivals, done)
    start = counter.begin()
    served = 0
    while served < count:
        now = time.perf_counter() - start
        if now > arrivals[-1] + DRAIN_S:
            break
        waiting = int(np.searchsorted(arrivals, now, side="right")) - served
        if not waiting:
            if served != begins[-1]:
                begins.append(served)
            time.sleep(max(arrivals[served] - now, 0.0))
            continue
        rows = slice(served, served + min(waiting, test.most))
        began = time.perf_counter() - start
        audio, lengths = pad_batch([recordings[n] for n in test.numbers[rows]])
        log_probs, frames = backend.run(audio, lengths)
        heard = time.perf_counter() - start
        for row, length in zip(log_probs, frames, strict=True):
            texts_told.append(text_or_nothing(decoder, row[:length]))
            finite &= bool(np.isfinite(row[:length]).all())
        end = time.perf_counter() - start
        done[rows] = end
        latencies[rows], waits[rows] = end - arrivals[rows], began - arrivals[rows]
        models[rows], texts[rows] = heard - began, end - heard
        padded += audio.size - int(lengths.sum())
        real += int(lengths.sum())
        batches.append(len(audio))
        served = rows.stop
    wall_s = time.perf_counter() - start
    latencies[served:] = wall_s - arrivals[served:]
    in_system = counter.end()
    return Served(
        latencies_ms=(1000 * latencies).tolist(),
        waits_ms=(1000 * waits[:served]).tolist(),
        model_ms=(1000 * models[:served]).tolist(),
        text_ms=(1000 * texts[:served]).tolist(),
        texts=texts_told,
        batches=batches,
        begins=begins,
        padding=padded / max(padded + real, 1),
        in_system=in_system,
        wall_s=wall_s,
        lost=count - served,
        finite=finite,
    )


class _Counter:
    """Counts, now and then, the requests that have come and are not done."""

    def __init__(self, arrivals: npt.NDArray[np.float64], done: npt.NDArray[np.float64]) -> None:
        self._arrivals, self._done = arrivals, done
        self._over = threading.Event()
        self._requests_s = 0.0  # requests in the system times seconds
        self._last = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> float:
        self._start = time.perf_counter()
        self._thread.start()
        return self._start

    def _run(self) -> None:
        while not self._over.wait(SAMPLING_S):
            now = time.perf_counter() - self._start
            come = int(np.searchsorted(self._arrivals, now, side="right"))
            self._requests_s += (come - int(np.count_nonzero(self._done[:come] <= now))) * (now - self._last)
            self._last = now  # this thread is held up by the server's, so the counts are not evenly spaced

    def end(self) -> float:
        self._over.set()
        self._thread.join()
        return self._requests_s / self._last if self._last else 0.0
