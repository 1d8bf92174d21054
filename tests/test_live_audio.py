"""Raw samples from a pipe, cut anywhere, and recordings played by a clock of the test's own."""

import io
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ds2_deploy.audio.live import played, raw_pcm
from ds2_deploy.audio.load import load_audio
from ds2_deploy.errors import AudioError, AudioNotFoundError
from tests.conftest import noise

WriteWav = Callable[..., tuple[Path, npt.NDArray[np.float32]]]


class Pipe:
    """Gives its pieces as they are, whatever is asked for."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def read1(self, size: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def pipe(*pieces: bytes) -> BinaryIO:
    return cast(BinaryIO, Pipe(*pieces))


def integers(samples: npt.NDArray[np.float32]) -> bytes:
    return (samples * 2**15).astype("<i2").tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 10**6])
def test_bytes_cut_anywhere_are_the_same_samples(size: int) -> None:
    samples = noise(2000)
    data = integers(samples)
    pieces = list(raw_pcm(pipe(*(data[i : i + size] for i in range(0, len(data), size))), 16000))
    assert all(piece.dtype == np.float32 for piece in pieces)
    np.testing.assert_array_equal(np.concatenate(pieces), samples)


def test_bytes_cut_at_random_are_the_same_samples() -> None:
    samples = noise(5000, seed=1)
    cuts = [0, *np.unique(np.random.default_rng(0).integers(1, 10_000, 60)).tolist(), 10_000]
    data = integers(samples)
    pieces = raw_pcm(pipe(*(data[a:b] for a, b in itertools.pairwise(cuts))), 16000)
    np.testing.assert_array_equal(np.concatenate(list(pieces)), samples)


def test_full_scale_and_a_lone_last_byte() -> None:
    data = np.array([-(2**15), 2**15 - 1, 0, 1], dtype="<i2").tobytes()
    (samples,) = raw_pcm(pipe(data + b"\x07"), 16000)
    np.testing.assert_array_equal(samples, np.array([-1, 1 - 2**-15, 0, 2**-15]))


def test_samples_come_without_waiting_for_more() -> None:
    source = Pipe(integers(noise(100)), integers(noise(100)))
    samples = raw_pcm(cast(BinaryIO, source), 16000)
    assert len(next(samples)) == 100
    assert len(source.pieces) == 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("AIFF", "an AIFF file"),
        ("FLAC", "a FLAC file"),
        ("OGG", "an Ogg file"),
        ("CAF", "a CAF file"),
        ("RF64", "an RF64 file"),
    ],
)
@pytest.mark.parametrize("first", [1, 3, 4, 10**6])
def test_audio_files_are_refused_by_name(kind: str, words: str, first: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(3000), 16000, format=kind)
    data = file.getvalue()
    with pytest.raises(AudioError, match=f"{words}, not raw samples.*ds2 transcribe"):
        list(raw_pcm(pipe(data[:first], data[first:]), 16000))


@pytest.mark.parametrize("version", [2, 3, 4])  # ffmpeg writes 4
def test_tagged_mp3_is_refused_by_name(version: int) -> None:
    with pytest.raises(AudioError, match="an MP3 file"):
        list(raw_pcm(pipe(b"ID3" + bytes([version, 0, 0, 0, 0, 0, 0]) + bytes(1000)), 16000))


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
def test_mp3_without_tags_is_refused_by_name(rate: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(6000), rate, format="MP3")
    data = file.getvalue()
    assert data[0] == 0xFF
    for first in (1, 3, 4, 400, 10**6):
        with pytest.raises(AudioError, match="an MP3 file, not raw samples"):
            list(raw_pcm(pipe(data[:first], data[first:]), 16000))


@pytest.mark.parametrize("second", [-1, 0, 0x6490, 0x7FFF])
@pytest.mark.parametrize("first", [-1, -1025, -257])  # ff ff, ff fb, ff fe
def test_samples_that_look_like_a_frame_of_mp3_are_sound(first: int, second: int) -> None:
    """Once, or at another distance than such a frame is long."""
    samples = noise(3000)
    samples[:2] = samples[1000:1002] = np.array([first, second]) / 2**15
    data = integers(samples)
    for size in (3, 500, 10**6):
        pieces = raw_pcm(pipe(*(data[i : i + size] for i in range(0, len(data), size))), 16000)
        np.testing.assert_array_equal(np.concatenate(list(pieces)), samples)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"RIFX\0\0\1\0WAVE", "a RIFX file"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81", "a WebM or Matroska file"),
        (b"\0\0\0\x20ftypisom", "an MP4 file"),
        (b"\0\0\0\x18ftypM4A ", "an MP4 file"),
    ],
)
def test_what_browsers_and_cameras_record_is_refused_by_name(head: bytes, words: str) -> None:
    with pytest.raises(AudioError, match=f"{words}.*, not raw samples"):
        list(raw_pcm(pipe(head[:3], head[3:] + bytes(1000)), 16000))


def wav(samples: npt.NDArray[np.float32], rate: int = 16000, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("first", [1, 4, 30, 43, 44, 45, 10**6])
def test_the_wav_header_that_arecord_writes_is_skipped(first: int) -> None:
    samples = noise(3000)
    data = wav(samples)
    pieces = raw_pcm(pipe(data[:first], data[first:]), 16000)
    np.testing.assert_array_equal(np.concatenate(list(pieces)), samples)


def test_tags_behind_the_samples_are_not_heard() -> None:
    samples = noise(3000)
    data = wav(samples)
    tagged = data + b"id3 " + (30_000).to_bytes(4, "little") + 30_000 * b"\x7f"
    np.testing.assert_array_equal(np.concatenate(list(raw_pcm(pipe(tagged[:5000], tagged[5000:]), 16000))), samples)
    for unknown in (0, 0x7FFFFFFF, 0xFFFFFFFF):  # as writers to a pipe have it
        open_ended = data[:40] + unknown.to_bytes(4, "little") + data[44:]
        np.testing.assert_array_equal(np.concatenate(list(raw_pcm(pipe(open_ended), 16000))), samples)


def test_an_extensible_header_says_what_it_is_behind() -> None:
    samples, file = noise(3000), io.BytesIO()
    soundfile.write(file, samples, 96000, format="WAVEX", subtype="PCM_16")
    assert file.getvalue()[20:22] == b"\xfe\xff"
    np.testing.assert_array_equal(np.concatenate(list(raw_pcm(pipe(file.getvalue()), 96000))), samples)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (wav(noise(100), rate=8000), "at 8000 Hz, not 16000: add --rate 8000"),
        (wav(noise(100, channels=2)), "of 2 channels with 16 bits, not 16-bit mono"),
        (wav(noise(100), subtype="PCM_24"), "of 1 channel with 24 bits, not"),
        (wav(noise(100), subtype="ULAW"), "of 1 channel with 8 bits in mu-law, not 16-bit mono"),
        (wav(noise(100), subtype="ALAW"), "with 8 bits in A-law"),
        (wav(noise(100), subtype="FLOAT"), "with 32 bits as floats"),
        (wav(noise(100), subtype="MS_ADPCM"), "in coding 2"),
        (wav(noise(100))[:30], "begins like a WAV file and holds no samples"),
        (wav(noise(100))[:12] + b"data" + bytes(100), "whose samples come before its format"),
        (b"RIFF" + bytes(200_000), "begins like a WAV file and holds no samples"),
    ],
)
def test_a_wav_header_that_says_something_else(data: bytes, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        list(raw_pcm(pipe(data[:20], data[20:]), 16000))


@pytest.mark.parametrize("source", [pipe(), pipe(b"\x01"), cast(BinaryIO, io.BytesIO())])
def test_a_pipe_that_brings_nothing(source: BinaryIO) -> None:
    with pytest.raises(AudioError, match="Standard input holds no sample"):
        list(raw_pcm(source, 16000))


def test_what_looks_like_a_header_later_is_sound() -> None:
    data = integers(noise(100)) + b"RIFF" + integers(noise(100))
    assert sum(map(len, raw_pcm(pipe(data[:200], data[200:]), 16000))) == 202


class Clock:
    """Time passes in sleep alone, and in what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@pytest.mark.parametrize(
    ("samples", "rate"), [(16000, 16000), (12345, 16000), (100, 16000), (20000, 44100), (0, 16000)]
)
def test_a_recording_is_played_at_its_own_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, rate: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(samples), rate, subtype="PCM_16")
    expected = load_audio(path, 16000)
    clock = Clock(monkeypatch)
    pieces = []
    heard = 0
    for piece in played(path, 16000):
        pieces.append(piece)
        heard += len(piece)
        assert len(piece) <= 320
        assert clock.now - 1000 == pytest.approx(heard / 16000, abs=1e-6)  # not before its last sample was said
    np.testing.assert_array_equal(np.concatenate([np.zeros(0, np.float32), *pieces]), expected)


def test_a_slow_listener_is_not_made_to_wait_on_top(write_wav: WriteWav, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = write_wav("a.wav", 16000)
    clock = Clock(monkeypatch)
    for i, _ in enumerate(played(path, 16000)):
        if i == 9:
            clock.now += 0.5  # hears 0.2 s at 0.7 s
        if 10 <= i < 34:
            assert clock.now == pytest.approx(1000.7)
    assert clock.now == pytest.approx(1001.0)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AudioNotFoundError):
        next(played(tmp_path / "missing.wav", 16000))


@pytest.mark.parametrize("size", [1, 5, 10**6])
def test_tags_before_the_samples_are_not_taken_for_them(size: int) -> None:
    """A LIST chunk may say "data", be of odd length (padded) and larger than a read; RIFF knows its length."""
    samples = noise(2000)
    plain = wav(samples)
    assert plain[12:16] == b"fmt "
    at = 12 + 8 + int.from_bytes(plain[16:20], "little")
    for text in (b"my metadata", b"fmt data " * 9999):
        tags = b"LIST" + len(text).to_bytes(4, "little") + text + b"\0" * (len(text) % 2)
        data = plain[:at] + tags + plain[at:]
        pieces = raw_pcm(pipe(*(data[i : i + size] for i in range(0, len(data), size))), 16000)
        np.testing.assert_array_equal(np.concatenate(list(pieces)), samples)
