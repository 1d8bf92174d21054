"""Recognizer: recordings in, text out, in the order given.

    sources -> durations from headers -> batches of similar length -> decoded audio -> model -> text -> in order
               long ones in segments     bounded padded seconds       reader threads   runner threads

Shapes: B batch, S samples, T output frames, V vocabulary.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import numpy as np

from ds2_deploy.audio.load import (
    Bytes,
    Channel,
    Samples,
    audio_blocks,
    audio_duration_s,
    checked_samples,
    load_audio,
    source_name,
)
from ds2_deploy.audio.segments import MAX_SEGMENT_S, segments
from ds2_deploy.batching import plan_batches
from ds2_deploy.decoding import make_decoder
from ds2_deploy.decoding.outcome import Outcome, decode_row
from ds2_deploy.decoding.pool import DecodingPool
from ds2_deploy.decoding.protocol import Decoder, Hypothesis
from ds2_deploy.decoding.search import BeamConfig, SearchDecoder
from ds2_deploy.errors import AudioError, ConfigError, DS2Error, InferenceError, ModelError
from ds2_deploy.files import is_file
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model_folder import METADATA_FILE, WEIGHTS_FILE, ModelFolder, Precision, graph_file, open_model
from ds2_deploy.pieces import END, Piece, PieceResult, assembled, in_order
from ds2_deploy.ranges import check_counts
from ds2_deploy.result import Result, Source, Sources, about
from ds2_deploy.runtime import open_backend, open_stream_backend
from ds2_deploy.runtime.devices import GPU_WORKERS, cpu_cores
from ds2_deploy.runtime.protocol import Backend, StreamBackend, longest_piece_s, pad_batch
from ds2_deploy.streaming.endpoint import EndpointConfig
from ds2_deploy.streaming.stepping import OwnThread
from ds2_deploy.streaming.stream import Stream, StreamResult
from ds2_deploy.threads import Threads

BATCH_SECONDS = 30.0
"""15 to 30 s were fastest on two CPU cores (benchmarks/transcribe_speed.py --batch-seconds); more needs more memory."""
GPU_BATCH_SECONDS = 240.0
"""Of a GPU: more than that is rarely found among the HEADERS_AHEAD recordings that are looked at together, of lengths
that go well with each other. No GPU has measured it yet; what its memory does not hold goes in halves."""
SHORTEST_S = 0.1
"""What a recording may be cut into: the detector of silences judges 0.03 s at a time."""
HEADERS_AHEAD = 256
"""Recordings whose headers are read together."""
MAX_WORKERS = 8
MAX_READERS = 8

Batch = list[tuple[int, Piece]]
"""Pieces that go through the model together, each with its place among all."""


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
    max_segment_s: float = MAX_SEGMENT_S
    """Longer recordings are cut at silences into pieces of at most that, so memory does not grow with them."""
    cut_long: bool = True
    """False: refuse longer recordings instead."""
    decoding_processes: int = 0
    """Processes in which a search decodes many batches; 0: in this one, as on a CPU, whose cores the network keeps
    busy."""
    open_streams: Callable[[], StreamBackend] | None = None
    """Loads the same model for streams, when the first one is created."""
    _pool: DecodingPool | None = field(init=False, repr=False, compare=False)
    _model_free: Semaphore = field(init=False, repr=False, compare=False)
    _loading: Lock = field(init=False, repr=False, compare=False, default_factory=Lock)

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str] = "default",
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: Precision = "fp32",
        decoder: str | BeamConfig = "greedy",
        threads: int | None = None,
        workers: int | None = None,
        batch_seconds: float | None = None,
        max_segment_s: float = MAX_SEGMENT_S,
        cut_long: bool = True,
    ) -> "Recognizer":
        """Load a bundled model or a model folder.

        `threads`: CPU threads in all, at most, None for one per core; `workers`: how many batches share them or the
        GPU, None for as many as is fastest with many recordings (on a GPU GPU_WORKERS, and an engine takes no more at
        once). A single long recording is heard fastest with `workers=1`. `batch_seconds`: None for BATCH_SECONDS or,
        on a GPU, GPU_BATCH_SECONDS.
        """
        folder = open_model(model)
        files = _files(folder, precision)
        threads = cpu_cores() if threads is None else threads
        check_counts(threads=threads, workers=GPU_WORKERS if workers is None else workers)
        sharing = min(workers or MAX_WORKERS, threads)
        each: dict[str, Any] = {"device": device, "precision": precision, "threads": threads // sharing}
        loaded = open_backend(backend, folder, **each)
        on_cpu = loaded.device == "cpu"
        return cls(
            metadata=folder.metadata,
            backend=loaded,
            decoder=make_decoder(decoder, folder.metadata.alphabet, folder.path),
            workers=sharing if on_cpu else workers or GPU_WORKERS,
            decoding_processes=0 if on_cpu else cpu_cores(),
            batch_seconds=batch_seconds_on(loaded.device) if batch_seconds is None else batch_seconds,
            max_segment_s=longest_piece_s(loaded, folder.metadata.feature.sample_rate, max_segment_s),
            cut_long=cut_long,
            open_streams=partial(_open_streams, files, backend, folder, **each),
        )

    def create_stream(
        self, *, endpoint: EndpointConfig | None = None, on_result: Callable[[StreamResult], None] | None = None
    ) -> Stream:
        """A live stream that runs in the thread that feeds it; for many at once there is the Dispatcher.

        `on_result` is called with every utterance that grows or becomes final, within the call that fed the stream: it
        must not feed, end or reset it; waiting for it there raises a StreamError.
        The first stream loads the model for streams: ModelError where it cannot stream, which says what stands in the
        way, and where another model has taken its place in the folder.
        """
        return Stream(self._own_thread, self.metadata, self.decoder, endpoint=endpoint, on_result=on_result)

    def __post_init__(self) -> None:
        check_counts(workers=self.workers)
        for name in ("batch_seconds", "max_segment_s"):
            if not getattr(self, name) >= SHORTEST_S:  # so is NaN
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least {SHORTEST_S}.")
        pool = DecodingPool(self.decoder, self._decoding_ahead) if self._decoding_ahead else None
        object.__setattr__(self, "_pool", pool)  # as dataclasses set fields that are frozen
        object.__setattr__(self, "_model_free", Semaphore(self.workers))

    @property
    def _rate(self) -> int:
        return self.metadata.feature.sample_rate

    @property
    def _decoding_ahead(self) -> int:
        """Batches that wait for their text while the model hears the next ones."""
        return self.decoding_processes if isinstance(self.decoder, SearchDecoder) else 0

    @property
    def _own_thread(self) -> OwnThread:
        with self._loading:  # from Python 3.12 on, cached_property has no lock of its own
            return self._loaded

    @cached_property
    def _loaded(self) -> OwnThread:
        if self.open_streams is None:
            raise ModelError("This recogniser was made of a backend for whole recordings alone: use Recognizer.open.")
        return OwnThread(self.open_streams())

    def recognize(self, recordings: Sequence[Samples]) -> list[Hypothesis]:
        """The hypothesis of each recording: (S,) float32 samples in [-1, 1] at `metadata.feature.sample_rate`."""
        return [_hypothesis(result) for result in self.transcribe(recordings)]

    def transcribe(self, sources: Iterable[Source]) -> Iterator[Result]:
        """A result per source, in order, each as soon as it and all before it are there.

        A source that cannot be used becomes a result with an error; what `sources` itself raises comes after the
        results of what it gave. AudioError for a single source: it goes in a list.

        HEADERS_AHEAD sources at a time are taken and looked at before the first of them is heard, so `sources` must not
        wait for results: what comes in slowly is for streams, or for a call of its own. Memory is bounded: a window's
        and `workers + 2` batches of audio are held, with a search as many more as it has processes.
        """
        return self._transcribe(Sources(sources))  # which looks at them now, not when the first result is asked for

    def _transcribe(self, sources: Sources[Source]) -> Iterator[Result]:
        readers = Threads(min(MAX_READERS, cpu_cores()), "ds2-reader")
        runners = Threads(self.workers + self._decoding_ahead, "ds2-runner")
        try:
            yield from self._heard(self._pieces(sources, readers), readers, runners)
            sources.raise_error()
        finally:  # also when the caller stops early: what has not begun never does
            for pool in (runners, readers):
                pool.shutdown(wait=False, cancel_futures=True)

    def _heard(self, pieces: Iterable[Piece], readers: Threads, runners: Threads) -> Iterator[Result]:
        """A result per source of the pieces, in order."""
        items = ((item, item[1].expected_s) for item in enumerate(pieces))
        batches = plan_batches(items, self.batch_seconds, self.workers)
        between = self.metadata.alphabet.word_end + self.metadata.alphabet.separator
        return assembled(in_order(self._results(batches, readers, runners)), between=between)

    def _pieces(self, sources: Sources[Source], readers: Threads) -> Iterator[Piece]:
        """Every recording as it is, or segment by segment where it is long."""
        remaining = iter(sources)
        while ahead := list(itertools.islice(remaining, HEADERS_AHEAD)):
            for source, expected_s in zip(ahead, list(readers.map(self._expected_s, ahead)), strict=True):
                if expected_s is None:  # a batch of its own, however long it is
                    yield Piece(source, source, self.batch_seconds)
                elif expected_s <= self.max_segment_s:
                    yield Piece(source, source, expected_s)
                elif not self.cut_long:
                    yield Piece(source, self._too_long(source, expected_s), 0.0)
                else:
                    yield from self._segments(source, self._blocks(source))

    def _too_long(self, source: Source, duration_s: float) -> AudioError:
        name = "The recording" if isinstance(source, np.ndarray) else source_name(source)
        return AudioError(
            f"{name} lasts {duration_s:.1f} s, more than the {self.max_segment_s:.1f} s that go through the model at "
            "once: let it be cut at silences."
        )

    def _segments(self, source: Source, blocks: Iterable[Samples]) -> Iterator[Piece]:
        """A long recording, whose blocks (S_i,) are read here; the last piece is empty and says where it ends."""
        heard = 0

        def read() -> Iterator[Samples]:
            nonlocal heard
            for block in blocks:
                heard += len(block)
                yield block

        try:
            for start, samples in segments(read(), self._rate, self.max_segment_s):
                yield Piece(source, samples, len(samples) / self._rate, start / self._rate)
            yield Piece(source, END, 0.0, heard / self._rate)
        except AudioError as error:
            yield Piece(source, error, 0.0, heard / self._rate)

    def _blocks(self, source: Source) -> Iterator[Samples]:
        if isinstance(source, np.ndarray):
            return map(checked_samples, [source])  # when it is asked for: what it raises is this source's result
        return audio_blocks(source, self._rate)

    def _expected_s(self, source: Source) -> float | None:
        """The length to plan with: the header's; None where it cannot be read without using the source up: a pipe."""
        try:
            if isinstance(source, np.ndarray):
                return source.size / self._rate
            file = source.file if isinstance(source, Channel) else source
            if isinstance(file, Bytes) or (isinstance(file, str | os.PathLike) and is_file(file)):
                return audio_duration_s(source)
        except Exception:  # whatever a caller's object raises
            return 0.0  # reading it will say the same again
        return None

    def _results(
        self, batches: Iterator[Batch], readers: Threads, runners: Threads
    ) -> Iterator[tuple[int, PieceResult]]:
        """Results with their places, batch by batch; the audio of the next batches is decoded meanwhile."""
        running: set[Future[list[tuple[int, PieceResult]]]] = set()
        for batch in batches:
            audio = [readers.submit(self._load, piece.content) for _, piece in batch]
            running.add(runners.submit(self._run, batch, audio))
            if len(running) > self.workers + self._decoding_ahead + 1:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from itertools.chain.from_iterable(future.result() for future in done)
        for future in as_completed(running):
            yield from future.result()

    def _load(self, content: Source | AudioError) -> Samples | AudioError:
        try:
            if isinstance(content, AudioError):
                return content
            if isinstance(content, np.ndarray):
                return checked_samples(content)
            return load_audio(content, self._rate)
        except AudioError as error:
            return error

    def _run(self, batch: Batch, audio: list[Future[Samples | AudioError]]) -> list[tuple[int, PieceResult]]:
        """The results of one batch; what cannot be heard has an empty transcript."""
        results: list[tuple[int, PieceResult]] = []
        fitting: list[tuple[int, Piece, Samples]] = []
        for (place, piece), future in zip(batch, audio, strict=True):
            samples = future.result()
            if isinstance(samples, AudioError):
                results.append((place, PieceResult(piece, samples, 0.0)))
            elif len(samples) / self._rate > self.max_segment_s:
                results.append((place, self._run_long(piece, samples)))
            elif self._can_hear(samples):
                fitting.append((place, piece, samples))
            else:
                results.append((place, PieceResult(piece, Hypothesis("", 0.0), len(samples) / self._rate)))
        outcomes = self._hypotheses([samples for _, _, samples in fitting])
        for (place, piece, samples), outcome in zip(fitting, outcomes, strict=True):
            results.append((place, self._heard_piece(piece, outcome, len(samples) / self._rate)))
        return results

    def _can_hear(self, samples: Samples) -> bool:
        """Whether it lasts a frame and, where each recording is normalised by itself, is not digital silence, which
        has no level."""
        silent = self.metadata.feature.by_utterance and not samples.any()
        return self.metadata.output_frames(len(samples)) > 0 and not silent

    def _heard_piece(self, piece: Piece, outcome: Outcome, duration_s: float) -> PieceResult:
        """An error with the recording's name; a hypothesis with its words' times in the recording."""
        if isinstance(outcome, DS2Error):
            return PieceResult(piece, about(piece.source, outcome), duration_s)
        begin_s = piece.start_s or 0.0
        words = tuple(word.timed(self.metadata.frame_s, begin_s, begin_s + duration_s) for word in outcome.words)
        return PieceResult(piece, outcome, duration_s, words=words)

    def _run_long(self, piece: Piece, samples: Samples) -> PieceResult:
        """A long recording whose length no header told, such as a pipe's: in memory already, so cut here."""
        if not self.cut_long:
            seconds = len(samples) / self._rate
            return PieceResult(piece, self._too_long(piece.source, seconds), seconds)
        with Threads(1, "ds2-reader") as reader, Threads(1, "ds2-runner") as runner:
            result = next(self._heard(self._segments(piece.source, [samples]), reader, runner))
        return PieceResult(piece, result.outcome, result.duration_s, result.passages, result.words)

    def _hypotheses(self, recordings: list[Samples]) -> list[Outcome]:
        """One each; where a batch is too much for the machine, in halves."""
        if not recordings:
            return []
        try:
            with self._model_free:
                padded = pad_batch(recordings)
                log_probs, lengths = self.backend.run(*padded)  # (B, T, V), (B,)
        except InferenceError as error:
            if len(recordings) == 1:
                return [error]
            half = len(recordings) // 2
            return self._hypotheses(recordings[:half]) + self._hypotheses(recordings[half:])
        rows = [row[:length] for row, length in zip(log_probs, lengths, strict=True)]
        return self._pool.decode(rows) if self._pool else [decode_row(self.decoder, row) for row in rows]


def batch_seconds_on(device: str) -> float:
    """The longest batch that pays on a backend's device."""
    return BATCH_SECONDS if device == "cpu" else GPU_BATCH_SECONDS


def _files(folder: ModelFolder, precision: Precision) -> list[tuple[int, int, int] | None]:
    """What tells the files of a model from those of another in its place; None for one that is not there."""
    names = (METADATA_FILE, WEIGHTS_FILE, graph_file(precision), graph_file(precision, stream=True))
    return [_identity(folder.path / name) for name in names]


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_size, told.st_mtime_ns


def _open_streams(
    files: list[tuple[int, int, int] | None], backend: str, folder: ModelFolder, *, precision: Precision, **each: Any
) -> StreamBackend:
    """The model for streams; ModelError where its `files` are no longer those it was opened with, since streams and
    recordings would be heard by two models then."""
    if _files(folder, precision) != files:
        raise ModelError(f"{folder.path} holds other files than when it was opened: open the model again.")
    return open_stream_backend(backend, folder, precision=precision, **each)


def _hypothesis(result: Result) -> Hypothesis:
    if isinstance(result.outcome, DS2Error):
        raise result.outcome
    return result.outcome
