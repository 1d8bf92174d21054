"""Stream: one speaker's audio as it comes, and what has been heard of it.

    accept_waveform -> resampler -> whole chunks -> model step -> decoder -> utterances
        the caller's thread        |  a stepper's: the same thread, or a dispatcher's

A stream holds all that belongs to it, its row of the model's state included; a model step takes a chunk of it and
gives back frames and the next state. Shapes: C samples of a chunk, N values of state, t frames, V labels.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from numbers import Real
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import soxr

from ds2_deploy.audio.load import Samples, checked_samples
from ds2_deploy.decoding.protocol import Decoder, TimedWord
from ds2_deploy.errors import AudioError, InferenceError, StreamError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.runtime.protocol import StreamBackend
from ds2_deploy.streaming.endpoint import EndpointConfig

log = logging.getLogger(__name__)


MAX_FINALS = 1000
"""Finished utterances kept for whoever takes them."""
MAX_EMPTY_STEPS = 1000
"""After the end, without a frame: no network lags that far behind, so the graph is wrong."""
IN_LISTENER = (
    "A listener must not feed, end, reset or wait for a stream, which may have to wait for the listener's own thread: "
    "do so in another one."
)


class StreamResult(NamedTuple):
    """One utterance of a stream, in progress or finished."""

    text: str
    stable: str
    """The start of `text` that no later audio will change: whole words, and everything once it is final."""
    is_final: bool
    start_s: float
    """Of the first letter, in seconds since the stream began, to the length of an output frame."""
    end_s: float
    """Of the last letter."""
    score: float
    """Natural logarithm: how probable the decoder finds this reading."""
    words: tuple[TimedWord, ...] = ()
    """With their times since the stream began, once the utterance is final."""


NOTHING = StreamResult("", "", is_final=False, start_s=0.0, end_s=0.0, score=0.0)


class Stepper(Protocol):
    """Who runs the model for a stream."""

    backend: StreamBackend

    def pump(self, stream: "Stream") -> None:
        """See to it that the stream's chunks are stepped; returns at once, or when it has room for more."""
        ...

    def release(self, stream: "Stream") -> None:
        """The stream was closed."""
        ...

    def is_worker(self) -> bool:
        """Whether this thread steps streams for others, so that whoever waits for a step in it waits for itself."""
        ...


def check_process(process: int) -> None:
    """StreamError in any process but that one: a fork leaves threads behind, and their locks held."""
    if os.getpid() != process:
        raise StreamError(
            "This was made before the process was forked, whose threads are not here: open the model after forking."
        )


class Stream:
    """One speaker. One thread may feed it while others read; made by `Recognizer` or `Dispatcher`.

    It belongs to the process that made it, and a dispatcher's listeners must not feed, end, reset or wait for one:
    StreamError, where they would wait for good. A context manager, or `close()` it.
    """

    def __init__(
        self,
        stepper: Stepper,
        metadata: ModelMetadata,
        decoder: Decoder,
        *,
        endpoint: EndpointConfig | None = None,
        on_result: Callable[[StreamResult], None] | None = None,
    ) -> None:
        self._stepper, self._metadata, self._decoding = stepper, metadata, decoder
        self._endpoint, self._on_result = endpoint, on_result
        self._feeding = threading.RLock()  # held by the thread that feeds
        self._changed = threading.Condition()  # guards all below; told of every step
        self._stepping = False
        self._process = os.getpid()
        self._telling: int | None = None  # the thread in which the listener is hearing news
        self._complained = False  # of its listener
        self._closed = False
        self._recording = 0  # since the stream was made; each reset begins another
        self._restart()

    def _restart(self) -> None:
        self._recording += 1
        self._rate: int | None = None
        self._resampler: soxr.ResampleStream | None = None
        self._pending: deque[Samples] = deque()
        self._waiting = 0  # samples in _pending
        self._taken = 0  # samples the model has had
        self._ended = False
        self._empty_steps = 0  # in a row, after the end
        self._frames = 0  # the model has given
        self._state: npt.NDArray[np.float32] | None = None  # (N,); None until there is a first chunk to step it with
        self._decoder = self._decoding.start()
        self._utterance_begin = 0  # frame
        self._finals: deque[StreamResult] = deque(maxlen=MAX_FINALS)
        self._last = NOTHING  # told, or the very last
        self._error: Exception | None = None

    # --- the caller's side --------------------------------------------------------------------------------------

    def accept_waveform(self, samples: npt.NDArray[np.floating[Any]], sample_rate: float) -> None:
        """The next samples (S,) in [-1, 1], as many as there are; any rate, but one and the same for the stream.

        Waits while the stepper has too much to do. AudioError or StreamError, and nothing taken, where they cannot
        be used; the error of the model where it has failed.
        """
        checked = checked_samples(samples)
        self._check_caller()
        with self._feeding:
            self._check_open()
            self._feed(self._resampled(checked, sample_rate))

    def input_finished(self) -> None:
        """There is no more: what the layers hold back comes out, and the last utterance becomes final."""
        self._check_caller()
        with self._feeding:
            self._check_open()
            if self._resampler is not None:
                self._feed(self._resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
            with self._changed:
                self._ended = True
            self._stepper.pump(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Until all that was accepted has been heard; False where `timeout` seconds were not enough.

        A listener may still be in the middle of hearing the last of it; StreamError where it is a listener that waits.
        """
        self._check_caller()
        if self._telling == threading.get_ident():  # a stream without workers
            raise StreamError(IN_LISTENER)
        with self._changed:
            return self._changed.wait_for(lambda: not (self._stepping or self._is_ready()), timeout)

    def wait_for_room(self, samples: int) -> None:
        """Until no more than `samples` wait for the model; at once where the stream has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._waiting <= samples)

    @property
    def result(self) -> StreamResult:
        """The utterance in progress; once all is heard, the last one, empty where it ended before the input did.

        Raises what the model raised. A beam search reads anew when it is asked, and a dispatcher's next step with this
        stream waits for it.
        """
        check_process(self._process)
        with self._changed:
            self._raise_error()
            return self._last if self.finished else self._partial()

    @property
    def finished(self) -> bool:
        """The input has ended and everything of it has been heard."""
        return self._ended and self._last.is_final

    def take_finals(self) -> list[StreamResult]:
        """The utterances that have become final since the last call, each once; without text, they are left out.

        No more than the last MAX_FINALS are kept.
        """
        check_process(self._process)
        with self._changed:
            if not self._finals:
                self._raise_error()
            finals = list(self._finals)
            self._finals.clear()
            return finals

    def reset(self) -> None:
        """Forget everything and be as new: for the next recording. The listener hears nothing of this one after it."""
        self._check_caller()
        with self._feeding, self._changed:
            itself = threading.get_ident()
            self._changed.wait_for(lambda: not self._stepping and self._telling in (None, itself))
            if self._closed:
                raise StreamError("This stream was closed: create another one.")
            self._restart()
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what waits; nothing more is heard. A stream that is only forgotten is heard out first."""
        if os.getpid() != self._process:
            return
        with self._changed:
            self._closed = True
            self._give_up(StreamError("This stream was closed."))  # a step under way ends by itself
        self._stepper.release(self)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_caller(self) -> None:
        """StreamError where whoever calls would wait for good."""
        check_process(self._process)
        if self._stepper.is_worker():
            raise StreamError(IN_LISTENER)

    def _check_open(self) -> None:
        self._raise_error()
        if self._ended:
            raise StreamError("This stream's input was finished: reset() it, or create another one.")

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)  # it is raised more than once, and would grow each time

    def _resampled(self, samples: Samples, sample_rate: float) -> Samples:
        """At the model's rate; the resampler remembers what it needs, so the cuts leave no trace."""
        if self._rate is None:
            self._begin(sample_rate)
        elif sample_rate != self._rate:
            raise StreamError(
                f"The sample rate changed from {self._rate} to {sample_rate!r} Hz within a stream: create another one."
            )
        if self._resampler is None:
            return samples.copy()  # the caller may use its buffer again
        resampled: Samples = self._resampler.resample_chunk(samples)
        return resampled

    def _begin(self, sample_rate: float) -> None:
        is_number = isinstance(sample_rate, Real) and not isinstance(sample_rate, bool)
        if not is_number or not float(sample_rate).is_integer() or not 1_000 <= sample_rate <= 1_000_000:
            raise AudioError(f"The sample rate is {sample_rate!r}: it must be whole hertz, from 1000 to 1000000.")
        target = self._metadata.feature.sample_rate
        self._rate = int(sample_rate)
        if self._rate != target:
            self._resampler = soxr.ResampleStream(self._rate, target, num_channels=1, dtype="float32")

    def _feed(self, samples: Samples) -> None:
        """In pieces of a chunk, so that the stepper may hold back the caller of a long array."""
        size, rest = self._stepper.backend.chunk_samples, samples
        try:
            while len(rest):
                self._append(rest[:size])
                rest = rest[size:]
                self._stepper.pump(self)
        except BaseException:  # Ctrl-C, say: a stream that is still open hears the rest with what comes next
            with suppress(Exception):
                self._append(rest)
            raise

    def _append(self, samples: Samples) -> None:
        """To what waits for the model; an error where the stream has failed, was closed or ended, as by a listener."""
        with self._changed:
            self._check_open()
            self._pending.append(samples)
            self._waiting += len(samples)

    # --- the stepper's side -------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a step would bring it on."""
        with self._changed:
            return self._is_ready()

    def take(self, row: Samples) -> tuple[int, npt.NDArray[np.float32]] | None:
        """Fill `row` (C,) with the next chunk: how many samples it holds, and the state (N,) to step it with.

        None where nothing is to be stepped any more. Each chunk taken is answered by `put`, `untake` or `fail`.
        """
        with self._changed:
            if not self._is_ready():
                return None
            if self._state is None:
                self._state = self._stepper.backend.initial_state(1)[0]
            self._stepping = True
            length = min(self._waiting, len(row))
            self._waiting -= length
            filled = 0
            while filled < length:
                piece = self._pending.popleft()
                wanted = length - filled
                if len(piece) > wanted:
                    self._pending.appendleft(piece[wanted:])
                    piece = piece[:wanted]
                row[filled : filled + len(piece)] = piece
                filled += len(piece)
            row[length:] = 0.0
            self._taken += length
            return length, self._state

    def untake(self, chunk: Samples) -> None:
        """The chunk (S,) was not stepped: it waits again."""
        with self._changed:
            self._stepping = False
            self._taken -= len(chunk)
            if self._error is None:  # else it was closed meanwhile
                self._waiting += len(chunk)
                self._pending.appendleft(chunk)
            self._changed.notify_all()

    def put(self, log_probs: npt.NDArray[np.float32], state: npt.NDArray[np.float32]) -> None:
        """What the step gave: the valid frames (t, V) and the next state (N,)."""
        news: list[StreamResult] = []
        try:
            with self._changed:
                recording = self._recording
                try:
                    if self._error is None:  # else it was closed meanwhile
                        self._hear(log_probs, state, news)
                finally:  # also where the decoder fails, or is interrupted: what was said by then is had
                    if news and self._on_result:
                        self._telling = threading.get_ident()
                    self._stepping = False
                    self._changed.notify_all()
        finally:
            if news and self._on_result:
                self._tell(news, recording)

    def _hear(
        self, log_probs: npt.NDArray[np.float32], state: npt.NDArray[np.float32], news: list[StreamResult]
    ) -> None:
        """Let the decoder hear the frames; to `news` come utterances that end, and one that has grown, if anybody
        listens."""
        self._state = state
        self._decode(log_probs, news)
        if self._all_heard:
            news += self._close_utterance(is_last=True)
        elif self._on_result and (now := self._partial()).text != self._last.text:
            self._last = now
            news.append(now)
        self._empty_steps = 0 if len(log_probs) or not self._ended else self._empty_steps + 1
        if self._empty_steps > MAX_EMPTY_STEPS:
            frames = f"{self._frames} of {self._expected_frames()} frames"
            self._give_up(InferenceError(f"The model gave {frames}: export it again."))

    def _decode(self, log_probs: npt.NDArray[np.float32], news: list[StreamResult]) -> None:
        """To `news` come the utterances that end within the frames (t, V), each with the very frame after which a rule
        holds, so that chunks, however long, end none elsewhere. Frames after which none can hold are decoded at once.
        """
        possible = self._endpoint is not None and self._endpoint_holds(self._endpoint, len(log_probs))
        for frames in np.split(log_probs, len(log_probs)) if possible and len(log_probs) else [log_probs]:
            self._frames += len(frames)
            self._decoder.accept(frames)
            if self._endpoint and not self._all_heard and self._endpoint_holds(self._endpoint):
                news += self._close_utterance()

    def fail(self, error: Exception) -> None:
        """The model, or the stepper, has given up: all who ask hear why."""
        with self._changed:
            self._stepping = False
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._error = self._error or error
        self._pending.clear()
        self._waiting = 0
        self._changed.notify_all()

    def _is_ready(self) -> bool:
        if self._error is not None or self._stepping:
            return False
        return self._waiting >= self._stepper.backend.chunk_samples or (self._ended and not self._last.is_final)

    @property
    def _all_heard(self) -> bool:
        return self._ended and self._frames >= self._expected_frames()

    def _expected_frames(self) -> int:
        return self._metadata.output_frames(self._taken + self._waiting)

    def _endpoint_holds(self, endpoint: EndpointConfig, ahead: int = 0) -> bool:
        """Whether the utterance is over; or may be within `ahead` frames, whatever they say."""
        frame_s, spoken = self._metadata.frame_s, self._decoder.spoken
        silent = self._decoder.frames - (spoken[1] if spoken else 0)
        return endpoint.detected(
            contains_nonsilence=spoken is not None or ahead > 0,
            trailing_silence_s=(silent + ahead) * frame_s,
            utterance_s=(self._decoder.frames + ahead) * frame_s,
        )

    def _close_utterance(self, *, is_last: bool = False) -> list[StreamResult]:
        """The utterance becomes final and the next one begins; the model's state goes on."""
        heard, frame_s, begin_s = self._decoder.finish(), self._metadata.frame_s, self._time_s(self._utterance_begin)
        words = tuple(word.timed(frame_s, begin_s, self._heard_s) for word in heard.words)
        start_s, end_s = (words[0].start_s, words[-1].end_s) if words else (begin_s, begin_s)
        final = StreamResult(heard.text, heard.text, True, start_s, end_s, heard.score, words)
        self._last = final if is_last else NOTHING
        self._decoder = self._decoder.next()
        self._utterance_begin = self._frames
        if not final.text:
            return []
        self._finals.append(final)
        return [final]

    def _partial(self) -> StreamResult:
        first, end = self._decoder.spoken or (0, 0)
        begin = self._utterance_begin
        reading = self._decoder.hypothesis()
        return StreamResult(
            text=reading.text,
            stable=self._decoder.stable(),
            is_final=False,
            start_s=self._time_s(begin + first),
            end_s=self._time_s(begin + end),
            score=reading.score,
        )

    @property
    def _heard_s(self) -> float:
        return self._taken / self._metadata.feature.sample_rate

    def _time_s(self, frame: int) -> float:
        """When a frame begins, in the stream; those of a tail, which come after its end, at its end."""
        return min(frame * self._metadata.frame_s, self._heard_s)

    def _tell(self, results: list[StreamResult], recording: int) -> None:
        """Outside the lock, so that a listener may use the stream; none of a recording that it has reset."""
        try:
            for result in results:
                if self._recording != recording:
                    return
                try:
                    if self._on_result:
                        self._on_result(result)
                except BaseException as error:  # the listener's own; other streams must not suffer
                    if not (isinstance(error, Exception | SystemExit) or self._stepper.is_worker()):
                        raise  # Ctrl-C is for the thread that feeds; a worker has nobody to raise it to
                    if not self._complained:  # and nothing of what was said: logs are read by others
                        log.exception("A stream's listener failed; it is told on, and further failures are not logged")
                    self._complained = True
        finally:
            with self._changed:
                self._telling = None
                self._changed.notify_all()
