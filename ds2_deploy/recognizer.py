"""Recognizer: recordings in, text out, in the order given.

    sources -> durations from headers -> batches of similar length -> decoded audio -> model -> text -> in order
               a window at a time        bounded padded seconds       reader threads   runner threads

Shapes: B batch, S samples, T output frames, V vocabulary.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds2_deploy.audio.load import AudioSource, Samples, audio_duration_s, load_audio, source_name
from ds2_deploy.decoding import decoder_class
from ds2_deploy.decoding.protocol import Decoder, Hypothesis
from ds2_deploy.errors import AudioError, DS2Error, InferenceError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model_folder import open_model
from ds2_deploy.runtime import open_backend
from ds2_deploy.runtime.engine_info import Precision
from ds2_deploy.runtime.protocol import Backend, pad_batch

Source = AudioSource | Samples
"""An audio file, or samples (S,) at the model's rate."""
Batch = list[tuple[int, Source]]
"""Sources that go through the model together, each with its place in the input."""

BATCH_SECONDS = 30.0
"""15 to 30 s were fastest on two CPU cores (benchmarks/transcribe_speed.py --batch-seconds); more needs more memory."""
HEADERS_AHEAD = 256
"""Recordings whose headers are read together."""
WINDOW_BATCHES = 16
"""About so many batches' worth of recordings are sorted by length together: enough to find neighbours, few enough
that results flow."""
MAX_WORKERS = 8
GPU_WORKERS = 2
"""One batch is padded or read out while the other computes."""
MAX_READERS = 8


class Result(NamedTuple):
    """What became of one source: a hypothesis or an error."""

    source: Source
    hypothesis: Hypothesis | None
    duration_s: float
    error: DS2Error | None


@dataclass(frozen=True, kw_only=True)
class Recognizer:
    """A loaded model with its decoder; immutable, may be shared by threads."""

    metadata: ModelMetadata
    backend: Backend
    decoder: Decoder
    workers: int = 1
    """Batches in the model at once. On a CPU several single-threaded runs beat one run of several threads: the
    recurrence leaves little to share out."""
    batch_seconds: float = BATCH_SECONDS
    """Longest batch, padding included; a longer recording is a batch of its own."""

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str] = "default",
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: Precision = "fp32",
        decoder: str = "greedy",
        threads: int | None = None,
        workers: int | None = None,
        batch_seconds: float = BATCH_SECONDS,
    ) -> "Recognizer":
        """Load a bundled model or a model folder.

        `threads`: CPU threads in all, None for one per core; `workers`: how many batches share them, None for
        as many as is fastest with many recordings. For a single long recording `workers=1` is.
        """
        folder = open_model(model)
        threads = threads or cpu_cores()
        workers = min(workers or MAX_WORKERS, threads)
        loaded = open_backend(backend, folder, device=device, precision=precision, threads=threads // workers)
        return cls(
            metadata=folder.metadata,
            backend=loaded,
            decoder=decoder_class(decoder)(folder.metadata.alphabet),
            workers=workers if loaded.device == "cpu" else GPU_WORKERS,
            batch_seconds=batch_seconds,
        )

    def recognize(self, recordings: Sequence[Samples]) -> list[Hypothesis]:
        """The hypothesis of each recording: (S,) float32 samples in [-1, 1] at `metadata.feature.sample_rate`."""
        return [_hypothesis(result) for result in self.transcribe(recordings)]

    def transcribe(self, sources: Iterable[Source], *, channel: int | None = None) -> Iterator[Result]:
        """A result per source, in order, each as soon as it and all before it are there.

        A source that cannot be used becomes a result with an error. Memory is bounded: at most HEADERS_AHEAD
        sources are looked at ahead, and `workers + 2` batches of audio are held.
        """
        readers = ThreadPoolExecutor(min(MAX_READERS, cpu_cores()), "ds2-reader")
        runners = ThreadPoolExecutor(self.workers, "ds2-runner")
        try:
            batches = self._batches(sources, readers)
            yield from _in_order(self._results(batches, channel, readers, runners))
        finally:  # also when the caller stops early: what has not begun never does
            for pool in (runners, readers):
                pool.shutdown(wait=False, cancel_futures=True)

    def _batches(self, sources: Iterable[Source], readers: ThreadPoolExecutor) -> Iterator[Batch]:
        numbered = enumerate(sources)
        while ahead := list(itertools.islice(numbered, HEADERS_AHEAD)):
            durations_s = list(readers.map(self._expected_s, [source for _, source in ahead]))
            for batch in plan_batches(durations_s, self.batch_seconds, self.workers):
                yield [ahead[i] for i in batch]

    def _expected_s(self, source: Source) -> float:
        """The length to plan with: the header's, where it can be read without using the source up."""
        try:
            if isinstance(source, np.ndarray):
                return len(source) / self.metadata.feature.sample_rate
            if isinstance(source, bytes) or (isinstance(source, str | os.PathLike) and Path(source).is_file()):
                return audio_duration_s(source)
        except AudioError:
            return 0.0  # reading it will say the same again
        return self.batch_seconds  # a pipe: a batch of its own

    def _results(
        self, batches: Iterator[Batch], channel: int | None, readers: ThreadPoolExecutor, runners: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Result]]:
        """Results with their indices, batch by batch; the audio of the next batches is decoded meanwhile."""
        running: set[Future[list[tuple[int, Result]]]] = set()
        for batch in batches:
            audio = [readers.submit(self._load, source, channel) for _, source in batch]
            running.add(runners.submit(self._run, batch, audio))
            if len(running) > self.workers + 1:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from itertools.chain.from_iterable(future.result() for future in done)
        for future in as_completed(running):
            yield from future.result()

    def _load(self, source: Source, channel: int | None) -> Samples | AudioError:
        try:
            if isinstance(source, np.ndarray):
                return _checked(source)
            return load_audio(source, self.metadata.feature.sample_rate, channel=channel)
        except AudioError as error:
            return error

    def _run(self, batch: Batch, audio: list[Future[Samples | AudioError]]) -> list[tuple[int, Result]]:
        """The results of one batch; a recording too short for a frame has an empty transcript."""
        loaded = {index: future.result() for (index, _), future in zip(batch, audio, strict=True)}
        recordings = {index: samples for index, samples in loaded.items() if not isinstance(samples, AudioError)}
        long_enough = [i for i, samples in recordings.items() if self.metadata.output_frames(len(samples))]
        texts = dict(zip(long_enough, self._hypotheses([recordings[i] for i in long_enough]), strict=True))
        results = []
        for index, source in batch:
            samples = loaded[index]
            if isinstance(samples, AudioError):
                results.append((index, Result(source, None, 0.0, samples)))
                continue
            duration_s = len(samples) / self.metadata.feature.sample_rate
            heard = texts.get(index, Hypothesis("", 0.0))
            if isinstance(heard, InferenceError):
                results.append((index, Result(source, None, duration_s, _about(source, heard))))
            else:
                results.append((index, Result(source, heard, duration_s, None)))
        return results

    def _hypotheses(self, recordings: list[Samples]) -> list[Hypothesis | InferenceError]:
        """One each; where a batch is too much for the machine, each recording by itself."""
        try:
            log_probs, lengths = self.backend.run(*pad_batch(recordings, self.metadata.min_samples))  # (B, T, V), (B,)
        except InferenceError as error:
            if len(recordings) == 1:
                return [error]
            return [self._hypotheses([recording])[0] for recording in recordings]
        return [self.decoder.decode(row[:length]) for row, length in zip(log_probs, lengths, strict=True)]


def plan_batches(durations_s: Sequence[float], batch_s: float, workers: int) -> Iterator[list[int]]:
    """Indices of recordings in batches of at most `batch_s`, sorted by length within windows of WINDOW_BATCHES."""
    start, total_s = 0, 0.0
    for end, duration_s in enumerate(durations_s, 1):
        total_s += duration_s
        if end == len(durations_s) or total_s >= WINDOW_BATCHES * batch_s:
            limit_s = min(batch_s, total_s / workers)  # a short list still feeds all workers
            for batch in length_batches(durations_s[start:end], limit_s):
                yield [start + i for i in batch]
            start, total_s = end, 0.0


def length_batches(durations_s: Sequence[float], limit_s: float) -> list[list[int]]:
    """Indices in batches of similar duration, longest first; a batch of several lasts `limit_s` with padding.

    >>> length_batches([3.0, 1.0, 9.0, 2.0], 6.0)
    [[2], [0, 3], [1]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(durations_s)), key=lambda i: -durations_s[i]):
        if batches and (len(batches[-1]) + 1) * durations_s[batches[-1][0]] <= limit_s:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def cpu_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    waiting: dict[int, Result] = {}
    due = 0
    for index, result in results:
        waiting[index] = result
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def _about(source: Source, error: InferenceError) -> InferenceError:
    """The error with the name of the recording."""
    name = "samples" if isinstance(source, np.ndarray) else source_name(source)
    return InferenceError(f"{name}: {error}")


def _hypothesis(result: Result) -> Hypothesis:
    if result.hypothesis is None:
        assert result.error is not None
        raise result.error
    return result.hypothesis


def _checked(samples: Samples) -> Samples:
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise AudioError(f"Samples must be finite and of one dimension: these have the shape {samples.shape}.")
    return samples.astype(np.float32, copy=False)
