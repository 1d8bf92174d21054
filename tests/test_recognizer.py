"""The pipeline against text computed by hand, and its promises about order, memory and failures."""

import gc
import io
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from ds2_deploy import recognizer as module
from ds2_deploy.audio.features import FeatureConfig, FeatureStatistics
from ds2_deploy.audio.load import Channel
from ds2_deploy.batching import WINDOW_ITEMS, length_batches, plan_batches
from ds2_deploy.decoding import make_decoder, pool
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.errors import AudioError, AudioNotFoundError, ConfigError, InferenceError
from ds2_deploy.manifest import read_manifest
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.pieces import END, Piece, PieceResult, assembled
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.result import Passage
from ds2_deploy.runtime.protocol import Backend, Emissions
from ds2_deploy.runtime.torch_backend import TorchBackend
from tests.conftest import ConvModel, noise
from tests.tiny import MODELS, tiny_metadata, tiny_model

WriteWav = Callable[..., tuple[Path, npt.NDArray[np.float32]]]
LENGTHS = [4000, 319, 16000, 0, 320, 321, 9000, 9000, 1, 12345]  # around one window of 320, and equal ones


class FakeBackend:
    """One frame per recording, and a note of every batch."""

    name, device, max_samples = "fake", "cpu", None

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.lengths: list[int] = []

    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        self.shapes.append(audio.shape)
        self.lengths += lengths.tolist()
        return Emissions(np.zeros((len(audio), 1, 29), dtype=np.float32), np.ones(len(audio), dtype=np.int64))


def fake(**options: float) -> tuple[Recognizer, FakeBackend]:
    backend, metadata = FakeBackend(), ModelMetadata()
    decoder = GreedyDecoder(metadata.alphabet)
    return Recognizer(metadata=metadata, backend=backend, decoder=decoder, **options), backend  # type: ignore[arg-type]


@pytest.fixture(params=[1, 3], ids=["1 worker", "3 workers"])
def recognizer(conv_model: ConvModel, request: pytest.FixtureRequest) -> Recognizer:
    return Recognizer.open(conv_model.path, threads=request.param, workers=request.param, batch_seconds=1.2)


def test_samples_to_text(recognizer: Recognizer, conv_model: ConvModel) -> None:
    recordings = [noise(length, seed=i) for i, length in enumerate(LENGTHS)]
    texts = [hypothesis.text for hypothesis in recognizer.recognize(recordings)]
    assert texts == [conv_model.text(samples) for samples in recordings]
    assert len(texts[2]) > 20  # the truth is not empty, either
    assert recognizer.recognize([]) == []


def test_files_to_text_in_order(recognizer: Recognizer, conv_model: ConvModel, write_wav: WriteWav) -> None:
    files = [write_wav(f"{i}.wav", length, seed=i) for i, length in enumerate(LENGTHS)]
    results = list(recognizer.transcribe(path for path, _ in files))
    assert [result.source for result in results] == [path for path, _ in files]
    assert [result.duration_s for result in results] == [length / 16000 for length in LENGTHS]
    assert [result.hypothesis and result.hypothesis.text for result in results] == [
        conv_model.text(samples) for _, samples in files
    ]


def test_a_bad_file_does_not_stop_the_others(recognizer: Recognizer, write_wav: WriteWav, tmp_path: Path) -> None:
    good, _ = write_wav("good.wav", 5000)
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    results = list(recognizer.transcribe([good, tmp_path / "missing.wav", good, text, good.read_bytes(), b""]))
    assert [result.error is None for result in results] == [True, False, True, False, True, False]
    assert isinstance(results[1].error, AudioNotFoundError)
    assert results[0].hypothesis == results[2].hypothesis == results[4].hypothesis != None  # noqa: E711


def test_a_result_shows_no_bytes(recognizer: Recognizer, write_wav: WriteWav) -> None:
    path, _ = write_wav("good.wav", 5000)
    content = path.read_bytes()
    by_path, by_bytes, by_channel = recognizer.transcribe([path, content, Channel(memoryview(content), 0)])
    assert repr(by_path).startswith(f"Result(source={path!r}, ")
    assert repr(by_bytes).startswith(f"Result(source='<{len(content)} bytes>', ")
    assert repr(by_channel).startswith(f"Result(source=Channel(file='<{len(content)} bytes>', number=0), ")
    assert repr(by_path.hypothesis) in repr(by_bytes)


@pytest.mark.parametrize(
    "source",
    [
        None,
        [0.0, 0.1],
        7,
        np.float32(0.5).reshape(()),
        io.StringIO("text"),
        Path("x" * 300 + ".wav"),
        np.zeros(61 * 16000, np.int16),
    ],
    ids=["None", "a list", "a number", "no dimension", "a text", "a name too long", "a minute of integers"],
)
def test_what_is_no_recording_does_not_stop_the_others(
    recognizer: Recognizer, write_wav: WriteWav, source: Any
) -> None:
    good, _ = write_wav("good.wav", 5000)
    results = list(recognizer.transcribe([good, source, good]))
    assert [type(result.error) for result in results] == [type(None), AudioError, type(None)]


class Raising:
    """What a caller's object may do wherever it is asked."""

    def __fspath__(self) -> str:
        raise RuntimeError("boom")


class Reading:
    """A file object of the caller's."""

    def __init__(self, content: object) -> None:
        self.content = content

    def read(self) -> Any:
        return self.content


class Nameless(Reading):
    @property
    def name(self) -> str:
        raise RuntimeError("no name")


class Coroutine:
    """As the read() of a web framework's upload gives it."""


ODD_SOURCES = {
    "a path that raises": (lambda path: Raising(), "Cannot read the recording: boom."),
    "a path of numbers": (lambda path: type("Five", (), {"__fspath__": lambda self: 5})(), "Cannot read the recording"),
    "a name that raises": (lambda path: Nameless(b"junk"), "Cannot decode the recording"),
    "a number": (lambda path: Reading(17), "its read() gives int, not bytes"),
    "nothing": (lambda path: Reading(None), "its read() gives NoneType, not bytes"),
    "a coroutine": (lambda path: Reading(Coroutine()), "its read() gives Coroutine, not bytes"),
    "a channel's name": (lambda path: Channel(path, "0"), "good.wav has no channel '0'"),  # type: ignore[arg-type]
    "half a channel": (lambda path: Channel(path, 0.5), "good.wav has no channel 0.5"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", ODD_SOURCES)
def test_whatever_a_source_does_it_stops_no_other(recognizer: Recognizer, write_wav: WriteWav, name: str) -> None:
    make, words = ODD_SOURCES[name]
    good, _ = write_wav("good.wav", 5000)
    first, odd, last = recognizer.transcribe([good, make(good), good])  # type: ignore[no-untyped-call]
    assert first.hypothesis == last.hypothesis != None  # noqa: E711
    assert type(odd.error) is AudioError
    assert words in str(odd.error)
    assert str(odd.error).endswith(".")


def test_files_open_otherwise_do_not_stop_the_others(recognizer: Recognizer, write_wav: WriteWav) -> None:
    good, _ = write_wav("good.wav", 5000)
    with good.open("rb") as closed:
        pass
    with good.open(encoding="utf-8") as text, (good.parent / "new.wav").open("wb") as writing:
        results = list(recognizer.transcribe([closed, good, text, writing]))
    assert [type(result.error) for result in results] == [AudioError, type(None), AudioError, AudioError]
    for result in results[2:]:
        assert str(result.error).endswith(": open it in mode 'rb'.")


def test_one_channel_of_a_file(recognizer: Recognizer, conv_model: ConvModel, tmp_path: Path) -> None:
    samples = noise(5000, channels=2)
    soundfile.write(tmp_path / "stereo.wav", samples, 16000, subtype="PCM_16")
    (result,) = recognizer.transcribe([Channel(tmp_path / "stereo.wav", 1)])
    assert result.hypothesis is not None
    assert result.hypothesis.text == conv_model.text(samples[:, 1])


@pytest.mark.parametrize("samples", [np.float32([0, np.nan] * 500), np.zeros((2, 1000), dtype=np.float32)])
def test_samples_that_cannot_be_used(samples: npt.NDArray[np.float32]) -> None:
    with pytest.raises(AudioError, match=r"must be (finite|of one dimension)"):
        fake()[0].recognize([noise(1000), samples])


def test_too_short_for_a_frame_never_reaches_the_model() -> None:
    recognizer, backend = fake()
    recognizer.recognize([noise(length) for length in LENGTHS])
    assert sorted(backend.lengths) == sorted(length for length in LENGTHS if length >= 320)


def test_batches_are_bounded_with_their_padding() -> None:
    recognizer, backend = fake(batch_seconds=3.0)
    lengths = np.random.default_rng(0).integers(400, 50_000, 200)
    recognizer.recognize([noise(length) for length in lengths])
    assert sum(rows for rows, _ in backend.shapes) == 200
    for rows, samples in backend.shapes:
        assert rows == 1 or rows * samples <= 3.0 * 16000
    assert len(backend.shapes) < 170  # and they are batches
    padding = sum(rows * samples for rows, samples in backend.shapes) / lengths.sum() - 1
    assert padding < 0.05  # of similar lengths


def test_a_short_list_is_shared_by_all_workers() -> None:
    recognizer, backend = fake(workers=2)
    recognizer.recognize([noise(16000)] * 4)
    assert backend.shapes == [(2, 16000)] * 2


def test_length_batches_hold_each_recording_once() -> None:
    durations = np.random.default_rng(1).exponential(5, 300).round(1).tolist()
    batches = length_batches(durations, 20.0)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(durations[i] for i in batch) <= 20.0
    assert length_batches([], 20.0) == []


@pytest.mark.parametrize("batch_s", [30.0, 120.0, 300.0])
@pytest.mark.parametrize(
    ("name", "median", "spread"), [("commands", 2.5, 0.45), ("digits", 0.4, 0.4), ("read", 13, 0.4)]
)
def test_little_of_a_batch_is_padding(name: str, median: float, spread: float, batch_s: float) -> None:
    """Durations of speech are about log-normal."""
    durations = (median * np.exp(spread * np.random.default_rng(2).standard_normal(1000))).tolist()
    batches = list(plan_batches(((d, d) for d in durations), batch_s, workers=2))
    padded = sum(len(batch) * max(batch) for batch in batches)
    assert sum(durations) >= 0.9 * padded
    if (name, batch_s) == ("commands", 30.0):
        assert len(batches) < 1.5 * sum(durations) / batch_s  # and batches are filled all the same


@pytest.mark.parametrize("manifest", ["an4/test.jsonl", "librispeech-mini/valid.jsonl", "digits/test.jsonl"])
def test_little_of_a_batch_of_real_recordings_is_padding(ds2_data: Path, manifest: str) -> None:
    durations = [utterance.duration_s for utterance in read_manifest(ds2_data / manifest)]
    for batch_s in (30.0, 300.0):
        batches = list(plan_batches(((d, d) for d in durations), batch_s, workers=2))
        assert sum(durations) >= 0.9 * sum(len(batch) * max(batch) for batch in batches)


def test_long_recordings_are_refused_where_asked() -> None:
    recognizer, backend = fake(max_segment_s=2.0, cut_long=False)
    short, long = recognizer.transcribe([noise(16_000), noise(48_000)])
    assert short.error is None
    assert str(long.error) == (
        "The recording lasts 3.0 s, more than the 2.0 s that go through the model at once: let it be cut at silences."
    )
    assert backend.lengths == [16_000]


def test_a_backend_says_how_long_a_recording_may_be(conv_model: ConvModel, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    backend.max_samples = 40_000  # type: ignore[assignment]  # as that of an engine's longest profile
    monkeypatch.setattr(module, "open_backend", lambda *_, **__: backend)
    recognizer = Recognizer.open(conv_model.path)
    assert recognizer.max_segment_s == 2.5
    assert len(list(recognizer.transcribe([noise(160_000)]))) == 1
    assert max(backend.lengths) <= 40_000
    assert len(backend.lengths) >= 4
    assert Recognizer.open(conv_model.path, max_segment_s=2.0).max_segment_s == 2.0


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_segment_s", 0.05), ("max_segment_s", float("nan")), ("batch_seconds", 0.0), ("workers", 0), ("threads", -1),
     ("threads", 1.5), ("workers", 2.0), ("threads", "2")],
)  # fmt: skip
def test_options_that_leave_nothing_to_hear(conv_model: ConvModel, option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option} is {value!r}: it must be at least"):
        Recognizer.open(conv_model.path, **{option: value})


@pytest.mark.parametrize(("device", "workers", "at_once"), [
    ("cuda:0", None, 2), ("cuda:0", 1, 1), ("cuda:0", 8, 8), ("cpu", None, 4), ("cpu", 1, 1), ("cpu", 8, 4),
])  # fmt: skip
def test_as_many_batches_at_once_as_were_asked_for(
    conv_model: ConvModel, monkeypatch: pytest.MonkeyPatch, device: str, workers: int | None, at_once: int
) -> None:
    """On a CPU no more than its threads."""
    backend = FakeBackend()
    backend.device = device
    monkeypatch.setattr(module, "open_backend", lambda *_, **__: backend)
    opened = Recognizer.open(conv_model.path, threads=4, workers=workers)
    assert (opened.workers, opened.batch_seconds) == (at_once, 30.0 if device == "cpu" else 240.0)


def test_recordings_far_apart_are_not_batched_together() -> None:
    batches = list(plan_batches(enumerate([10.0] * 200), batch_s=30.0, workers=2))
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    seen = [i for batch in batches for i in batch]
    assert all(abs(place - i) < 48 for place, i in enumerate(seen))  # 16 batches of three
    assert {len(batch) for batch in batches} <= {2, 3}
    assert list(plan_batches(enumerate([]), batch_s=30.0, workers=2)) == []
    assert list(plan_batches(enumerate([0.0, 0.0]), batch_s=30.0, workers=2)) == [[0, 1]]


def test_a_window_holds_no_more_recordings_however_short() -> None:
    taken = 0

    def commands() -> Iterator[tuple[int, float]]:
        nonlocal taken
        for _ in range(3 * WINDOW_ITEMS):
            taken += 1
            yield taken, 0.001

    batches = plan_batches(commands(), batch_s=30.0, workers=2)
    next(batches)
    assert taken == WINDOW_ITEMS
    assert sum(map(len, batches)) < 3 * WINDOW_ITEMS == taken


def test_sources_are_taken_a_window_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADERS_AHEAD", 8)
    recognizer, _ = fake(batch_seconds=0.1)  # a batch each
    taken = 0

    def sources() -> Iterator[npt.NDArray[np.float32]]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield noise(1600)

    results = recognizer.transcribe(sources())
    next(results)
    assert taken <= 16
    assert len(list(results)) == 99
    assert taken == 100


@pytest.mark.parametrize("count", [0, 3, 20])
def test_what_was_given_before_the_sources_failed_is_heard(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(module, "HEADERS_AHEAD", 8)

    def sources() -> Iterator[npt.NDArray[np.float32]]:
        yield from [noise(1600)] * count
        raise OSError("the disk is gone")

    heard = []
    with pytest.raises(OSError, match="disk is gone"):
        heard += iter(fake(batch_seconds=0.3)[0].transcribe(sources()))
    assert len(heard) == count


@pytest.mark.parametrize(
    "source",
    ["a.wav", b"RIFF", bytearray(b"RIFF"), Path("a.wav"), noise(1600), Channel("a.wav", 0), io.BytesIO(b"RIFF")],
    ids=type,
)
def test_a_single_source_is_not_taken_for_many(source: Any) -> None:
    """At once, not when the first result is asked for."""
    recognizer, _ = fake()
    for call in (recognizer.transcribe, recognizer.recognize):
        with pytest.raises(AudioError, match=rf"a {type(source).__name__}: put it in a list, \[source\]\.$"):
            call(source)


def test_what_the_caller_does_not_ask_for_is_not_computed() -> None:
    gc.collect()  # threads of results that earlier tests have left half-way
    recognizer, backend = fake(batch_seconds=0.1)
    results = recognizer.transcribe([noise(1600)] * 200)
    next(results)
    results.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.startswith("ds2-"):
            thread.join(10)
    assert len(backend.shapes) < 20


def test_an_error_in_the_model_is_raised_not_swallowed() -> None:
    recognizer, backend = fake()
    backend.run = lambda audio, lengths: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        recognizer.recognize([noise(1000)])


def test_a_recognizer_is_shared_by_threads(conv_model: ConvModel) -> None:
    recognizer = Recognizer.open(conv_model.path, threads=2)
    texts: dict[int, str] = {}

    def work(seed: int) -> None:
        texts[seed] = recognizer.recognize([noise(8000, seed=seed)])[0].text

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {seed: conv_model.text(noise(8000, seed=seed)) for seed in range(4)}


@pytest.mark.parametrize("begin", ["threading.main_thread().join()", "time.sleep(0)"], ids=["after it", "before"])
def test_a_thread_that_outlives_the_main_one_is_served(conv_model: ConvModel, begin: str) -> None:
    program = """
import sys, threading, time, numpy as np
from ds2_deploy.recognizer import Recognizer
recognizer = Recognizer.open(sys.argv[1], threads=2, batch_seconds=1)
samples, begun = np.zeros(16000, np.float32), threading.Event()
def work():
    eval(sys.argv[2])
    for result in recognizer.transcribe([samples, "missing.wav", *[samples] * 300]):
        begun.set()
        print(result.duration_s, type(result.error).__name__)
threading.Thread(target=work).start()
if "sleep" in sys.argv[2]:
    begun.wait()
"""
    command = [sys.executable, "-c", program, str(conv_model.path), begin]
    outcome = subprocess.run(command, timeout=60, check=True, capture_output=True, text=True)
    expected = ["1.0 NoneType", "0.0 AudioNotFoundError", *["1.0 NoneType"] * 300]
    assert outcome.stdout.splitlines() == expected, outcome.stderr


def test_a_recording_as_long_as_a_piece_may_be_is_whole(conv_model: ConvModel) -> None:
    """2.01 * 16000 is a little less than 32160."""
    recognizer = Recognizer.open(conv_model.path, threads=1, max_segment_s=2.01)
    (result,) = recognizer.transcribe([noise(32160)])
    assert result.hypothesis
    assert result.hypothesis.text == conv_model.text(noise(32160))
    assert not result.passages


def test_long_recordings_share_nothing() -> None:
    """Neither a failure nor a score is the next one's."""
    samples, failure = noise(9), InferenceError("no memory")

    def long(name: str, *outcomes: Hypothesis | InferenceError) -> Iterator[PieceResult]:
        for number, outcome in enumerate(outcomes):
            yield PieceResult(Piece(name, samples, 2.0, 10.0 * number), outcome, 2.0)
        yield PieceResult(Piece(name, END, 0.0, 50.0), Hypothesis("", 0.0), 0.0)

    first, second, third = assembled(
        [
            *long("a", Hypothesis("x", -1.0), failure),
            *long("b", Hypothesis("y", -2.0), Hypothesis("", -3.0), Hypothesis("z", -4.0)),
            *long("c", Hypothesis("w", -8.0)),
        ]
    )
    assert (first.hypothesis, first.error) == (None, failure)
    assert (second.hypothesis, second.error, second.duration_s) == (Hypothesis("y z", -6.0), None, 50.0)
    assert second.passages == (Passage(0.0, 2.0, "y"), Passage(20.0, 22.0, "z"))
    assert (third.hypothesis, third.error) == (Hypothesis("w", -8.0), None)


def test_a_changed_recognizer_has_a_bound_of_its_own() -> None:
    one, _ = fake(workers=2)
    other = replace(one, workers=3)
    assert one == replace(one) != other
    assert len({id(r._model_free) for r in (one, replace(one), other)}) == 3
    assert sum(other._model_free.acquire(blocking=False) for _ in range(5)) == 3
    assert "_pool" not in repr(one)


def test_a_decoder_that_is_not_there(conv_model: ConvModel) -> None:
    with pytest.raises(ConfigError, match="greedy"):
        Recognizer.open(conv_model.path, decoder="fancy")


def test_real_speech_alone_and_in_batches(ds2_data: Path, conv_model: ConvModel) -> None:
    lines = (ds2_data / "an4" / "test.jsonl").read_text().splitlines()[:12]
    paths = [ds2_data / "an4" / json.loads(line)["audio_filepath"] for line in lines]
    recognizer = Recognizer.open(conv_model.path, threads=2)
    together = [result.hypothesis for result in recognizer.transcribe(paths)]
    alone = [next(recognizer.transcribe([path])).hypothesis for path in paths]
    assert [h and h.text for h in together] == [h and h.text for h in alone]
    assert all(h and h.text for h in together)


def test_pytorch_without_memory_is_an_error_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the recogniser meets by trying each recording by itself."""
    backend = TorchBackend.of(tiny_model(tiny_metadata(MODELS["gru, two directions, 2d"])))

    held: list[weakref.ref[torch.Tensor]] = []

    def full(features: torch.Tensor, _: object) -> None:
        held.append(weakref.ref(features))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(backend.module.encoder, "forward", full)
    try:
        backend.run(np.zeros((2, 16000), np.float32), np.array([16000, 9000]))
    except InferenceError as error:
        assert "batch of 2 x 16000 samples: CUDA out of memory. Tried to allocate 2.00 GiB. If" in str(error)  # noqa: PT017
        assert held[0]() is None  # while smaller batches are tried
    assert held


class SmallMachine:
    """Memory for one second of audio and no more."""

    name, device = "small", "cpu"

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        if audio.size > 16000:
            raise InferenceError("no memory")
        return self.backend.run(audio, lengths)


def test_a_recording_too_large_for_the_machine_does_not_stop_the_others(conv_model: ConvModel) -> None:
    recognizer = Recognizer.open(conv_model.path)
    recognizer = replace(recognizer, backend=SmallMachine(recognizer.backend))
    recordings = [noise(n, seed=n) for n in (9000, 40000, 8000, 9500)]
    results = list(recognizer.transcribe(recordings))
    assert [result.error is None for result in results] == [True, False, True, True]
    assert "no memory" in str(results[1].error)
    for recording, result in zip(recordings, results, strict=True):
        assert result.hypothesis is None or result.hypothesis.text == conv_model.text(recording)


def test_a_pipe_is_a_batch_of_its_own_however_long_batches_are(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000), 16000)
    content = (tmp_path / "a.wav").read_bytes()
    recognizer, backend = fake(batch_seconds=1000.0, max_segment_s=60.0)
    assert all(result.error is None for result in recognizer.transcribe(io.BytesIO(content) for _ in range(4)))
    assert backend.shapes == [(1, 8000)] * 4


def test_long_pipes_share_the_bound_on_model_runs() -> None:
    """Though with a search more batches than that are under way."""
    pytest.importorskip("pyctcdecode")

    class Counting(FakeBackend):
        at_once = most = 0
        lock = threading.Lock()

        def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
            with self.lock:
                self.at_once += 1
                self.most = max(self.most, self.at_once)
            time.sleep(0.01)
            with self.lock:
                self.at_once -= 1
            log_probs, frames = super().run(audio, lengths)
            return Emissions(log_probs - np.float32(np.log(29)), frames)

    metadata, backend, content = ModelMetadata(), Counting(), io.BytesIO()
    soundfile.write(content, noise(48000), 16000, format="WAV")
    decoder = make_decoder("beam", metadata.alphabet)
    recognizer = Recognizer(
        metadata=metadata, backend=backend, decoder=decoder, workers=2, decoding_processes=6, max_segment_s=1.0
    )
    results = list(recognizer.transcribe(io.BytesIO(content.getvalue()) for _ in range(10)))
    assert [result.error for result in results] == [None] * 10
    assert len(backend.lengths) >= 30
    assert backend.most == 2


def test_what_processes_decode_comes_in_the_order_of_the_recordings(
    conv_model: ConvModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("pyctcdecode", "loky"):
        pytest.importorskip(package)
    monkeypatch.setattr(pool, "WORTH_IT_S", 1e9)  # none begins
    alone = Recognizer.open(conv_model.path, backend="onnxruntime", device="cpu", decoder="beam", threads=1)
    recordings = [noise(1600 + 160 * seed, seed=seed) for seed in range(4)]
    texts = [hypothesis.text for hypothesis in alone.recognize(recordings)]
    assert [h.text for h in replace(alone, decoding_processes=2).recognize(recordings)] == texts
    assert len(set(texts)) == 4


def test_what_the_machine_cannot_hold_goes_in_halves() -> None:
    recognizer, backend = fake(batch_seconds=9.0)
    results = replace(recognizer, backend=SmallMachine(backend)).recognize([noise(4000, seed=n) for n in range(8)])
    assert len(results) == 8
    assert backend.shapes == [(4, 4000), (4, 4000)]


@pytest.mark.parametrize(("normalization", "heard"), [("utterance", 1), ("utterance_bins", 1), ("running", 2)])
def test_digital_silence_has_no_level_to_go_by(normalization: str, heard: int) -> None:
    """What a network makes of nothing divided by nothing is no text; other normalisations know what silence is."""
    recognizer, backend = fake()
    feature = FeatureConfig(normalization=normalization)  # type: ignore[arg-type]
    bins = (0.0,) * feature.bins
    statistics = FeatureStatistics(mean=bins, deviation=(1.0,) * feature.bins) if normalization == "running" else None
    metadata = ModelMetadata(feature=feature, statistics=statistics)
    silence, speech = replace(recognizer, metadata=metadata).recognize([np.zeros(8000, np.float32), noise(8000)])
    assert len(backend.lengths) == heard
    assert silence.text == ""
    assert speech.score == 0


def test_a_long_pipe_that_the_model_fails_on_is_named_once(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(48000), 16000)
    pipe = io.BytesIO((tmp_path / "a.wav").read_bytes())
    pipe.name = "a.wav"
    recognizer, backend = fake(max_segment_s=2.0)
    recognizer = replace(recognizer, backend=SmallMachine(backend))
    (result,) = recognizer.transcribe([pipe])
    assert str(result.error) == "a.wav: no memory"


@pytest.mark.parametrize(
    ("failure", "words"),
    [(InferenceError("no probabilities"), "samples: no probabilities"), (KeyError("x"), "decoder failed: KeyError")],
)
def test_a_search_that_fails_on_one_recording_spares_the_others(failure: Exception, words: str) -> None:
    class Refusing(GreedyDecoder):
        def decode(self, log_probs: npt.NDArray[np.float32]) -> Hypothesis:
            if len(log_probs) == 2:
                raise failure
            return super().decode(log_probs)

    class TwoFrames(FakeBackend):
        def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
            frames = np.where(lengths == 9000, 2, 1)
            return Emissions(np.zeros((len(audio), 2, 29), dtype=np.float32), frames)

    metadata = ModelMetadata()
    recognizer = Recognizer(metadata=metadata, backend=TwoFrames(), decoder=Refusing(metadata.alphabet))
    good, bad, also_good = recognizer.transcribe([noise(8000), noise(9000), noise(8500)])
    assert (good.error, also_good.error) == (None, None)
    assert words in str(bad.error)
