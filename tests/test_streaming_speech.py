"""The bundled streaming model on real speech: however it is cut, a stream says what the whole recording says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.audio.load import load_audio
from ds2_deploy.decoding.greedy import GreedyDecoder, GreedyStream
from ds2_deploy.model_folder import open_model
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.runtime import open_backend, open_stream_backend
from ds2_deploy.streaming.dispatcher import Dispatcher
from ds2_deploy.streaming.endpoint import EndpointConfig
from ds2_deploy.streaming.stepping import OwnThread
from ds2_deploy.streaming.stream import Stream, StreamResult
from ds2_deploy.text.alphabet import Alphabet

Frames = npt.NDArray[np.float32]
RATE = 16000
DOCS = Path(__file__).parent.parent / "docs" / "streaming.md"


class Recorder(GreedyDecoder):
    """Keeps the frames that the streams' decoders are given."""

    def __init__(self, alphabet: Alphabet) -> None:
        super().__init__(alphabet)
        self.frames: list[Frames] = []

    def start(self) -> GreedyStream:
        stream, accept = super().start(), GreedyStream.accept

        def record(log_probs: Frames) -> None:
            self.frames.append(log_probs.copy())
            accept(stream, log_probs)

        stream.accept = record  # type: ignore[method-assign]
        return stream


def cuttings(samples: Frames) -> dict[str, list[Frames]]:
    """Ways to cut a recording, as a microphone, a network or a test might."""
    rng = np.random.default_rng(len(samples))
    sizes = {"10 ms": 160, "a prime": 1601, "at once": len(samples)}
    ways = {name: [samples[i : i + size] for i in range(0, len(samples), size)] for name, size in sizes.items()}
    ways["random"] = np.array_split(samples, np.sort(rng.integers(0, len(samples), 40)))
    ways["single samples at both ends"] = [*samples[:2000, None], samples[2000:-2000], *samples[-2000:, None]]
    return ways


@pytest.fixture(scope="module")
def recordings(ds2_data: Path) -> list[Frames]:
    files = sorted((ds2_data / "an4/wav/test").rglob("*.flac"))[::30]
    return [load_audio(file, RATE) for file in files]


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_any_cutting_equals_the_whole(name: str, recordings: list[Frames]) -> None:
    pytest.importorskip(name)
    model = open_model("streaming")
    offline = open_backend(name, model, device="cpu", threads=1)
    decoder = Recorder(model.metadata.alphabet)
    stream = Stream(OwnThread(open_stream_backend(name, model, device="cpu", threads=1)), model.metadata, decoder)
    for samples in recordings:
        log_probs, lengths = offline.run(samples[None], np.array([len(samples)]))
        text = GreedyDecoder(model.metadata.alphabet).decode(log_probs[0, : lengths[0]]).text
        assert text
        for cutting, pieces in cuttings(samples).items():
            stream.reset()
            decoder.frames.clear()
            for piece in pieces:
                stream.accept_waveform(piece, RATE)
            stream.input_finished()
            np.testing.assert_allclose(
                np.concatenate(decoder.frames), log_probs[0, : lengths[0]], atol=1e-4, err_msg=cutting
            )
            assert (stream.result.text, stream.result.is_final) == (text, True)


def test_many_at_once_say_what_each_says_alone(recordings: list[Frames]) -> None:
    pytest.importorskip("onnxruntime")
    model = open_model("streaming")
    offline = open_backend("onnxruntime", model, device="cpu", threads=1)
    decoder = GreedyDecoder(model.metadata.alphabet)
    with Dispatcher.open("streaming", device="cpu") as dispatcher:
        streams = [dispatcher.create_stream() for _ in recordings]
        for start in range(0, max(map(len, recordings)), 700):  # side by side, and one after the other at an end
            for stream, samples in zip(streams, recordings, strict=True):
                if start < len(samples):
                    stream.accept_waveform(samples[start : start + 700], RATE)
                    if start + 700 >= len(samples):
                        stream.input_finished()
        for stream, samples in zip(streams, recordings, strict=True):
            assert stream.wait(60)
            log_probs, lengths = offline.run(samples[None], np.array([len(samples)]))
            assert stream.result.text == decoder.decode(log_probs[0, : lengths[0]]).text


SECOND = np.arange(RATE) / RATE
QUIET = 1e-5 * np.random.default_rng(0).standard_normal(RATE)


@pytest.mark.parametrize(
    ("samples", "limit"),
    [
        (np.concatenate([np.zeros(RATE), QUIET, np.zeros(RATE // 2)]), 1e-4),
        # A pure tone leaves the other bins at the floor, where two float32 spectrograms differ most: as much as
        # PyTorch's and ONNX Runtime's do on the whole recording.
        (0.1 * np.sin(2 * np.pi * 1003.7 * SECOND), 5e-3),
    ],
    ids=["silence and hush", "a tone"],
)
def test_where_the_spectrogram_meets_its_floor(samples: npt.NDArray[np.float64], limit: float) -> None:
    pytest.importorskip("onnxruntime")
    model = open_model("streaming")
    audio = samples.astype(np.float32)
    offline = open_backend("onnxruntime", model, device="cpu", threads=1)
    log_probs, lengths = offline.run(audio[None], np.array([len(audio)]))
    decoder = Recorder(model.metadata.alphabet)
    backend = open_stream_backend("onnxruntime", model, device="cpu", threads=1)
    stream = Stream(OwnThread(backend), model.metadata, decoder)
    stream.accept_waveform(audio, RATE)
    stream.input_finished()
    np.testing.assert_allclose(np.concatenate(decoder.frames), log_probs[0, : lengths[0]], atol=limit)


def test_the_service_of_the_documentation(recordings: list[Frames]) -> None:
    """Three speakers at once, one of whom hangs up: the others read what a stream by itself gives."""
    pytest.importorskip("onnxruntime")
    section = DOCS.read_text(encoding="utf-8").partition("## In a service")[2]
    names: dict[str, Any] = {}
    exec(section.partition("```python\n")[2].partition("```")[0], names)
    shown: list[str] = []
    written: list[list[str]] = [[], []]

    async def speaking(samples: Frames) -> AsyncIterator[Frames]:
        for start in range(0, len(samples), 1600):
            yield samples[start : start + 1600]

    async def hanging_up() -> AsyncIterator[Frames]:
        yield recordings[0][:8000]
        raise ConnectionError

    def writer(texts: list[str]) -> Callable[[list[StreamResult]], None]:
        return lambda finals: texts.extend(final.text for final in finals)

    def show(result: StreamResult) -> None:
        shown.append(result.text)

    async def service() -> list[object]:
        dispatcher = Dispatcher.open("streaming", threads=2)
        try:
            serve = partial(names["serve"], dispatcher, show=show)
            first, second = (serve(speaking(recordings[i]), write=writer(written[i])) for i in (0, 1))
            third = serve(hanging_up(), write=writer([]))
            return await asyncio.gather(first, second, third, return_exceptions=True)
        finally:
            await asyncio.to_thread(dispatcher.close)

    *fine, broken = asyncio.run(service())
    assert (fine, type(broken)) == ([None, None], ConnectionError)
    recognizer = Recognizer.open("streaming")
    for samples, texts in zip(recordings, written, strict=False):
        stream = recognizer.create_stream(endpoint=EndpointConfig())
        stream.accept_waveform(samples, RATE)
        stream.input_finished()
        assert texts == [final.text for final in stream.take_finals()]
        assert texts[0] in shown
