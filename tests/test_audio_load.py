"""Reading audio: against what was written, against the exact sine, against scipy."""

import gzip
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from scipy.signal import resample_poly

from ds2_deploy.audio import load
from ds2_deploy.audio.load import Channel, audio_blocks, audio_duration_s, checked_samples, load_audio
from ds2_deploy.errors import AudioError, AudioNotFoundError, SilentAudioError
from tests.conftest import noise

RATE = 16000

LOSSLESS = [  # container, encoding, largest error
    ("WAV", "PCM_U8", 2**-7), ("WAV", "PCM_16", 0), ("WAV", "PCM_24", 0), ("WAV", "PCM_32", 0),
    ("WAV", "FLOAT", 0), ("WAV", "DOUBLE", 0), ("WAVEX", "PCM_24", 0), ("RF64", "PCM_16", 0), ("W64", "PCM_16", 0),
    ("FLAC", "PCM_S8", 2**-7), ("FLAC", "PCM_16", 0), ("FLAC", "PCM_24", 0), ("AIFF", "PCM_S8", 2**-7),
    ("AIFF", "PCM_16", 0), ("AIFF", "PCM_24", 0), ("AIFF", "FLOAT", 0), ("AU", "PCM_16", 0), ("CAF", "ALAC_16", 0),
]  # fmt: skip
LOSSY = [("WAV", "ULAW"), ("WAV", "ALAW"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


def encoded(
    samples: npt.NDArray[np.float32], *, rate: int = RATE, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def sine(rate: int, seconds: float, hertz: float = 440.0) -> npt.NDArray[np.float32]:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize(("kind", "subtype", "error"), LOSSLESS)
def test_lossless_kinds_give_back_what_was_written(kind: str, subtype: str, error: float) -> None:
    written = noise(4002)  # libsndfile counts the byte that pads an odd AIFF
    read = load_audio(encoded(written, kind=kind, subtype=subtype), RATE)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, written, rtol=0, atol=error)


@pytest.mark.parametrize(("kind", "subtype"), LOSSY)
def test_lossy_kinds_keep_the_length_and_the_sound(kind: str, subtype: str) -> None:
    written = sine(RATE, 1.0)
    read = load_audio(encoded(written, kind=kind, subtype=subtype), RATE)
    assert len(read) == len(written)
    assert np.corrcoef(read, written)[0, 1] > 0.99


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_gives_the_sine_of_the_other_rate(rate: int) -> None:
    read = load_audio(encoded(sine(rate, 0.4), rate=rate, subtype="FLOAT"), RATE)
    expected = sine(RATE, 0.4)
    assert len(read) == len(expected)
    edge = 400  # samples in which a resampler hears the silence around the recording
    np.testing.assert_allclose(read[edge:-edge], expected[edge:-edge], atol=1e-4)


def test_channels_are_averaged_or_picked() -> None:
    written = noise(1000, channels=3)
    data = encoded(written)
    np.testing.assert_allclose(load_audio(data, RATE), written.mean(axis=1), atol=1e-7)
    for channel in range(3):
        np.testing.assert_array_equal(load_audio(Channel(data, channel), RATE), written[:, channel])


@pytest.mark.parametrize("channel", [3, -1])
def test_a_channel_that_is_not_there(channel: int) -> None:
    with pytest.raises(AudioError, match=f"has no channel {channel}: it has 3, .* last is 2"):
        load_audio(Channel(encoded(noise(10, channels=3)), channel), RATE)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_blocks_are_the_whole(kind: str, rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audio"
    soundfile.write(path, noise(30011, channels=2), rate, format=kind)
    whole, _ = soundfile.read(path, dtype="float32")  # in one read, so without the seeks that break MP3
    if rate == RATE:
        np.testing.assert_allclose(load_audio(path, RATE), whole.mean(axis=1), atol=1e-6)
    expected = load_audio(path, RATE)
    monkeypatch.setattr(load, "BLOCK_VALUES", 2 * 1009)
    blocks = list(audio_blocks(path, RATE))
    assert len(blocks) > 10
    assert max(map(len, blocks)) < 2 * 1009
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-6)


def test_samples_beyond_full_scale_are_kept() -> None:
    written = np.array([0.5, 1.5, -3.0, 32767.0], dtype=np.float32)
    np.testing.assert_array_equal(load_audio(encoded(written, subtype="FLOAT"), RATE), written)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS")])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_no_samples_are_an_empty_recording(kind: str, subtype: str, rate: int) -> None:
    data = encoded(noise(0), kind=kind, subtype=subtype, rate=rate)
    assert load_audio(data, RATE).shape == (0,)
    assert audio_duration_s(data) == 0.0


def test_one_sample() -> None:
    assert len(load_audio(encoded(noise(1)), RATE)) == 1
    assert len(load_audio(encoded(noise(1), rate=8000), RATE)) == 2


@pytest.mark.parametrize(("kind", "subtype", "error"), LOSSLESS)
def test_the_header_knows_the_duration(kind: str, subtype: str, error: float) -> None:
    assert audio_duration_s(encoded(noise(5002), kind=kind, subtype=subtype)) == pytest.approx(5002 / RATE)


def test_flac_from_a_pipe_does_not_know_its_length() -> None:
    data = bytearray(encoded(noise(5003), kind="FLAC"))
    data[21] &= 0xF0  # STREAMINFO's 36 bits of total samples: 0 is unknown
    data[22:26] = bytes(4)
    np.testing.assert_array_equal(load_audio(bytes(data), RATE), noise(5003))
    assert audio_duration_s(bytes(data)) == pytest.approx(5003 / RATE)


def test_wav_from_a_pipe_claims_four_gigabytes() -> None:
    data = encoded(noise(5003))
    unknown = b"\xff" * 4
    streamed = data[:4] + unknown + data[8:40] + unknown + data[44:]
    np.testing.assert_array_equal(load_audio(streamed, RATE), noise(5003))
    assert audio_duration_s(streamed) == pytest.approx(5003 / RATE)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "MP3"])
def test_what_is_left_of_a_cut_recording_is_read(kind: str) -> None:
    data = encoded(noise(40000), kind=kind)
    read = load_audio(data[: len(data) // 2], RATE)
    assert 15000 < len(read) < 25000


def test_sources_of_every_sort(tmp_path: Path) -> None:
    path = tmp_path / "ünïcode 音.wav"
    path.write_bytes(encoded(noise(777)))
    content = path.read_bytes()
    for source in (path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(load_audio(source, RATE), noise(777))
    with path.open("rb") as file:
        assert audio_duration_s(file) == pytest.approx(777 / RATE)


def test_what_stands_behind_an_mp3_is_no_recording() -> None:
    """Tags, and a frame that some encoders leave out of what they tell."""
    expected = load_audio(MP3, RATE)
    for behind in (ID3V1, APE, APE + ID3V1, bytes(9000), MP3[:417], MP3[:1441]):
        np.testing.assert_array_equal(load_audio(MP3 + behind, RATE)[: len(expected)], expected)


def test_a_file_object_that_breaks_off() -> None:
    whole = gzip.compress(encoded(noise(777)))
    with gzip.open(io.BytesIO(whole)) as file:
        np.testing.assert_array_equal(load_audio(file, RATE), noise(777))
    with (
        gzip.open(io.BytesIO(whole[: len(whole) // 2])) as file,
        pytest.raises(AudioError, match=r"Cannot read .*: Compressed file ended before"),
    ):
        load_audio(file, RATE)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_samples_that_are_infinite(kind: type[np.floating[Any]]) -> None:
    np.testing.assert_array_equal(checked_samples(np.array([0.5, -1.25], kind)), np.float32([0.5, -1.25]))
    for value in (np.inf, np.nan, np.finfo(kind).max):
        if value <= 2**31 and kind is np.float16:
            continue  # its largest number is no more than absurd
        with pytest.raises(AudioError, match="infinite or absurdly large"):
            checked_samples(np.array([0.5, value], kind))


def test_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(encoded(noise(777)),))
    writer.start()
    np.testing.assert_array_equal(load_audio(path, RATE), noise(777))
    writer.join()


def id3(size: int) -> bytes:
    """A tag of so many bytes and its header."""
    return b"ID3\4\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + bytes(size)


WAV = encoded(noise(4000))
MP3 = encoded(noise(20_000), kind="MP3")
APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (900).to_bytes(4, "little") + bytes(16) + bytes(900)
ID3V1 = b"TAG" + bytes(125)
FLAC = encoded(noise(40000), kind="FLAC")
BAD = {
    "MP3 after MP3": (MP3 + MP3, "several recordings one after the other"),
    "MP3 after a tagged MP3": (MP3 + ID3V1 + MP3, "several recordings one after the other"),
    "MP3 after one with a tag of APE": (MP3 + APE + MP3, "several recordings one after the other"),
    "MP3 after one with both": (MP3 + APE + ID3V1 + MP3, "several recordings one after the other"),
    "MP3 that begins with a tag after MP3": (MP3 + id3(300) + MP3, "several recordings one after the other"),
    "two MP3s that begin with tags": (2 * (id3(300) + MP3), "several recordings one after the other"),
    "Ogg after Ogg": (2 * encoded(noise(4000), kind="OGG"), "several recordings one after the other"),
    "empty": (b"", "is empty"),
    "text": (b"this is no audio\n" * 50, "Cannot decode"),
    "zeros": (bytes(1000), "Cannot decode"),
    "20 bytes of a header": (WAV[:20], "Cannot decode"),
    "40 bytes of a header": (WAV[:40], "Cannot decode"),
    "header alone": (WAV[:44], "breaks off after its header"),
    "unfinished recording": (WAV[:40] + bytes(4) + WAV[44:], "breaks off after its header, or .* never finished"),
    "half a FLAC file": (FLAC[: len(FLAC) // 2], "to its end"),
    "MP3 header": (encoded(noise(4000), kind="MP3")[:60], "Cannot decode"),
    "rate of 1 Hz": (WAV[:24] + b"\1\0\0\0" + WAV[28:], "sample rate of 1 Hz"),
    "NaN": (encoded(np.float32([0, np.nan]), subtype="FLOAT"), "NaN"),
    "infinite": (encoded(np.float32([0, -np.inf]), subtype="FLOAT"), "infinite"),
    "infinities that cancel": (encoded(np.float32([[np.inf, -np.inf]] * 9), subtype="FLOAT"), "NaN"),
    "absurdly large": (encoded(np.array([0, 1e300]), subtype="DOUBLE"), "absurdly large"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recordings_are_one_sentence_with_their_name(case: str, tmp_path: Path) -> None:
    content, words = BAD[case]
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=words) as caught:
        load_audio(path, RATE)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith(".")
    assert "\n" not in message
    assert str(path) not in open_files()  # while the error lives on, as among results it does


def test_a_cut_header_in_memory_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """libsndfile looks before its beginning, and what is raised in its callbacks would be printed."""
    whole = encoded(noise(4000), kind="AIFF")
    for length in range(1, 54):
        with pytest.raises(AudioError):
            load_audio(whole[:length], RATE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "PCM_24"])
def test_a_wav_file_that_is_cut_off_is_heard_but_not_learnt_from(subtype: str) -> None:
    whole = encoded(noise(32000), subtype=subtype)
    half = whole[: len(whole) // 2]
    assert len(load_audio(half, RATE)) == pytest.approx(16000, abs=60)
    assert audio_duration_s(half) == pytest.approx(1.0, abs=0.01)
    with pytest.raises(AudioError, match=r"breaks off: its header promises 1\.00 s more"):
        audio_duration_s(half, decode=True)
    assert audio_duration_s(whole[:-100], decode=True) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("promised", [2**32 - 1, 2**31, 2**31 - 1, 2**31 - 4096])
def test_a_wav_file_whose_writer_did_not_know_its_length_is_whole(promised: int) -> None:
    """As ffmpeg, arecord and sox write them to a pipe."""
    content = WAV[:40] + promised.to_bytes(4, "little") + WAV[44:]
    assert audio_duration_s(content, decode=True) == 0.25


def test_digital_silence_is_of_the_whole_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BLOCK_VALUES", 1000)
    silence = np.zeros(3000, dtype=np.float32)
    for parts in ((noise(3000), silence), (silence, noise(3000))):
        assert audio_duration_s(encoded(np.concatenate(parts)), decode=True) == 6000 / RATE
    with pytest.raises(SilentAudioError, match="digital silence alone"):
        audio_duration_s(encoded(silence), decode=True)


def open_files() -> set[str]:
    """What this process has open."""
    descriptors = Path("/proc/self/fd")
    return {os.readlink(one) for one in descriptors.iterdir() if os.path.lexists(one)}  # noqa: PTH115


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(AudioNotFoundError, match=r"There is no file .*nothing\.wav"):
        load_audio(tmp_path / "nothing.wav", RATE)
    with pytest.raises(AudioNotFoundError):
        audio_duration_s(tmp_path / "nothing.wav")
    with pytest.raises(AudioNotFoundError, match=r"There is no file 'a\\x00b': no file can be called so"):
        load_audio("a\0b", RATE)
    with pytest.raises(AudioError, match="Is a directory"):
        load_audio(tmp_path, RATE)
    (tmp_path / "headerless.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="Cannot decode"):
        load_audio(tmp_path / "headerless.raw", RATE)


def test_telephone_speech_against_another_resampler(ds2_data: Path) -> None:
    for path in sorted((ds2_data / "digits" / "audio").rglob("*.flac"))[:20:4]:
        original, rate = soundfile.read(path)
        assert rate == 8000
        ours, theirs = load_audio(path, RATE), resample_poly(original, 2, 1)
        assert len(ours) == len(theirs)
        spectra = [np.abs(np.fft.rfft(x))[: int(len(x) * 3400 / RATE)] for x in (ours, theirs)]  # the speech band
        assert np.linalg.norm(spectra[0] - spectra[1]) < 0.01 * np.linalg.norm(spectra[1])


def test_librispeech_durations_agree_with_the_manifest(ds2_data: Path) -> None:
    for line in (ds2_data / "librispeech-mini" / "valid.jsonl").read_text().splitlines()[:10]:
        entry = json.loads(line)
        path = ds2_data / "librispeech-mini" / entry["audio_filepath"]
        assert audio_duration_s(path) == pytest.approx(entry["duration"], abs=0.02)
        assert len(load_audio(path, RATE)) / RATE == pytest.approx(entry["duration"], abs=0.02)
