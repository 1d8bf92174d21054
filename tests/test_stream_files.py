"""Recordings through streams: results in order, whole texts, errors that stop nobody else."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ds2_deploy.audio import load
from ds2_deploy.audio.load import Channel
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.errors import AudioError, AudioNotFoundError, DS2Error, InferenceError
from ds2_deploy.streaming.dispatcher import Dispatcher
from ds2_deploy.streaming.files import AT_ONCE, _Streams, transcribe_streams
from ds2_deploy.text.alphabet import ENGLISH
from tests.conftest import noise
from tests.fake_stream import METADATA, FakeStreamBackend, emissions_of, text_of

WriteWav = Callable[..., tuple[Path, npt.NDArray[np.float32]]]


@pytest.fixture
def backend() -> FakeStreamBackend:
    return FakeStreamBackend()


@pytest.fixture
def dispatcher(backend: FakeStreamBackend) -> Iterator[Dispatcher]:
    with Dispatcher(backend, METADATA, GreedyDecoder(ENGLISH), workers=2) as dispatcher:
        yield dispatcher


def test_files_to_text_in_order(dispatcher: Dispatcher, write_wav: WriteWav) -> None:
    lengths = [40000, 319, 1600, 0, 320, 1, 12345, 1599, 1601, 8000] * 4  # more than are read at once
    assert len(lengths) > 2 * AT_ONCE
    files = [write_wav(f"{i}.wav", length, seed=i) for i, length in enumerate(lengths)]
    results = list(transcribe_streams(dispatcher, (path for path, _ in files)))
    assert [result.source for result in results] == [path for path, _ in files]
    assert [result.duration_s for result in results] == [length / 16000 for length in lengths]
    for result, (_, samples) in zip(results, files, strict=True):
        assert result.error is None
        assert result.hypothesis is not None
        whole = GreedyDecoder(ENGLISH).decode(emissions_of(samples))
        assert result.hypothesis.text == whole.text == text_of(samples)
        assert result.hypothesis.score == pytest.approx(whole.score, rel=1e-5)
        assert result.words == tuple(word.timed(METADATA.frame_s) for word in whole.words)
    assert len(dispatcher._streams) == 0
    assert len(text_of(files[0][1])) > 50  # the truth is not empty, either


def test_a_bad_file_does_not_stop_the_others(dispatcher: Dispatcher, write_wav: WriteWav, tmp_path: Path) -> None:
    good, samples = write_wav("good.wav", 9000)
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF and nothing")
    results = list(transcribe_streams(dispatcher, [good, tmp_path / "missing.wav", damaged, good.read_bytes()]))
    assert [type(result.error) for result in results] == [type(None), AudioNotFoundError, AudioError, type(None)]
    assert [result.hypothesis and result.hypothesis.text for result in results] == [
        text_of(samples), None, None, text_of(samples)
    ]  # fmt: skip
    assert len(dispatcher._streams) == 0


def test_what_was_given_before_the_sources_failed_is_heard(dispatcher: Dispatcher, write_wav: WriteWav) -> None:
    good, samples = write_wav("good.wav", 9000)

    def sources() -> Iterator[Path]:
        yield from [good] * 3
        raise OSError("the disk is gone")

    texts: list[str | None] = []
    with pytest.raises(OSError, match="disk is gone"):
        texts += (result.hypothesis and result.hypothesis.text for result in transcribe_streams(dispatcher, sources()))
    assert texts == [text_of(samples)] * 3


def test_a_recording_the_model_fails_on_does_not_stop_the_others(
    dispatcher: Dispatcher, write_wav: WriteWav, tmp_path: Path
) -> None:
    good, samples = write_wav("good.wav", 9000)
    poisoned = tmp_path / "poisoned.wav"
    soundfile.write(poisoned, np.full(20000, FakeStreamBackend.poison, np.float32), 16000, subtype="FLOAT")
    results = list(transcribe_streams(dispatcher, [good, poisoned, good]))
    assert [type(result.error) for result in results] == [type(None), InferenceError, type(None)]
    assert str(poisoned) in str(results[1].error)
    assert results[2].hypothesis is not None
    assert results[2].hypothesis.text == text_of(samples)


def test_long_recordings_come_block_by_block(
    dispatcher: Dispatcher, write_wav: WriteWav, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "BLOCK_VALUES", 777)
    path, samples = write_wav("a.wav", 30000)
    (result,) = transcribe_streams(dispatcher, [path])
    assert result.hypothesis is not None
    assert result.hypothesis.text == text_of(samples)
    assert result.duration_s == 30000 / 16000


def test_one_channel_of_a_file(dispatcher: Dispatcher, tmp_path: Path) -> None:
    samples = noise(5000, channels=2)
    soundfile.write(tmp_path / "stereo.wav", samples, 16000, subtype="PCM_16")
    first, second = transcribe_streams(dispatcher, [Channel(tmp_path / "stereo.wav", 1)] * 2)
    assert first.hypothesis is not None
    assert first.hypothesis == second.hypothesis
    assert first.hypothesis.text == text_of(samples[:, 1])


def test_sources_are_taken_a_few_ahead(dispatcher: Dispatcher, write_wav: WriteWav) -> None:
    path, _ = write_wav("a.wav", 3200)
    taken = 0

    def sources() -> Iterator[Path]:
        nonlocal taken
        for _ in range(200):
            taken += 1
            yield path

    for heard, _ in enumerate(transcribe_streams(dispatcher, sources())):
        assert taken <= heard + 2 * AT_ONCE
    assert (heard, taken) == (199, 200)


def test_no_files_are_no_results(dispatcher: Dispatcher) -> None:
    assert list(transcribe_streams(dispatcher, [])) == []


def test_a_caller_who_stops_early_stops_it_all(dispatcher: Dispatcher, write_wav: WriteWav) -> None:
    files = [write_wav(f"{i}.wav", 100 if i == 0 else 400_000, seed=i)[0] for i in range(6)]
    results = transcribe_streams(dispatcher, files)
    assert next(results).error is None
    results.close()  # type: ignore[attr-defined]
    assert len(dispatcher._streams) == 0


def test_a_reader_that_comes_too_late_opens_no_stream(dispatcher: Dispatcher) -> None:
    streams = _Streams(dispatcher)
    early = streams.open()
    streams.close()
    with pytest.raises(DS2Error, match="Nobody waits"):
        streams.open()
    assert len(dispatcher._streams) == 0
    del early
