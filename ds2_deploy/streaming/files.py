"""Recordings of any length through streams, in memory that does not grow with them."""

import itertools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from ds2_deploy.audio.load import AudioSource, audio_blocks
from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.errors import AudioError
from ds2_deploy.recognizer import Result, about
from ds2_deploy.streaming.dispatcher import Dispatcher
from ds2_deploy.streaming.stream import Stream

AT_ONCE = 16
"""Recordings that stream side by side: enough for two workers' batches, and each holds a block of audio or two."""


def transcribe_streams(dispatcher: Dispatcher, sources: Iterable[AudioSource]) -> Iterator[Result]:
    """A result per source, in order, each as soon as it and all before it are there."""
    readers = ThreadPoolExecutor(AT_ONCE, "ds2-reader")
    remaining = iter(sources)
    under_way: deque[Future[Result]] = deque()
    streams: weakref.WeakSet[Stream] = weakref.WeakSet()
    try:
        while True:
            for source in itertools.islice(remaining, 2 * AT_ONCE - len(under_way)):
                under_way.append(readers.submit(_transcribe, dispatcher, source, streams))
            if not under_way:
                return
            yield under_way.popleft().result()
    finally:  # also when the caller stops early
        readers.shutdown(wait=False, cancel_futures=True)
        for stream in list(streams):
            stream.close()


def _transcribe(dispatcher: Dispatcher, source: AudioSource, streams: "weakref.WeakSet[Stream]") -> Result:
    rate = dispatcher.metadata.feature.sample_rate
    samples = 0
    stream = None
    try:
        stream = dispatcher.create_stream()
        streams.add(stream)
        for block in audio_blocks(source, rate):
            stream.accept_waveform(block, rate)
            samples += len(block)
        stream.input_finished()
        stream.wait()
        heard = stream.result
    except AudioError as error:  # names the recording itself
        return Result(source, None, samples / rate, error)
    except Exception as error:  # the model's, whatever it is: the other recordings go on
        return Result(source, None, samples / rate, about(source, error))
    finally:
        if stream is not None:
            stream.close()
    return Result(source, Hypothesis(heard.text, heard.score), samples / rate, None, words=heard.words)
