"""Recordings of any length through streams, in memory that does not grow with them."""

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from ds2_deploy.audio.load import AudioSource, audio_blocks
from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.errors import AudioError, DS2Error
from ds2_deploy.result import Result, Sources, about
from ds2_deploy.streaming.dispatcher import Dispatcher
from ds2_deploy.streaming.stream import Stream
from ds2_deploy.threads import Threads

AT_ONCE = 16
"""Recordings that stream side by side: enough for two workers' batches, and each holds a block of audio or two."""


def transcribe_streams(dispatcher: Dispatcher, sources: Iterable[AudioSource]) -> Iterator[Result]:
    """A result per source, in order, each as soon as it and all before it are there; what `sources` itself raises comes
    after the results of what it gave. AudioError for a single source: it goes in a list."""
    return _transcribe_all(dispatcher, Sources(sources))  # which looks at them now


def _transcribe_all(dispatcher: Dispatcher, given: Sources[AudioSource]) -> Iterator[Result]:
    readers = Threads(AT_ONCE, "ds2-reader")
    remaining = iter(given)
    under_way: deque[Future[Result]] = deque()
    streams = _Streams(dispatcher)
    try:
        while True:
            for source in itertools.islice(remaining, 2 * AT_ONCE - len(under_way)):
                under_way.append(readers.submit(_transcribe, streams, source))
            if not under_way:
                given.raise_error()
                return
            yield under_way.popleft().result()
    finally:  # also when the caller stops early
        readers.shutdown(wait=False, cancel_futures=True)
        streams.close()


class _Streams:
    """The streams that readers have opened, to be closed together when the caller leaves."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._open: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    def open(self) -> Stream:
        """A new stream; DS2Error where the caller left as a reader was about to open it."""
        with self._lock:
            if self._closed:
                raise DS2Error("Nobody waits for this recording any more.")
            stream = self.dispatcher.create_stream()
            self._open.add(stream)
        return stream

    def close(self) -> None:
        with self._lock:
            self._closed = True
            streams = list(self._open)
        for stream in streams:
            stream.close()


def _transcribe(streams: _Streams, source: AudioSource) -> Result:
    rate = streams.dispatcher.metadata.feature.sample_rate
    samples = 0
    stream = None
    try:
        stream = streams.open()
        for block in audio_blocks(source, rate):
            stream.accept_waveform(block, rate)
            samples += len(block)
        stream.input_finished()
        stream.wait()
        heard = stream.result
    except AudioError as error:  # names the recording itself
        return Result(source, error, samples / rate)
    except Exception as error:  # the model's, whatever it is: the other recordings go on
        return Result(source, about(source, error), samples / rate)
    finally:
        if stream is not None:
            stream.close()
    return Result(source, Hypothesis(heard.text, heard.score), samples / rate, words=heard.words)
