"""Streams against whole recordings decoded at once: any cuts, any rate, endpoints, misuse and failures."""

import itertools
import math
import re
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soxr

from ds2_deploy.decoding.greedy import GreedyDecoder, GreedyStream
from ds2_deploy.errors import AudioError, DS2Error, InferenceError, ModelError, StreamError
from ds2_deploy.model_folder import BUNDLED
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.runtime.protocol import Backend, Step
from ds2_deploy.streaming.endpoint import EndpointConfig, EndpointRule
from ds2_deploy.streaming.stream import Stream, StreamResult
from ds2_deploy.text.alphabet import ENGLISH
from tests.fake_stream import (
    CHUNK,
    METADATA,
    UNIT,
    FakeStreamBackend,
    Samples,
    audio_of,
    babble,
    emissions_of,
    feed,
    heard_by,
    log_probs_of,
    own_stream,
    text_of,
)

LENGTHS = [0, 1, UNIT - 1, UNIT, UNIT + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 7 * CHUNK, 12345, 16000]
NEVER = EndpointRule(min_utterance_length=1e9)
PAUSE = EndpointConfig(rule2=EndpointRule(must_contain_nonsilence=True, min_trailing_silence=0.2))


class Listening(GreedyDecoder):
    """Keeps the emissions it is given."""

    def __init__(self) -> None:
        super().__init__(ENGLISH)
        self.heard: list[Samples] = [np.zeros((0, len(ENGLISH)), dtype=np.float32)]

    def start(self) -> GreedyStream:
        stream, accept = super().start(), GreedyStream.accept

        def noting(log_probs: Samples) -> None:
            self.heard.append(log_probs.copy())
            accept(stream, log_probs)

        stream.accept = noting  # type: ignore[method-assign]
        return stream


def random_cuts(samples: Samples, seed: int) -> list[Samples]:
    """Pieces of any size, empty ones, too."""
    places = np.sort(np.random.default_rng(seed).integers(0, len(samples) + 1, 30).repeat(2))
    return np.split(samples, places.tolist())


# --- cuts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("size", [1, 160, 1601, 10**6])
def test_cuts_leave_no_trace(length: int, size: int) -> None:
    samples = babble(min(length, 4000 if size == 1 else length), seed=length)
    whole = GreedyDecoder(ENGLISH).decode(emissions_of(samples))
    decoder = Listening()
    result = heard_by(own_stream(decoder=decoder), samples, size)
    np.testing.assert_array_equal(np.concatenate(decoder.heard), emissions_of(samples))
    assert result.text == result.stable == text_of(samples) == whole.text
    assert result.score == pytest.approx(whole.score, rel=1e-5)
    assert result.is_final


@pytest.mark.parametrize("seed", range(5))
def test_random_cuts_leave_no_trace(seed: int) -> None:
    samples = babble(20000 + seed, seed=seed)
    decoder = Listening()
    stream = own_stream(decoder=decoder)
    for piece in random_cuts(samples, seed):
        stream.accept_waveform(piece, 16000)
    stream.input_finished()
    np.testing.assert_array_equal(np.concatenate(decoder.heard), emissions_of(samples))
    assert stream.result.text == text_of(samples)
    assert len(text_of(samples)) > 40  # the truth is not empty, either


@pytest.mark.parametrize("lag", [0, 1, 30])
def test_what_the_layers_hold_back_comes_out(lag: int) -> None:
    samples = babble(5 * CHUNK)
    result = heard_by(own_stream(FakeStreamBackend(lag=lag)), samples)
    assert (result.text, result.is_final) == (text_of(samples), True)


def test_silence_has_a_score_too() -> None:
    samples = np.zeros(16000, dtype=np.float32)
    result = heard_by(own_stream(), samples)
    assert (result.text, result.is_final) == ("", True)
    assert result.score == pytest.approx(GreedyDecoder(ENGLISH).decode(emissions_of(samples)).score, rel=1e-5)


def test_nothing_is_an_empty_and_final_result() -> None:
    stream = own_stream()
    stream.input_finished()
    assert stream.result == StreamResult("", "", True, 0.0, 0.0, 0.0)
    assert stream.finished
    assert stream.take_finals() == []


def test_the_caller_may_use_its_buffer_again() -> None:
    samples, stream, buffer = babble(8000), own_stream(), np.empty(500, dtype=np.float32)
    for start in range(0, 8000, 500):
        buffer[:] = samples[start : start + 500]
        stream.accept_waveform(buffer, 16000)
        buffer[:] = 0.9
    stream.input_finished()
    assert stream.result.text == text_of(samples)


def test_any_array_of_floats_will_do(tmp_path: Path) -> None:
    samples = babble(8000)
    np.save(tmp_path / "samples.npy", samples)
    frozen = samples.copy()
    frozen.flags.writeable = False
    strided = np.stack([samples, samples], axis=1)[:, 0]
    mapped = np.load(tmp_path / "samples.npy", mmap_mode="r")
    for rate, text in ((16000, text_of(samples)), (8000, heard_by(own_stream(), samples, rate=8000).text)):
        for same in (samples.astype(np.float64), samples.astype(">f4"), strided, frozen, mapped):
            assert heard_by(own_stream(), same, rate=rate).text == text  # type: ignore[arg-type]


# --- rates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_are_resampled_without_seams(rate: int) -> None:
    samples = babble(rate // 2 + 7, seed=rate)
    resampled = soxr.resample(samples, rate, 16000)
    expected = heard_by(own_stream(), resampled)
    assert expected.text == text_of(resampled)
    assert len(expected.text) > 10
    for pieces in ([samples], np.split(samples, range(0, len(samples), 1601)), random_cuts(samples, rate)):
        stream = own_stream()
        for piece in pieces:
            stream.accept_waveform(piece, rate)
        stream.input_finished()
        assert stream.result.text == expected.text
        assert stream.result.score == pytest.approx(expected.score, rel=1e-5)


def test_one_sample_at_a_time_is_resampled_too() -> None:
    samples = babble(3000, seed=3)
    assert heard_by(own_stream(), samples, 1, 8000).text == text_of(soxr.resample(samples, 8000, 16000))


@pytest.mark.parametrize("rate", [1000, 11025, 22050, 192_000, 1_000_000])
def test_rates_at_the_edge(rate: int) -> None:
    samples = babble(rate // 4, seed=1)
    assert heard_by(own_stream(), samples, 999, rate).text == text_of(soxr.resample(samples, rate, 16000))


# --- results ------------------------------------------------------------------------------------------------------


def test_results_grow_and_what_is_stable_stays() -> None:
    samples = audio_of("_t_h_e_ _q_u_i_c_k_ _ _b_r_o_w_n_ _f_o_x__ " + "_" * 20)
    stream, seen = own_stream(), [StreamResult("", "", False, 0.0, 0.0, 0.0)]
    for start in range(0, len(samples), 700):
        stream.accept_waveform(samples[start : start + 700], 16000)
        seen.append(stream.result)
    assert not any(result.is_final for result in seen)
    stream.input_finished()
    final = stream.result
    assert (final.text, final.stable, final.is_final) == ("the quick brown fox", "the quick brown fox", True)
    for before, now in itertools.pairwise([*seen, final]):
        assert now.text.startswith(before.text)
        assert now.stable.startswith(before.stable)
    words = ["", "the", "the quick", "the quick brown", "the quick brown fox"]
    assert list(dict.fromkeys(result.stable for result in [*seen, final])) == words  # at word boundaries alone
    assert len({result.text for result in seen}) > 6


def test_times_of_the_first_and_last_letter() -> None:
    result = heard_by(own_stream(), audio_of("_" * 10 + "h_i_ _" + "_" * 20))
    assert result.text == "hi"
    assert [result.start_s, result.end_s] == pytest.approx([0.2, 0.26])


def test_finals_are_taken_once() -> None:
    stream = own_stream()
    feed(stream, audio_of("_a_b"))
    assert stream.take_finals() == []
    stream.input_finished()
    assert [final.text for final in stream.take_finals()] == ["ab"]
    assert stream.take_finals() == []
    assert stream.result.text == "ab"


# --- endpoints ----------------------------------------------------------------------------------------------------
# Of these frames 3 come out of the second chunk and 5 of every later one: an utterance ends at frame 3, 8, 13, ...


def test_a_pause_ends_an_utterance() -> None:
    stream = own_stream(endpoint=PAUSE)
    samples = audio_of("_" * 5 + "h_i_" + "_" * 40 + "y_o_" + "_" * 40)  # h at 5, i at 7; y at 49, o at 51
    results = []
    for start in range(0, len(samples), 1601):
        stream.accept_waveform(samples[start : start + 1601], 16000)
        results += stream.take_finals()
    stream.input_finished()
    assert stream.take_finals() == []
    assert [(result.text, result.stable, result.is_final) for result in results] == [
        ("hi", "hi", True),
        ("yo", "yo", True),
    ]
    times = [(result.start_s, result.end_s) for result in results]
    np.testing.assert_allclose(times, [(5 * 0.02, 8 * 0.02), (49 * 0.02, 52 * 0.02)], atol=1e-9)
    assert stream.result[:3] == ("", "", True)  # since frame 62 there was silence alone
    assert [stream.result.start_s, stream.result.end_s] == pytest.approx([62 * 0.02, 62 * 0.02])


def test_an_utterance_in_progress_is_timed_from_the_begin_of_the_stream() -> None:
    stream = own_stream(endpoint=PAUSE)
    feed(stream, audio_of("_" * 5 + "h_i_" + "_" * 40 + "y_o_" + "_" * 8))  # y at 49, o at 51
    assert (stream.result.text, stream.result.is_final) == ("yo", False)
    assert [stream.result.start_s, stream.result.end_s] == pytest.approx([49 * 0.02, 52 * 0.02])


def test_what_is_heard_in_a_tail_is_timed_at_the_end_of_the_sound() -> None:
    class Ahead(FakeStreamBackend):
        def step(self, audio: Samples, lengths: npt.NDArray[np.int64], state: Samples) -> Step:
            """Eight frames, the last three of them a letter, where the sound has five."""
            return Step(log_probs_of(np.array([0] * 5 + [3] * 3), 0)[None], np.array([8]), state)

    stream = own_stream(Ahead())
    feed(stream, babble(CHUNK))
    assert [stream.result.start_s, stream.result.end_s] == pytest.approx([0.1, 0.1])


def test_the_score_of_an_utterance_is_that_of_its_frames() -> None:
    stream = own_stream(endpoint=PAUSE)
    samples = audio_of("_" * 5 + "h_i_" + "_" * 40 + "y_o_" + "_" * 40)
    feed(stream, samples)
    stream.input_finished()
    scores = [final.score for final in stream.take_finals()]
    best = emissions_of(samples).max(axis=1)
    # Silent since frame 8: over at 18. From there silent since 52: over at 62.
    assert scores == pytest.approx([float(best[:18].sum()), float(best[18:62].sum())], rel=1e-5)


@pytest.mark.parametrize("before", range(6))
def test_a_pause_ends_an_utterance_wherever_chunks_begin(before: int) -> None:
    """It is as long as the rule asks and not a frame longer; chunks have five frames."""
    stream = own_stream(endpoint=PAUSE)
    feed(stream, audio_of("_" * before + "hi" + "_" * 10 + "yo" + "_" * 9 + "ab" + "_" * 3))
    stream.input_finished()
    finals = stream.take_finals()
    assert [final.text for final in finals] == ["hi", "yoab"]
    assert [final.start_s for final in finals] == pytest.approx([before * 0.02, (before + 12) * 0.02])


def test_silence_restarts_the_clock_and_is_no_utterance() -> None:
    rules = EndpointConfig(
        rule1=EndpointRule(min_trailing_silence=1.0), rule2=NEVER, rule3=EndpointRule(min_utterance_length=3.0)
    )
    samples = audio_of("_" * 110 + "ab" * 40 + "_" * 20)
    stream = own_stream(endpoint=rules)
    feed(stream, samples)
    assert stream.take_finals() == []  # without restarts at frames 50 and 100 rule 3 would have cut at 150
    stream.input_finished()
    (final,) = stream.take_finals()
    assert final.text == "ab" * 40
    assert [final.start_s, final.end_s] == pytest.approx([2.2, 3.8])


def test_an_utterance_that_does_not_end_is_cut() -> None:
    path = "abc" * 100
    stream = own_stream(endpoint=EndpointConfig(rule3=EndpointRule(min_utterance_length=2.0)))
    feed(stream, audio_of(path))
    stream.input_finished()
    finals = stream.take_finals()
    assert [final.text for final in finals] == [path[:100], path[100:200], path[200:]]
    times = [(final.start_s, final.end_s) for final in finals]
    assert [(final.words[0].start_s, final.words[-1].end_s) for final in finals] == [
        pytest.approx(time) for time in times
    ]
    np.testing.assert_allclose(times, [(0, 2.0), (2.0, 4.0), (4.0, 6.0)], atol=1e-9)
    assert stream.result == finals[-1]


@pytest.mark.parametrize("size", [160, 1601, 10**6])
def test_utterances_joined_are_the_whole_text(size: int) -> None:
    rng = np.random.default_rng(4)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(1, 9))) for _ in range(40)]
    path = "".join("".join(f"{letter}_" for letter in word) + "_" * rng.choice([0, 3, 40]) + " " for word in words)
    stream = own_stream(endpoint=PAUSE)
    whole = heard_by(own_stream(), audio_of(path))
    feed(stream, audio_of(path), size)
    stream.input_finished()
    texts = [final.text for final in stream.take_finals()]
    assert len(texts) > 5
    assert " ".join(texts).split() == whole.text.split() == words


# --- reset and close ----------------------------------------------------------------------------------------------


def test_reset_is_as_new() -> None:
    stream = own_stream()
    first, second = babble(7000, seed=1), babble(9999, seed=2)
    assert heard_by(stream, first, rate=8000).text == text_of(soxr.resample(first, 8000, 16000))
    stream.reset()
    assert stream.result == StreamResult("", "", False, 0.0, 0.0, 0.0)
    assert stream.take_finals() == []
    assert not stream.finished
    result = heard_by(stream, second)  # at another rate, too
    assert (result.text, result.start_s) == (text_of(second), heard_by(own_stream(), second).start_s)
    stream.reset()
    feed(stream, first)  # half-way
    stream.reset()
    assert heard_by(stream, second) == result


def test_a_context_closes_its_stream() -> None:
    with own_stream() as stream:
        feed(stream, babble(5000))
        assert stream.result.text
    with pytest.raises(StreamError, match="closed"):
        feed(stream, babble(5000))


def test_a_closed_stream_says_so() -> None:
    stream = own_stream()
    feed(stream, babble(5000))
    stream.close()
    stream.close()
    for use in (
        stream.input_finished,
        stream.take_finals,
        stream.reset,
        lambda: stream.result,
        lambda: feed(stream, babble(9)),
    ):
        with pytest.raises(StreamError, match="closed"):
            use()
    assert stream.wait(1)


# --- misuse -------------------------------------------------------------------------------------------------------


def with_one(value: float) -> Samples:
    samples = babble(2000)
    samples[1234] = value
    return samples


BAD_CALLS: dict[str, tuple[type[DS2Error], str, Callable[[Stream], None]]] = {
    "list": (AudioError, "list", lambda s: s.accept_waveform([0.0, 0.1], 16000)),  # type: ignore[arg-type]
    "none": (AudioError, "NoneType", lambda s: s.accept_waveform(None, 16000)),  # type: ignore[arg-type]
    "bytes": (AudioError, "bytes", lambda s: s.accept_waveform(b"1234", 16000)),  # type: ignore[arg-type]
    "int16": (AudioError, "divide by 32768", lambda s: s.accept_waveform(np.zeros(9, dtype=np.int16), 16000)),
    "int32": (AudioError, "divide by 2147483648", lambda s: s.accept_waveform(np.zeros(9, np.int32), 16000)),
    "uint8": (AudioError, "uint8", lambda s: s.accept_waveform(np.zeros(9, dtype=np.uint8), 16000)),
    "complex": (AudioError, "complex", lambda s: s.accept_waveform(np.zeros(9, np.complex64), 16000)),
    "2-D": (AudioError, r"\(800, 2\)", lambda s: s.accept_waveform(babble(1600).reshape(-1, 2), 16000)),
    "0-D": (AudioError, "one dimension", lambda s: s.accept_waveform(np.array(0.5, dtype=np.float32), 16000)),
    "NaN": (AudioError, "NaN", lambda s: s.accept_waveform(with_one(math.nan), 16000)),
    "inf": (AudioError, "infinite", lambda s: s.accept_waveform(with_one(-math.inf), 16000)),
    "huge": (AudioError, "large", lambda s: s.accept_waveform(with_one(1e20), 16000)),
    "another rate": (StreamError, "changed from 16000 to 8000", lambda s: s.accept_waveform(babble(2000), 8000)),
    "a rate in words": (StreamError, "from 16000 to '16000'", lambda s: s.accept_waveform(babble(2000), "16000")),  # type: ignore[arg-type]
    "rate 0": (DS2Error, "rate", lambda s: s.accept_waveform(babble(2000), 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_one_sentence_and_takes_nothing(name: str) -> None:
    error, words, call = BAD_CALLS[name]
    samples, stream = babble(12345), own_stream()
    stream.accept_waveform(samples[:5000], 16000)
    before = stream.result
    with pytest.raises(error, match=words) as caught:
        call(stream)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert stream.result == before
    stream.accept_waveform(samples[5000:], 16000)
    stream.input_finished()
    assert stream.result.text == text_of(samples)


@pytest.mark.parametrize("before", range(5))
def test_a_listener_that_resets_hears_no_more_of_the_recording(before: int) -> None:
    """Though several utterances ended in one step."""
    told = []

    def listener(result: StreamResult) -> None:
        told.append(result.text)
        if result.is_final:
            stream.reset()

    rule = EndpointRule(must_contain_nonsilence=True, min_trailing_silence=0.02)
    stream = own_stream(endpoint=EndpointConfig(rule2=rule), on_result=listener)
    with suppress(StreamError):  # what is left of the samples belongs to the next recording
        feed(stream, audio_of("_" * before + "hi_yo___"), 10**6)
        stream.input_finished()
    assert "hi" in told
    assert "yo" not in told


def test_what_ended_before_the_decoder_failed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told, accept = [], GreedyStream.accept

    def failing(self: GreedyStream, log_probs: Samples) -> None:
        if (log_probs.argmax(axis=1) == ENGLISH.labels.index("y")).any():
            raise ValueError("The decoder does not like y.")
        accept(self, log_probs)

    monkeypatch.setattr(GreedyStream, "accept", failing)
    rule = EndpointRule(must_contain_nonsilence=True, min_trailing_silence=0.02)
    stream = own_stream(endpoint=EndpointConfig(rule2=rule), on_result=lambda result: told.append(result))
    with suppress(DS2Error, ValueError):
        feed(stream, audio_of("__hi_yo___"), 10**6)
        stream.input_finished()
    assert ("hi", True) in [(result.text, result.is_final) for result in told]


def test_a_rate_may_be_a_whole_float() -> None:
    """As sound libraries give it."""
    samples = babble(5000)
    assert heard_by(own_stream(), samples, rate=16000.0).text == text_of(samples)  # type: ignore[arg-type]
    assert heard_by(own_stream(), samples, rate=np.float32(16000)).text == text_of(samples)  # type: ignore[arg-type]


def test_an_interrupt_in_the_decoder_leaves_a_stream_that_can_be_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, samples = own_stream(), audio_of("hi" + "_" * 30)
    feed(stream, samples)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(stream._decoder), "accept", interrupted)
        with pytest.raises(KeyboardInterrupt):
            feed(stream, samples)
    assert stream.wait(1)
    stream.input_finished()
    assert stream.finished
    assert stream.result.text.startswith("hi")


@pytest.mark.parametrize("where", ["model", "listener"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_an_interrupt_loses_nothing_of_what_was_given(where: str, error: type[BaseException]) -> None:
    backend, samples, left = FakeStreamBackend(), babble(32000), [3]

    def interrupt(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error

    if where == "model":
        backend.before_step = interrupt
    stream = own_stream(backend, on_result=interrupt if where == "listener" else None)
    with pytest.raises(error):
        stream.accept_waveform(samples, 16000)
    stream.input_finished()
    assert stream.result == heard_by(own_stream(), samples)


def test_a_stream_closed_before_an_interrupt_keeps_nothing() -> None:
    backend = FakeStreamBackend()

    def interrupt() -> None:
        stream.close()
        raise KeyboardInterrupt

    backend.before_step = interrupt
    stream = own_stream(backend)
    with pytest.raises(KeyboardInterrupt):
        stream.accept_waveform(babble(32000), 16000)
    assert (stream._waiting, len(stream._pending)) == (0, 0)


@pytest.mark.parametrize(
    "rate", [0, -1, 1.5, 16000.5, True, 999, 1_000_001, 10**30, math.inf, math.nan, None, "16000", "high"]
)
def test_rates_that_cannot_be(rate: int) -> None:
    samples, stream = babble(5000), own_stream()
    with pytest.raises(AudioError, match=re.escape(f"The sample rate is {rate!r}: ")) as caught:
        stream.accept_waveform(samples, rate)
    assert str(caught.value).endswith(".")
    assert heard_by(stream, samples, rate=8000).text == text_of(soxr.resample(samples, 8000, 16000))


@pytest.mark.parametrize("call", ["input_finished", "accept_waveform"])
def test_nothing_comes_after_the_end(call: str) -> None:
    stream = own_stream()
    result = heard_by(stream, babble(5000))
    with pytest.raises(StreamError, match=r"finished.*reset"):
        stream.input_finished() if call == "input_finished" else stream.accept_waveform(babble(10), 16000)
    assert stream.result == result
    assert [final.text for final in stream.take_finals()] == [text_of(babble(5000))]


# --- listeners ----------------------------------------------------------------------------------------------------


def test_a_listener_hears_everything_in_order() -> None:
    told: list[StreamResult] = []
    stream = own_stream(endpoint=PAUSE, on_result=told.append)
    # Each in the five frames of one chunk, 8 to 12 and 48 to 52; silent since 11 and 51, over at 23 and 63.
    feed(stream, audio_of("_" * 8 + "h_i_" + "_" * 36 + "h_i_" + "_" * 30), 700)
    stream.input_finished()
    assert [(result.text, result.is_final) for result in told] == [("hi", False), ("hi", True)] * 2
    assert [result for result in told if result.is_final] == stream.take_finals()


def test_a_listener_hears_of_growth_alone() -> None:
    told: list[StreamResult] = []
    samples = babble(16000, seed=8)
    heard_by(own_stream(on_result=told.append), samples, 100)
    texts = [result.text for result in told if not result.is_final]
    assert all(now.startswith(before) and now != before for before, now in itertools.pairwise(["", *texts]))
    assert len(texts) > 5
    assert [result.is_final for result in told] == [False] * len(texts) + [True]
    assert told[-1].text == text_of(samples)


def test_silence_is_not_told() -> None:
    told: list[StreamResult] = []
    stream = own_stream(endpoint=EndpointConfig(rule1=EndpointRule(min_trailing_silence=0.5)), on_result=told.append)
    heard_by(stream, np.zeros(32000, dtype=np.float32))
    assert told == []


def test_a_listener_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """Once in the log, without what was said."""
    told: list[StreamResult] = []

    def listener(result: StreamResult) -> None:
        told.append(result)
        raise RuntimeError("a bug of the caller's")

    samples = babble(12345)
    assert heard_by(own_stream(on_result=listener), samples).text == text_of(samples)
    assert told[-1].text == text_of(samples)
    assert len(told) > 3
    (record,) = caplog.records
    assert record.exc_info
    assert told[0].text not in record.getMessage()


def test_a_listener_may_look_at_its_stream() -> None:
    seen: list[str] = []
    stream = own_stream(on_result=lambda result: seen.append(stream.result.text))
    heard_by(stream, babble(8000))
    assert seen[-1] == text_of(babble(8000))


def test_a_listener_does_not_wait_for_its_stream() -> None:
    """Which is stepped in this very thread."""
    refused: list[bool] = []

    def listener(result: StreamResult) -> None:
        with pytest.raises(StreamError, match="listener must not"):
            stream.wait()
        refused.append(result.is_final)

    stream = own_stream(on_result=listener)
    assert heard_by(stream, babble(8000)).text == text_of(babble(8000))
    assert refused[-1]


# --- failures -----------------------------------------------------------------------------------------------------


def failing_stream() -> Stream:
    """One whose model fails on the third chunk."""
    stream = own_stream()
    samples = babble(8 * CHUNK)
    samples[2 * CHUNK + 5] = FakeStreamBackend.poison
    with pytest.raises(InferenceError, match="does not like this"):
        stream.accept_waveform(samples, 16000)
    return stream


def test_the_error_of_the_model_is_raised_everywhere() -> None:
    stream = failing_stream()
    for use in (stream.input_finished, stream.take_finals, lambda: stream.result, lambda: feed(stream, babble(9))):
        with pytest.raises(InferenceError, match="does not like this"):
            use()
    assert stream.wait(1)
    assert not stream.finished
    stream.close()
    with pytest.raises(InferenceError, match="does not like this"):  # why it ended, not that it did
        _ = stream.result


def test_utterances_that_ended_before_the_model_failed_can_be_taken() -> None:
    stream = own_stream(endpoint=PAUSE)
    feed(stream, audio_of("hi" + "_" * 40))
    with pytest.raises(InferenceError):
        feed(stream, np.full(3 * CHUNK, FakeStreamBackend.poison, dtype=np.float32))
    assert [final.text for final in stream.take_finals()] == ["hi"]
    with pytest.raises(InferenceError, match="does not like this"):
        stream.take_finals()


def test_an_error_in_the_last_chunk_is_heard_later() -> None:
    stream = own_stream()
    stream.accept_waveform(np.full(CHUNK, FakeStreamBackend.poison, dtype=np.float32), 16000)
    with pytest.raises(InferenceError):
        _ = stream.result


def test_reset_after_an_error_is_as_new() -> None:
    stream, samples = failing_stream(), babble(9999)
    stream.reset()
    assert heard_by(stream, samples).text == text_of(samples)


def test_an_error_asked_for_often_does_not_grow() -> None:
    stream = failing_stream()
    lengths = []
    for _ in range(20):
        with pytest.raises(InferenceError) as caught:
            _ = stream.result
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert lengths[-1] <= lengths[0]


# --- the recogniser's ---------------------------------------------------------------------------------------------


class NoBackend:
    """For recognisers that only stream."""

    name, device = "none", "cpu"
    run: Backend


def streaming_alone(open_streams: Callable[[], FakeStreamBackend] | None) -> Recognizer:
    return Recognizer(
        metadata=METADATA,
        backend=NoBackend(),  # type: ignore[arg-type]
        decoder=GreedyDecoder(ENGLISH),
        open_streams=open_streams,
    )


def test_a_recognizer_loads_its_streaming_model_once() -> None:
    loaded: list[FakeStreamBackend] = []

    def load() -> FakeStreamBackend:
        loaded.append(FakeStreamBackend())
        return loaded[-1]

    recognizer = streaming_alone(load)
    assert loaded == []
    told: list[StreamResult] = []
    streams = [recognizer.create_stream(), recognizer.create_stream(endpoint=PAUSE, on_result=told.append)]
    samples = [babble(5000, seed=1), audio_of("a_" + "_" * 40)]
    for start in range(0, 15000, 500):  # side by side
        for stream, recording in zip(streams, samples, strict=True):
            stream.accept_waveform(recording[start : start + 500], 16000)
    for stream in streams:
        stream.input_finished()
    assert streams[0].result.text == text_of(samples[0])
    assert [final.text for final in streams[1].take_finals()] == ["a"]
    assert "a" in [result.text for result in told if result.is_final]
    assert len(loaded) == 1


@pytest.mark.parametrize("name", ["stream.onnx", "metadata.json"])
def test_a_model_that_was_replaced_is_not_heard_beside_the_first(tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    model = shutil.copytree(BUNDLED / "streaming", tmp_path / "model")
    first, second = (Recognizer.open(model, backend="onnxruntime", device="cpu", threads=1) for _ in range(2))
    first.create_stream()
    shutil.copy(model / name, tmp_path / "new")
    (tmp_path / "new").replace(model / name)  # as an export puts it there
    first.create_stream()  # is loaded
    with pytest.raises(ModelError, match=r"other files than when it was opened: open the model again\.$"):
        second.create_stream()
    Recognizer.open(model, backend="onnxruntime", device="cpu", threads=1).create_stream()


def test_threads_that_ask_together_load_one_model() -> None:
    """Python 3.12 has no lock in its cached_property."""
    loaded: list[FakeStreamBackend] = []

    def load() -> FakeStreamBackend:
        time.sleep(0.05)
        loaded.append(FakeStreamBackend())
        return loaded[-1]

    recognizer = streaming_alone(load)
    threads = [threading.Thread(target=recognizer.create_stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(loaded) == 1


def test_a_recognizer_of_whole_recordings_cannot_stream() -> None:
    with pytest.raises(ModelError, match=r"Recognizer\.open"):
        streaming_alone(None).create_stream()


def test_a_listener_that_ends_its_stream_ends_it() -> None:
    streams: list[Stream] = []
    streams.append(own_stream(on_result=lambda result: streams[0].input_finished()))
    with pytest.raises(StreamError, match="finished"):  # of the rest of the array
        streams[0].accept_waveform(babble(50 * CHUNK), 16000)
    assert streams[0].finished


def test_a_model_that_never_flushes_is_given_up() -> None:
    class Miser(FakeStreamBackend):
        def step(
            self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], state: npt.NDArray[np.float32]
        ) -> Step:
            step = super().step(audio, lengths, state)
            return step._replace(lengths=np.zeros_like(step.lengths))

    stream = own_stream(Miser())
    with pytest.raises(InferenceError, match=r"gave 0 of \d+ frames"):
        heard_by(stream, babble(5 * CHUNK))


def test_a_label_that_goes_on_across_a_cut_is_not_a_second_one() -> None:
    cut = EndpointConfig(rule3=EndpointRule(min_utterance_length=0.2))
    stream = own_stream(endpoint=cut)
    samples = audio_of("_" + "w" * 30 + "_o_ooo_" + "d" * 20)
    feed(stream, samples, CHUNK)
    stream.input_finished()
    finals = stream.take_finals()
    assert "".join(final.text for final in finals) == text_of(samples).replace(" ", "") == "wood"


def test_closing_while_a_reset_waits_closes() -> None:
    stream, closed = own_stream(), threading.Event()
    row = np.empty(CHUNK, dtype=np.float32)
    with stream._changed:  # a step under way, as a dispatcher's worker would have it
        stream._pending.append(babble(CHUNK))
        stream._waiting = CHUNK
    assert stream.take(row) is not None

    def reset() -> None:
        with pytest.raises(StreamError, match="closed"):
            stream.reset()
        closed.set()

    threading.Thread(target=reset, daemon=True).start()
    stream.close()
    stream.put(np.zeros((0, len(ENGLISH)), dtype=np.float32), np.zeros(1, dtype=np.float32))
    assert closed.wait(10)
    with pytest.raises(StreamError, match="closed"):
        stream.accept_waveform(babble(10), 16000)
