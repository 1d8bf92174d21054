"""Many streams through one model: right texts, fair batches, back-pressure, limits, failures and the end."""

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.errors import ConfigError, DS2Error, InferenceError, OverloadError, StreamError
from ds2_deploy.runtime.devices import GPU_WORKERS
from ds2_deploy.streaming import dispatcher as module
from ds2_deploy.streaming.dispatcher import MAX_WAITING_CHUNKS, Dispatcher
from ds2_deploy.streaming.endpoint import EndpointConfig, EndpointRule
from ds2_deploy.streaming.stream import Stream, StreamResult
from ds2_deploy.text.alphabet import ENGLISH
from tests.fake_stream import (
    CHUNK,
    METADATA,
    SCALE,
    FakeStreamBackend,
    Samples,
    audio_of,
    babble,
    feed,
    heard_by,
    text_of,
)


@contextmanager
def dispatching(
    backend: FakeStreamBackend | None = None, *, workers: int = 1, max_batch: int = 32, max_streams: int = 1000
) -> Iterator[Dispatcher]:
    """A dispatcher whose gate is open at the end, so that a test that fails does not hang."""
    backend = backend or FakeStreamBackend()
    with Dispatcher(
        backend, METADATA, GreedyDecoder(ENGLISH), workers=workers, max_batch=max_batch, max_streams=max_streams
    ) as dispatcher:
        try:
            yield dispatcher
        finally:
            backend.gate.set()


@contextmanager
def held_up(call: Callable[[], object], seconds: float) -> Iterator[None]:
    """A call that does not return for so long, and does by what happens within."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert thread.is_alive()
    yield
    thread.join(10)
    assert not thread.is_alive()


def tone(mark: int, chunks: float) -> Samples:
    """A recording that its first sample tells from others: see FakeStreamBackend.rows."""
    return np.full(int(chunks * CHUNK), mark / SCALE, dtype=np.float32)


def marks(rows: list[tuple[float, int]]) -> list[int]:
    return [round(first * SCALE) for first, _ in rows]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def hold(backend: FakeStreamBackend, dispatcher: Dispatcher) -> Stream:
    """Close the gate and send in a first stream: while the worker stands there, a test can prepare the next batch."""
    backend.gate.clear()
    steps, stream = len(backend.rows), dispatcher.create_stream()
    feed(stream, tone(1, 1))
    assert until(lambda: len(backend.rows) > steps)
    return stream


class Feeder(threading.Thread):
    """Feeds a stream and keeps what that raised."""

    def __init__(self, stream: Stream, samples: Samples) -> None:
        super().__init__(daemon=True)
        self.stream, self.samples = stream, samples
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.stream.accept_waveform(self.samples, 16000)
        except Exception as error:
            self.error = error


# --- texts and batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_streams_of_several_threads_do_not_mix(workers: int) -> None:
    backend = FakeStreamBackend()
    texts: dict[int, str] = {}

    def speak(dispatcher: Dispatcher, seeds: range) -> None:
        """Several streams in turns, each in pieces of its own size."""
        streams = {seed: dispatcher.create_stream() for seed in seeds}
        recordings = {seed: babble(9000 + 2500 * (seed % 5), seed=seed) for seed in seeds}
        for turn in range(200):
            for seed, stream in list(streams.items()):
                size = 300 + 170 * seed
                if len(piece := recordings[seed][turn * size : (turn + 1) * size]):
                    stream.accept_waveform(piece, 16000)
                else:
                    stream.input_finished()
                    assert stream.wait(10)
                    texts[seed] = streams.pop(seed).result.text

    with dispatching(backend, workers=workers, max_batch=5) as dispatcher:
        threads = [threading.Thread(target=speak, args=(dispatcher, range(i, 12, 4))) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert texts == {seed: text_of(babble(9000 + 2500 * (seed % 5), seed=seed)) for seed in range(12)}
    assert max(map(len, backend.rows)) <= 5


def test_streams_begin_and_end_in_the_same_batch() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        ending, beginning, middle = (dispatcher.create_stream() for _ in range(3))
        feed(ending, tone(3, 2.5))
        feed(middle, tone(4, 2))
        assert ending.wait(10)
        assert middle.wait(10)
        steps = len(backend.rows) + 1
        held = hold(backend, dispatcher)
        ending.input_finished()
        feed(beginning, tone(5, 1))
        feed(middle, tone(4, 1))
        backend.gate.set()
        assert held.wait(10)
        assert all(stream.wait(10) for stream in (ending, beginning, middle))
        assert sorted(marks(backend.rows[steps])) == [3, 4, 5]
        assert sorted(length for _, length in backend.rows[steps]) == [CHUNK // 2, CHUNK, CHUNK]
        assert ending.result.text == text_of(tone(3, 2.5))
        assert heard_by(beginning, tone(5, 2)).text == text_of(tone(5, 3))
        assert heard_by(middle, tone(4, 0.5)).text == text_of(tone(4, 3.5))


def test_the_next_batch_takes_all_that_became_ready_meanwhile() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend, max_batch=6) as dispatcher:
        held = hold(backend, dispatcher)
        streams = [dispatcher.create_stream() for _ in range(8)]
        for mark, stream in enumerate(streams, 2):
            feed(stream, tone(mark, 1))
        backend.gate.set()
        assert all(stream.wait(10) for stream in [held, *streams])
        assert [marks(rows) for rows in backend.rows] == [[1], [2, 3, 4, 5, 6, 7], [8, 9]]  # first come first served
        assert all(stream._state.base is None for stream in streams)  # a view would keep the whole batch's


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_holds_a_stream_once(workers: int) -> None:
    backend = FakeStreamBackend()
    with dispatching(backend, workers=workers, max_batch=4) as dispatcher:
        streams = {mark: dispatcher.create_stream() for mark in range(1, 11)}
        feeders = [Feeder(stream, tone(mark, 6 + mark / 2)) for mark, stream in streams.items()]
        for feeder in feeders:
            feeder.join(10)
        for mark, stream in streams.items():
            stream.input_finished()
            assert stream.wait(10)
            assert stream.result.text == text_of(tone(mark, 6 + mark / 2))
    assert all(len(set(marks(rows))) == len(rows) <= 4 for rows in backend.rows)


def test_a_long_recording_does_not_hold_up_a_short_one() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend, max_batch=1) as dispatcher:
        backend.gate.clear()
        long, short = dispatcher.create_stream(), dispatcher.create_stream()
        feeder = Feeder(long, tone(1, 40))
        assert until(lambda: long._waiting >= MAX_WAITING_CHUNKS * CHUNK)
        feed(short, tone(2, 1))
        backend.gate.set()
        assert short.wait(10)
        feeder.join(10)
        assert [marks(rows) for rows in backend.rows][:4] == [[1], [2], [1], [1]]
        assert heard_by(long, tone(1, 1)).text == text_of(tone(1, 41))


def test_idle_workers_share_what_is_ready() -> None:
    backend = FakeStreamBackend()
    backend.gate.clear()
    with dispatching(backend, workers=2) as dispatcher:
        assert until(lambda: dispatcher._idle == 2)
        streams = [dispatcher.create_stream() for _ in range(4)]
        with dispatcher._work:  # nobody takes any before all stand in line
            for mark, stream in enumerate(streams, 1):
                feed(stream, tone(mark, 1))
        assert until(lambda: len(backend.rows) == 2)  # both stand at the gate
        assert sorted(marks(rows) for rows in backend.rows) == [[1, 2], [3, 4]]


# --- back-pressure ------------------------------------------------------------------------------------------------


def test_who_sends_faster_than_the_model_steps_is_made_to_wait() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        backend.gate.clear()
        stream, samples = dispatcher.create_stream(), babble(60 * CHUNK)
        feeder = Feeder(stream, samples)
        assert until(lambda: stream._waiting >= MAX_WAITING_CHUNKS * CHUNK)
        feeder.join(0.05)
        assert feeder.is_alive()
        assert stream._waiting <= (MAX_WAITING_CHUNKS + 1) * CHUNK
        backend.gate.set()
        feeder.join(10)
        stream.input_finished()
        assert stream.wait(10)
        assert stream.result.text == text_of(samples)


def test_waiting_ends_in_time() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        stream = hold(backend, dispatcher)
        assert stream.wait(0.01) is False
        assert stream.wait(0) is False
        stream.input_finished()
        assert stream.wait(0.01) is False
        assert not stream.finished
        backend.gate.set()
        assert stream.wait(10) is True
        assert stream.finished


def test_a_reset_ends_the_waiting() -> None:
    """What was waited for is dropped."""
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        hold(backend, dispatcher)
        stream = dispatcher.create_stream()
        feed(stream, tone(2, 1))
        with held_up(stream.wait, 0.1):
            stream.reset()


def test_until_the_last_step_the_result_is_what_was_said_so_far() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        stream = dispatcher.create_stream()
        feed(stream, audio_of("ab" + "_" * 18))
        assert stream.wait(10)
        backend.gate.clear()
        stream.input_finished()
        assert (stream.result.text, stream.result.is_final) == ("ab", False)


# --- how many streams ---------------------------------------------------------------------------------------------


def test_more_streams_than_agreed_are_refused() -> None:
    with dispatching(max_streams=3) as dispatcher:
        streams = [dispatcher.create_stream() for _ in range(3)]
        with pytest.raises(OverloadError, match="3 streams are open"):
            dispatcher.create_stream()
        streams[0].close()
        streams.append(dispatcher.create_stream())
        with pytest.raises(OverloadError):
            dispatcher.create_stream()
        del streams[1]
        gc.collect()
        assert heard_by(dispatcher.create_stream(), babble(5000)).text == text_of(babble(5000))


def test_a_full_dispatcher_is_not_held_up_by_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for forgotten streams takes the time of all that the process holds."""
    looked = []
    monkeypatch.setattr("ds2_deploy.streaming.dispatcher.gc.collect", lambda: looked.append(1))
    with dispatching(max_streams=1) as dispatcher:
        held = dispatcher.create_stream()
        for _ in range(5):
            with pytest.raises(OverloadError):
                dispatcher.create_stream()
        assert len(looked) == 1
        assert not held.finished


def test_a_stream_is_reset_when_its_listener_has_heard_all() -> None:
    """Else a service that uses it again takes the end of one recording for the beginning of the next."""
    hearing, go_on, told = threading.Event(), threading.Event(), []

    def listener(result: StreamResult) -> None:
        hearing.set()
        go_on.wait(10)
        told.append(result.text)

    with dispatching() as dispatcher:
        stream = dispatcher.create_stream(on_result=listener)
        feed(stream, audio_of("ab" + "_" * 8))  # two chunks, of which the second is told: no step follows
        assert hearing.wait(10)
        with held_up(stream.reset, 0.2):
            go_on.set()
        assert told


def test_a_stream_of_a_closed_dispatcher_does_not_wait_for_it() -> None:
    with dispatching() as dispatcher:
        stream = dispatcher.create_stream()
    stream.reset()
    feed(stream, babble(100))
    with pytest.raises(StreamError, match="dispatcher was closed"):
        stream.input_finished()
    assert stream.wait(1)


def test_listeners_may_close_the_dispatcher_together() -> None:
    both = threading.Barrier(2)
    with dispatching(workers=2, max_batch=1) as dispatcher:

        def listener(_: StreamResult) -> None:
            both.wait(10)
            dispatcher.close()

        streams = [dispatcher.create_stream(on_result=listener) for _ in range(2)]
        for stream in streams:
            with suppress(StreamError):  # of the second not all may be taken
                feed(stream, audio_of("ab" + "_" * 20))
        for worker in dispatcher._workers:
            worker.join(10)
            assert not worker.is_alive()


WAITING: dict[str, Callable[[Stream], object]] = {
    "wait": lambda stream: stream.wait(),
    "feed": lambda stream: feed(stream, babble(100)),
    "end": lambda stream: stream.input_finished(),
    "reset": lambda stream: stream.reset(),
}


@pytest.mark.parametrize("name", WAITING)
def test_a_listener_does_not_wait_for_itself(name: str) -> None:
    """With its only worker gone, the dispatcher would never step again, nor close."""
    refused: list[StreamError] = []

    def listener(_: StreamResult) -> None:
        for stream in streams:  # its own, and another one's
            with pytest.raises(StreamError, match="listener must not") as caught:
                WAITING[name](stream)
            refused.append(caught.value)

    with dispatching() as dispatcher:
        streams = [dispatcher.create_stream(on_result=listener) for _ in range(2)]
        for stream in streams:
            assert heard_by(stream, babble(6000)).text == text_of(babble(6000))
        assert until(lambda: len(refused) >= 4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no process")
def test_a_forked_process_is_told_so() -> None:
    """Workers stay behind: a stream would never be stepped."""
    with dispatching() as dispatcher:
        stream = dispatcher.create_stream()
        feed(stream, babble(6000))
        uses = [*WAITING.values(), lambda _: dispatcher.create_stream(), lambda s: s.result, lambda s: s.take_finals()]
        if (child := os.fork()) == 0:
            signal.alarm(10)  # ends it where it hangs
            refused, code = 0, 255
            try:
                for use in uses:
                    try:
                        use(stream)
                    except StreamError as error:
                        refused += "after forking" in str(error)
                stream.close()
                dispatcher.close()
                code = refused
            finally:
                os._exit(code)  # and not on into a second run of the tests
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(uses)
        stream.input_finished()
        assert stream.wait(10)
        assert stream.result.text == text_of(babble(6000))


def test_a_stream_forgotten_half_way_is_gone() -> None:
    with dispatching() as dispatcher:
        stream = dispatcher.create_stream()
        feed(stream, babble(5000))
        assert stream.wait(10)
        forgotten = weakref.ref(stream)
        del stream

        def gone() -> bool:
            gc.collect()
            return forgotten() is None

        assert until(gone)  # the worker may still be at its last lines
        assert len(dispatcher._streams) == 0


def test_thousands_come_and_go_and_leave_nothing() -> None:
    with dispatching(workers=2, max_streams=3000) as dispatcher:
        for _ in range(2000):
            feed(dispatcher.create_stream(), tone(1, 1.5))
        assert until(lambda: not dispatcher._queue and not dispatcher._queued)
        gc.collect()
        assert until(lambda: len(dispatcher._streams) == 0)


def test_a_stream_that_failed_keeps_no_other_alive() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        held = hold(backend, dispatcher)
        bad, good = dispatcher.create_stream(), dispatcher.create_stream()
        feed(bad, np.full(CHUNK, backend.poison, dtype=np.float32))
        feed(good, tone(2, 1))
        backend.gate.set()
        assert all(stream.wait(10) for stream in (held, bad, good))
        with pytest.raises(InferenceError):
            _ = bad.result
        assert [len(rows) for rows in backend.rows] == [1, 2, 1, 1]  # they were together
        forgotten = weakref.ref(good)
        del good

        def gone() -> bool:
            gc.collect()
            return forgotten() is None

        assert until(gone, 1.0)


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_stream_the_model_fails_on_fails_alone() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        streams = {mark: dispatcher.create_stream() for mark in range(2, 8)}
        for mark, stream in streams.items():
            feed(stream, tone(mark, 1))
        assert all(stream.wait(10) for stream in streams.values())
        held = hold(backend, dispatcher)
        for mark, stream in streams.items():
            feed(stream, tone(mark, 1))
        bad = dispatcher.create_stream()
        feed(bad, np.full(CHUNK, backend.poison, dtype=np.float32))
        backend.gate.set()
        assert held.wait(10)
        assert bad.wait(10)
        for use in (lambda: bad.result, bad.take_finals, bad.input_finished, lambda: feed(bad, tone(1, 1))):
            with pytest.raises(InferenceError, match="does not like this"):
                use()
        for mark, stream in streams.items():
            assert heard_by(stream, tone(mark, 1.5)).text == text_of(tone(mark, 3.5))
        assert heard_by(dispatcher.create_stream(), babble(7000)).text == text_of(babble(7000))
        bad.reset()
        assert heard_by(bad, babble(7000)).text == text_of(babble(7000))


@pytest.mark.parametrize("error", [InferenceError("no memory"), RuntimeError("a bug"), MemoryError()])
def test_a_model_that_always_fails_is_heard_by_all(error: Exception) -> None:
    backend = FakeStreamBackend()

    def fail() -> None:
        raise error

    backend.before_step = fail
    with dispatching(backend, workers=2) as dispatcher:
        streams = [dispatcher.create_stream() for _ in range(6)]
        feeders = [Feeder(stream, babble(30 * CHUNK)) for stream in streams]
        for feeder, stream in zip(feeders, streams, strict=True):
            feeder.join(10)
            assert type(feeder.error) is type(error)
            with pytest.raises(type(error)):
                _ = stream.result
        backend.before_step = lambda: None
        assert heard_by(dispatcher.create_stream(), babble(7000)).text == text_of(babble(7000))


# --- the end ------------------------------------------------------------------------------------------------------


def test_closing_tells_those_who_wait() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        done = dispatcher.create_stream()
        text = heard_by(done, babble(4000)).text
        held = hold(backend, dispatcher)
        idle, queued, sending = (dispatcher.create_stream() for _ in range(3))
        feed(queued, tone(2, 1))
        feeder = Feeder(sending, babble(60 * CHUNK))
        assert until(lambda: sending._waiting >= MAX_WAITING_CHUNKS * CHUNK)
        steps = len(backend.rows)
        closing = threading.Thread(target=dispatcher.close)
        closing.start()
        assert until(lambda: dispatcher._closed)
        backend.gate.set()
        closing.join(10)
        feeder.join(10)
        assert not closing.is_alive()
        assert len(backend.rows) == steps  # none after the one under way
        assert isinstance(feeder.error, StreamError)
        for stream in (held, idle, queued, sending):
            assert stream.wait(10)
            for use in (lambda s=stream: s.result, lambda s=stream: feed(s, tone(1, 1)), stream.input_finished):
                with pytest.raises(StreamError, match="dispatcher was closed"):
                    use()
        assert done.result.text == text == text_of(babble(4000))  # what is complete stays
        with pytest.raises(StreamError, match="dispatcher was closed"):
            dispatcher.create_stream()
        dispatcher.close()


def test_a_context_ends_its_workers() -> None:
    with dispatching(workers=3) as dispatcher:
        assert sum(worker.is_alive() for worker in dispatcher._workers) == 3
        heard_by(dispatcher.create_stream(), babble(3000))
    assert not any(worker.is_alive() for worker in dispatcher._workers)
    with pytest.raises(DS2Error):
        dispatcher.create_stream()


def test_a_closed_dispatcher_is_not_kept_for_the_end_of_the_program() -> None:
    """Nor its model."""
    backend = FakeStreamBackend()
    kept = weakref.ref(backend)
    Dispatcher(backend, METADATA, GreedyDecoder(ENGLISH)).close()
    del backend
    gc.collect()
    assert kept() is None


def test_closing_a_stream_frees_who_feeds_it() -> None:
    backend = FakeStreamBackend()
    with dispatching(backend) as dispatcher:
        backend.gate.clear()
        stream = dispatcher.create_stream()
        feeder = Feeder(stream, babble(60 * CHUNK))
        assert until(lambda: stream._waiting >= MAX_WAITING_CHUNKS * CHUNK)
        stream.close()
        feeder.join(10)
        assert isinstance(feeder.error, StreamError)
        backend.gate.set()
        assert heard_by(dispatcher.create_stream(), babble(7000)).text == text_of(babble(7000))


# --- listeners ----------------------------------------------------------------------------------------------------


def test_listeners_are_told_by_workers_and_in_order() -> None:
    told: dict[int, list[StreamResult]] = {seed: [] for seed in range(4)}
    threads: set[str] = set()
    ends = {seed: threading.Event() for seed in range(4)}

    def listener(seed: int) -> Callable[[StreamResult], None]:
        def listen(result: StreamResult) -> None:
            threads.add(threading.current_thread().name)
            told[seed].append(result)
            if result.is_final:
                ends[seed].set()
            if seed == 3:
                raise RuntimeError("a bug of the caller's")

        return listen

    with dispatching(workers=2) as dispatcher:
        streams = [dispatcher.create_stream(on_result=listener(seed)) for seed in range(4)]
        for start in range(0, 20000, 2000):
            for seed, stream in enumerate(streams):
                stream.accept_waveform(babble(20000, seed=seed)[start : start + 2000], 16000)
        for stream in streams:
            stream.input_finished()
        assert all(end.wait(10) for end in ends.values())
    for seed, results in told.items():
        texts = [result.text for result in results]
        assert all(now.startswith(before) for before, now in itertools.pairwise(texts))
        assert [result.is_final for result in results] == [False] * (len(results) - 1) + [True]
        assert texts[-1] == text_of(babble(20000, seed=seed))
        assert len(texts) > 3
    assert all(name.startswith("ds2-stream") for name in threads)


def test_utterances_are_told_once_each() -> None:
    finals: list[str] = []
    pause = EndpointConfig(rule2=EndpointRule(must_contain_nonsilence=True, min_trailing_silence=0.2))
    with dispatching(workers=2) as dispatcher:
        stream = dispatcher.create_stream(
            endpoint=pause, on_result=lambda result: finals.append(result.text) if result.is_final else None
        )
        heard_by(stream, audio_of("h_i_" + "_" * 40 + "y_o_" + "_" * 40 + "a_b"), 777)
        assert until(lambda: len(finals) == 3)
        assert finals == [final.text for final in stream.take_finals()] == ["hi", "yo", "ab"]


def test_the_end_is_told_last() -> None:
    """Also where the end comes while a worker is still telling what went before."""
    told: list[tuple[str, bool]] = []
    telling, go_on = threading.Event(), threading.Event()

    def listen(result: StreamResult) -> None:
        telling.set()
        if not result.is_final:
            go_on.wait(10)
        told.append((result.text, result.is_final))

    with dispatching(FakeStreamBackend(lag=0)) as dispatcher:  # nothing is left to flush
        stream = dispatcher.create_stream(on_result=listen)
        feed(stream, audio_of("a_b_c"))
        assert telling.wait(10)
        end = threading.Thread(target=stream.input_finished)
        end.start()
        end.join(0.2)  # may wait for the listener or not
        go_on.set()
        end.join(10)
        assert until(lambda: len(told) == 2)
        assert told == [("abc", False), ("abc", True)]


def test_a_closed_stream_tells_nothing() -> None:
    told: list[StreamResult] = []
    backend = FakeStreamBackend(lag=0)
    with dispatching(backend) as dispatcher:
        backend.gate.clear()
        stream = dispatcher.create_stream(on_result=told.append)
        feed(stream, audio_of("a_b_c"))
        assert until(lambda: len(backend.rows) == 1)
        stream.close()
        backend.gate.set()
        assert heard_by(dispatcher.create_stream(), babble(4000)).text == text_of(babble(4000))  # after that step
    assert told == []


def test_whatever_a_listener_raises_other_streams_go_on() -> None:
    """A task that is cancelled raises what is no Exception."""

    def listen(_: StreamResult) -> None:
        raise asyncio.CancelledError

    with dispatching() as dispatcher:
        for stream in (dispatcher.create_stream(on_result=listen), dispatcher.create_stream()):
            assert heard_by(stream, babble(4000)).text == text_of(babble(4000))


def test_a_program_ends_with_its_own_code_while_streams_are_busy() -> None:
    """A worker within ONNX Runtime while the interpreter goes down would abort the process."""
    program = """
import sys, threading, time, numpy as np
from ds2_deploy.streaming.dispatcher import Dispatcher
streams = []
dispatcher = Dispatcher.open("streaming", backend="onnxruntime", device="cpu", threads=2)
sound = np.random.default_rng(0).standard_normal(60 * 16000).astype(np.float32) / 8
for _ in range(8):
    streams.append(dispatcher.create_stream())
    threading.Thread(target=streams[-1].accept_waveform, args=(sound, 16000), daemon=True).start()
while not all(stream.result.score for stream in streams):  # until each has been stepped
    time.sleep(0.01)
sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 3


def test_the_program_ends_though_a_listener_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = Dispatcher(FakeStreamBackend(), METADATA, GreedyDecoder(ENGLISH), workers=2)
    release = threading.Event()
    streams = [dispatcher.create_stream(on_result=lambda _: release.wait(10)) for _ in range(3)]
    for stream in streams:
        feed(stream, babble(4000))
    started = time.monotonic()
    dispatcher._close(0.2)  # as at the end
    assert time.monotonic() - started < 2
    assert streams[-1].wait(1)  # nobody will step it
    release.set()


@pytest.mark.parametrize(("device", "workers"), [("cpu", 3), ("cuda:0", GPU_WORKERS)])
def test_a_dispatcher_is_opened_with_the_models_language_model_and_the_devices_workers(
    device: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyctcdecode")
    from tests.test_beam import language_model

    backend = FakeStreamBackend()
    backend.device = device
    asked: dict[str, object] = {}
    monkeypatch.setattr(module, "open_stream_backend", lambda *_, **options: asked.update(options) or backend)
    (tmp_path / "lm").mkdir()
    language_model(["hello you"], tmp_path / "lm")
    (tmp_path / "metadata.json").write_text(METADATA.to_json())
    with Dispatcher.open(tmp_path, decoder="beam", threads=3) as dispatcher:
        assert dispatcher._decoder.has_lm  # type: ignore[attr-defined]
        assert len(dispatcher._workers) == workers
    assert asked["threads"] == 1  # of each worker's steps


@pytest.mark.parametrize(
    ("option", "value"), [("threads", 0), ("threads", 1.5), ("max_batch", 1.5), ("max_batch", 0), ("max_streams", None)]
)
def test_a_dispatcher_needs_whole_numbers(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option} is {value}: it must be at least 1 and a whole number"):
        Dispatcher.open(**{option: value})


def test_a_listener_may_end_its_stream() -> None:
    ended: list[str] = []
    with dispatching() as dispatcher:

        def listen(result: StreamResult) -> None:
            if not result.is_final:
                stream.close()
                ended.append(result.text)

        stream = dispatcher.create_stream(on_result=listen)
        feeder = Feeder(stream, babble(60 * CHUNK))
        feeder.join(10)
        assert isinstance(feeder.error, StreamError)
        assert len(ended) == 1
        assert heard_by(dispatcher.create_stream(), babble(4000)).text == text_of(babble(4000))
