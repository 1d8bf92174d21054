"""Long recordings: cut in their pauses, no speech lost, and the same text as their parts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ds2_deploy.audio import segments as module
from ds2_deploy.audio.load import load_audio
from ds2_deploy.audio.segments import FRAME_MS, Segment, segments
from tests.conftest import Ds2, noise

RATE = 16000
FRAME = RATE * FRAME_MS // 1000
Samples = npt.NDArray[np.float32]


@pytest.fixture
def loud_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that anybody can foretell: a frame with any sample above a fifth is speech."""
    monkeypatch.setattr(module, "_is_speech", lambda detector, samples, rate: bool(np.abs(samples).max() > 0.2))


def recording(*parts_s: float) -> Samples:
    """Speech and silence in turn, for so many seconds each, every sample telling its place."""
    parts = [np.full(round(s * RATE), 0.9 * (i % 2 == 0)) for i, s in enumerate(parts_s)]
    samples = np.concatenate(parts)
    return (samples + 1e-10 * np.arange(len(samples))).astype(np.float32)


def bounds_s(pieces: Sequence[Segment]) -> list[tuple[float, float]]:
    return [(piece.start / RATE, (piece.start + len(piece.samples)) / RATE) for piece in pieces]


@pytest.mark.usefixtures("loud_is_speech")
class TestWhereItCuts:
    def test_a_pause_after_enough_ends_a_piece(self) -> None:
        (_, end), (start, _) = bounds_s(list(segments([recording(11.1, 0.9, 5.1)], RATE)))
        assert 11.1 + 0.2 < end <= start < 12.0 - 0.2

    def test_a_pause_before_enough_is_kept(self) -> None:
        assert bounds_s(list(segments([recording(6.0, 0.9, 3.0)], RATE))) == [(0.0, pytest.approx(9.9))]

    def test_the_middle_of_a_long_pause_is_left_out(self) -> None:
        (first, end), (start, last) = bounds_s(list(segments([recording(1.2, 6.0, 1.2)], RATE)))
        assert (first, last) == (0.0, pytest.approx(8.4))
        assert end == pytest.approx(1.5)
        assert 6.6 <= start <= 7.2  # a third of a second before speech, to a frame or two of the last long pause

    def test_silence_at_both_ends_is_left_out(self) -> None:
        ((start, end),) = bounds_s(list(segments([recording(0.0, 5.1, 3.0, 5.1)], RATE)))
        assert start == pytest.approx(5.1 - 0.3)
        assert end == pytest.approx(8.1 + 0.3)

    def test_speech_without_a_pause_is_cut_at_the_cap(self) -> None:
        pieces = bounds_s(list(segments([recording(25.0)], RATE, 10.0)))
        assert [round(end - start, 2) for start, end in pieces[:2]] == [9.99, 9.99]  # whole frames of 30 ms

    def test_at_the_cap_the_longest_pause_of_the_later_half_decides(self) -> None:
        """Though the one before is longer."""
        (_, end), *_ = bounds_s(list(segments([recording(2.0, 0.9, 3.1, 0.3, 30.0)], RATE, 9.0)))
        assert 6.0 < end < 6.3

    def test_speech_after_a_cut_at_the_cap_is_kept_though_it_ends_there(self) -> None:
        (_, end), (start, last) = bounds_s(list(segments([recording(6.0, 0.3, 2.7, 10.0)], RATE, 9.0)))
        assert 6.0 < end == start < 6.3
        assert last > 9.0

    def test_silence_alone_is_nothing(self) -> None:
        assert list(segments([recording(0.0, 100.0)], RATE)) == []
        assert list(segments([], RATE)) == []
        assert list(segments([np.zeros(0, dtype=np.float32)], RATE)) == []

    @pytest.mark.parametrize("max_s", [1.0, 7.0, 60.0])
    def test_every_sample_of_speech_is_in_one_piece(self, max_s: float) -> None:
        rng = np.random.default_rng(0)
        sound = recording(*rng.exponential(1.5, 60))
        pieces = list(segments(np.array_split(sound, 7), RATE, max_s))
        covered = np.zeros(len(sound), dtype=int)
        for start, samples in pieces:
            np.testing.assert_array_equal(sound[start : start + len(samples)], samples)
            covered[start : start + len(samples)] += 1
            assert len(samples) <= max_s * RATE
        assert covered.max() == 1
        assert covered[sound > 0.5].min() == 1

    @pytest.mark.parametrize("size", [1, 479, 481, 100_000])
    def test_blocks_leave_no_trace(self, size: int) -> None:
        sound = recording(1.5, 2.4, 0.7, 0.2)
        whole = list(segments([sound], RATE))
        cut = list(segments([sound[i : i + size] for i in range(0, len(sound), size)], RATE))
        assert [piece.start for piece in cut] == [piece.start for piece in whole]
        assert all((a.samples == b.samples).all() for a, b in zip(cut, whole, strict=True))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_the_detector_hears_speech_and_no_noise(ds2_data: Path, rate: int) -> None:
    speech = load_audio(ds2_data / "an4/wav/test/fcaw/an406-fcaw-b.flac", rate)
    hush = noise(5 * rate) * np.float32(1e-3)
    pieces = list(segments([hush, speech, hush], rate))
    assert len(pieces) == 1
    assert abs(pieces[0].start / rate - 5) < 1
    assert len(pieces[0].samples) > 0.6 * len(speech)


def test_hours_are_the_words_of_their_parts_with_times(ds2: Ds2, ds2_data: Path, tmp_path: Path) -> None:
    """Two recordings with a minute of silence between: their transcripts, at their places."""
    pytest.importorskip("onnxruntime")
    import json

    files = [ds2_data / "an4/wav/test/marh" / f"an43{n}-marh-b.flac" for n in (1, 2)]
    alone = [ds2("transcribe", file).out.strip() for file in files]
    first, second = (load_audio(file, RATE) for file in files)
    gap = np.zeros(60 * RATE, dtype=np.float32)
    soundfile.write(tmp_path / "long.flac", np.concatenate([gap, first, gap, second]), RATE)
    outcome = ds2("transcribe", tmp_path / "long.flac", "--format", "json")
    assert outcome.code == 0
    result = json.loads(outcome.out)
    assert result["text"] == " ".join(alone)
    assert [part["text"] for part in result["segments"]] == alone
    starts = [60.0, 120.0 + len(first) / RATE]
    for part, start, samples in zip(result["segments"], starts, (first, second), strict=True):
        assert start - 0.5 < part["start_s"] < part["end_s"] < start + len(samples) / RATE + 0.5
    assert result["duration_s"] == pytest.approx(120 + (len(first) + len(second)) / RATE)
    stdin = ds2("transcribe", "-", "--format", "json", stdin=(tmp_path / "long.flac").read_bytes())
    assert json.loads(stdin.out)["segments"] == result["segments"]


@pytest.mark.parametrize("level_db", [-40, -20, 10])
def test_level_does_not_decide_what_is_speech(ds2_data: Path, level_db: float) -> None:
    files = sorted((ds2_data / "an4/wav/test").rglob("*.flac"))[::8]
    sound = np.concatenate([load_audio(file, RATE) for file in files])
    as_recorded = np.concatenate([[speech for _, speech in module.judged([sound], RATE)]])
    gain = np.float32(10 ** (level_db / 20))
    changed = np.concatenate([[speech for _, speech in module.judged([gain * sound], RATE)]])
    assert np.mean(as_recorded == changed) > 0.97
    assert changed.mean() > 0.5


def test_who_speaks_softly_after_others_is_heard(ds2_data: Path) -> None:
    files = sorted((ds2_data / "an4/wav/test").rglob("*.flac"))
    loud, soft = (np.concatenate([load_audio(file, RATE) for file in files[begin : begin + 5]]) for begin in (0, 5))
    sound = np.concatenate([loud, np.float32(10 ** (-26 / 20)) * soft])
    heard = np.zeros(len(sound), bool)
    for piece in segments([sound], RATE):
        heard[piece.start : piece.start + len(piece.samples)] = True
    assert heard[len(loud) :].mean() > 0.97


@pytest.mark.usefixtures("loud_is_speech")
def test_after_a_blow_on_the_microphone_soft_speech_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loudest section is forgotten, a decibel by each that follows."""
    monkeypatch.setattr(module, "SECTION_FRAMES", 20)
    blow = np.full(20 * FRAME, 0.99, dtype=np.float32)
    soft = np.tile(np.repeat(np.float32([0.02, 0.0]), FRAME), 240)  # speech and silence by turns, 24 sections of it
    heard = [speech for _, speech in module.judged([blow, soft], RATE)]
    assert heard[-40:] == [True, False] * 20


def test_a_rooms_noise_in_long_pauses_is_no_speech(ds2_data: Path) -> None:
    """Each section is brought to one level, but not what is faint beside the speech before it."""
    speech = load_audio(sorted((ds2_data / "an4/wav/test").rglob("*.flac"))[0], RATE)
    pause = np.zeros(40 * RATE, np.float32)
    sound = np.concatenate([speech, *[pause, speech] * 3])
    level = np.sqrt(np.mean(speech**2)) * 10 ** (-40 / 20)
    sound += level * np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32)
    heard = sum(len(piece.samples) for piece in segments([sound], RATE))
    assert 4 * len(speech) <= heard < 4 * len(speech) + 6 * RATE  # of 120 s of pauses


def test_a_pipe_is_cut_like_a_file(ds2: Ds2, ds2_data: Path, tmp_path: Path) -> None:
    """Standard input beside another recording has no length beforehand, and is cut all the same."""
    pytest.importorskip("onnxruntime")
    import json

    speech = load_audio(ds2_data / "an4/wav/test/fcaw/an406-fcaw-b.flac", RATE)
    soundfile.write(tmp_path / "long.flac", np.concatenate([speech, np.zeros(70 * RATE, np.float32), speech]), RATE)
    file = json.loads(ds2("transcribe", tmp_path / "long.flac", "--format", "json").out)
    content = (tmp_path / "long.flac").read_bytes()
    both = json.loads(ds2("transcribe", "-", tmp_path / "long.flac", "--format", "json", stdin=content).out)
    assert len(file["segments"]) == 2
    assert [result["segments"] for result in both] == [file["segments"]] * 2
    assert [result["text"] for result in both] == [file["text"]] * 2
