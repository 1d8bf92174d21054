"""Recordings to mono float32 at a model's rate: any format libsndfile decodes, any rate, any channel count.

Shapes: S samples, C channels.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ds2_deploy.audio import chained
from ds2_deploy.errors import AudioError, AudioNotFoundError, SilentAudioError, reason_of
from ds2_deploy.files import is_pipe

Samples = npt.NDArray[np.float32]
Bytes = bytes | bytearray | memoryview
AudioFile = str | os.PathLike[str] | Bytes | BinaryIO
"""A path; or an audio file's content, as bytes or a file object (which is read to its end)."""


class Channel(NamedTuple):
    """One channel of a recording."""

    file: AudioFile
    number: int
    """0 is the first."""


AudioSource = AudioFile | Channel
"""An audio file, of which the mean of all channels is heard, or one channel of it."""

NAMELESS = "the recording"
"""How messages call a source without a name."""
BLOCK_VALUES = 2**18
"""Samples times channels decoded at once: 1 MB, 16 s of 16 kHz mono."""
MAX_SAMPLE = 2.0**31
"""Full scale is 1. Codecs overshoot it a little and some writers store integers in floats; beyond is garbage."""
UNKNOWN_FRAMES = 2**62
"""libsndfile reports about 2**63 where a header leaves the length open, as FLAC written to a pipe does."""

WAV_PROMISES = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
"""libsndfile's words for a WAV file whose header has another number of bytes than there are."""
OPEN_BYTES = 0x7FFF_0000
"""From here on a header says that its writer, to a pipe, did not know yet."""
CUT_S = 0.05
"""A recording that lacks less of what its header promises is whole."""

KINDS = ("aif", "aifc", "aiff", "au", "caf", "flac", "mp3", "oga", "ogg", "opus", "rf64", "sph", "w64", "wav", "wave")
EXTENSIONS = frozenset(f".{kind}" for kind in KINDS)
"""What counts as a recording in a folder; a file named by the user is tried whatever it is called."""


def checked_samples(samples: object) -> Samples:
    """Samples from a caller as (S,) float32; AudioError where they cannot be audio in [-1, 1]."""
    if not isinstance(samples, np.ndarray):
        raise AudioError(f"Samples must be a NumPy array of floats in [-1, 1]: this is a {type(samples).__name__}.")
    if not np.issubdtype(samples.dtype, np.floating):
        cure = (
            f": divide by {2 ** (8 * samples.itemsize - 1)}" if np.issubdtype(samples.dtype, np.signedinteger) else ""
        )
        raise AudioError(f"Samples must be floats in [-1, 1]: these are {samples.dtype}{cure}.")
    if samples.ndim != 1:
        raise AudioError(f"Samples must be of one dimension, mono: these have the shape {samples.shape}.")
    with np.errstate(over="ignore"):  # of float64, infinite then
        floats = np.asarray(samples, dtype=np.float32)
    if not (np.abs(floats) <= MAX_SAMPLE).all():  # false for NaN, too
        raise AudioError("Samples must be finite and in [-1, 1]: some of these are NaN, infinite or absurdly large.")
    return floats


def load_audio(source: AudioSource, sample_rate: int) -> Samples:
    """The whole recording as (S,) mono at `sample_rate`.

    Integer files are scaled to [-1, 1); floats are kept as they are, also beyond full scale, because clipping
    distorts. No samples are an empty array; what cannot be decoded or is not finite is an AudioError.
    """
    blocks = list(audio_blocks(source, sample_rate))
    if len(blocks) == 1:
        return blocks[0]  # spares the copy
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def audio_blocks(source: AudioSource, sample_rate: int) -> Iterator[Samples]:
    """The same samples as `load_audio`, block by block (S_i,), in bounded memory."""
    name = source_name(source)
    channel = source.number if isinstance(source, Channel) else None
    with _reported(name), _open(source, name) as file:
        if channel is not None and not (isinstance(channel, Integral) and 0 <= channel < file.channels):
            raise AudioError(
                f"{name} has no channel {channel!r}: it has {file.channels}, counted from 0, so the last is "
                f"{file.channels - 1}."
            )
        blocks = _mono_blocks(file, channel, name)
        yield from blocks if file.samplerate == sample_rate else _resampled(blocks, file.samplerate, sample_rate)


def audio_duration_s(source: AudioSource, *, decode: bool = False) -> float:
    """Seconds of audio by the header; `decode`, or a header that leaves the length open, decodes all of it.

    Decoding finds what a header cannot: FLAC that is cut off is an AudioError, MP3 is as long as what is left of it. So
    is WAV to who hears it, for not every recorder ends its header; with `decode` it is an AudioError, too, and so is a
    recording of nothing but zeros.
    """
    name = source_name(source)
    with _reported(name), _open(source, name) as file:
        frames = file.frames
        if decode and (lacking_s := _lacking_s(file)) > CUT_S:
            raise AudioError(f"{name} breaks off: its header promises {lacking_s:.2f} s more. Record or copy it anew.")
        if decode or frames >= UNKNOWN_FRAMES:
            frames, silent = 0, True
            for block in _mono_blocks(file, None, name):
                frames, silent = frames + len(block), silent and not block.any()
            if decode and frames and silent:
                raise SilentAudioError(f"{name} holds digital silence alone, or channels that cancel each other out.")
        return float(frames) / float(file.samplerate)


def _lacking_s(file: "_ForwardFile") -> float:
    """Seconds that the header of a WAV file promises and that are not there."""
    found = WAV_PROMISES.search(file.extra_info)
    promised, there = map(int, found.groups()) if found else (0, 0)
    if not 0 < there < promised < OPEN_BYTES:
        return 0.0
    return float(file.frames * (promised - there) / there / file.samplerate)


class Content(bytes):
    """An audio file's content that knows where it came from."""

    name = NAMELESS


def to_read_again(file: AudioFile) -> AudioFile:
    """The same, or the content of what can be read but once: a pipe, a file object."""
    if isinstance(file, Bytes) or (isinstance(file, str | os.PathLike) and not is_pipe(file)):
        return file
    try:
        content = Content(Path(file).read_bytes() if isinstance(file, str | os.PathLike) else file.read())
    except OSError:
        return file  # reading it again says why
    content.name = source_name(file)
    return content


def channels_of(file: AudioFile) -> list[Channel]:
    """Each of its channels; AudioError where it cannot be read."""
    name = source_name(file)
    with _reported(name), _open(file, name) as opened:
        return [Channel(file, number) for number in range(opened.channels)]


def source_name(source: AudioSource) -> str:
    """How messages call a source."""
    if isinstance(source, Channel):
        return source_name(source.file)
    with suppress(Exception):  # of a caller's object that cannot say its name
        if isinstance(source, str | os.PathLike):
            return os.fsdecode(source)
        return str(getattr(source, "name", NAMELESS))
    return NAMELESS


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Whatever a source raises is an AudioError: a caller's path or file object may have anything behind it, such as
    gzip or a network."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        raise AudioError(f"Cannot read {name}: {reason_of(error)}.") from error


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile carries no types
    """Read from start to end only.

    soundfile seeks to where it already is after each read. That breaks MP3 (its frames borrow bits from earlier
    ones, so a seek is audible) and fails on FLAC of unknown length; files that cannot seek are spared it.
    """

    def seekable(self) -> bool:
        return False


def _open(source: AudioSource, name: str) -> _ForwardFile:
    content = _content(source.file if isinstance(source, Channel) else source, name)
    try:
        file = _ForwardFile(content)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        raise AudioError(
            f"Cannot decode {name}: it is damaged or no audio file of a kind libsndfile reads "
            "(WAV, FLAC, OGG, MP3, AIFF and others); convert it to WAV first."
        ) from error
    try:
        _check_opened(file, content, name)
    except BaseException:
        file.close()  # not when the error is forgotten, which who collects results may keep
        raise
    return file


def _check_opened(file: _ForwardFile, content: bytes | io.BytesIO, name: str) -> None:
    """AudioError where what libsndfile has opened cannot be heard, or not all of it."""
    if file.frames == 0 and any(fault in file.extra_info for fault in ("should be", "***")):
        raise AudioError(f"{name} breaks off after its header, or its recording was never finished.")
    if _goes_on(content, file.format):
        raise AudioError(
            f"{name} holds several recordings one after the other, of which only the first would be heard: split it, "
            "or make it one with a tool that hears all of them, such as ffmpeg."
        )
    if not 1_000 <= file.samplerate <= 1_000_000:
        raise AudioError(
            f"Cannot use {name}: its header claims a sample rate of {file.samplerate} Hz, where 1 kHz to 1 MHz are "
            "taken; convert it again."
        )


def _goes_on(content: bytes | io.BytesIO, kind: str) -> bool:
    """Whether more recordings follow the first in what `_content` gave."""
    if kind not in chained.KINDS:
        return False
    if isinstance(content, io.BytesIO):
        return chained.is_chained(io.BytesIO(content.getvalue()), kind)  # its own place in it is libsndfile's
    with open(content, "rb") as file:  # noqa: PTH123  # a path in bytes
        return chained.is_chained(file, kind)


def _content(source: AudioFile, name: str) -> bytes | io.BytesIO:
    """What soundfile opens: a regular file's path, or all bytes of anything else."""
    try:
        if not isinstance(source, str | os.PathLike):
            data = source if isinstance(source, Bytes) else source.read()
        elif (path := Path(source)).is_file():
            with path.open("rb") as file:  # here, because libsndfile's words for an unreadable file mislead
                data = file.read(1)
            if data:
                return os.fsencode(path)
        else:
            data = path.read_bytes()  # a pipe, such as the shell's <(command)
    except FileNotFoundError as error:
        raise AudioNotFoundError(f"There is no file {name}.") from error
    except (io.UnsupportedOperation, UnicodeDecodeError) as error:  # open to be written, as text
        raise AudioError(f"Cannot read {name}: open it in mode 'rb'.") from error
    except OSError as error:
        raise AudioError(f"Cannot read {name}: {error.strerror or error}.") from error
    except (AttributeError, ValueError) as error:  # something else, a closed file
        if isinstance(source, str | os.PathLike):
            raise AudioNotFoundError(f"There is no file {name!r}: no file can be called so.") from error
        raise AudioError(
            f"Cannot read {name}: it is neither a path, nor bytes, nor a file open for reading."
        ) from error
    if isinstance(data, str):
        raise AudioError(f"Cannot read {name}: open it in mode 'rb'.")
    if not isinstance(data, Bytes):
        raise AudioError(f"Cannot read {name}: its read() gives {type(data).__name__}, not bytes. Pass bytes instead.")
    if not data:
        raise AudioError(f"{name} is empty.")
    return _InMemory(data)


class _InMemory(io.BytesIO):
    """Goes to its beginning where libsndfile wants to go before it, in a file that is cut off: an exception in its
    callback would be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


def _mono_blocks(file: _ForwardFile, channel: int | None, name: str) -> Iterator[Samples]:
    frames = max(min(BLOCK_VALUES // file.channels, file.frames), 1)
    decoded = False
    while len(block := _read(file, frames, name)):  # (S, C)
        decoded = True
        if file.channels == 1 or channel is not None:
            mono = np.ascontiguousarray(block[:, channel or 0])  # (S,)
        else:
            with np.errstate(invalid="ignore"):  # infinities cancelling are found below
                mono = block.mean(axis=1)
        if not (mono.min() >= -MAX_SAMPLE and mono.max() <= MAX_SAMPLE):  # false for NaN, too
            raise AudioError(f"{name} holds samples that are NaN, infinite or absurdly large: record or convert again.")
        yield mono
    if not decoded and 0 < file.frames < UNKNOWN_FRAMES:
        raise AudioError(f"{name} breaks off after its header: it promises samples and holds none.")


def _read(file: _ForwardFile, frames: int, name: str) -> Samples:
    try:
        block: Samples = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError(f"Cannot decode {name} to its end: it is damaged or cut off.") from error
    return block


def _resampled(blocks: Iterator[Samples], rate: int, sample_rate: int) -> Iterator[Samples]:
    """soxr's high-quality resampler as a stream: the same values whatever the blocks."""
    resampler = soxr.ResampleStream(rate, sample_rate, num_channels=1, dtype="float32")
    for block in blocks:
        if len(samples := resampler.resample_chunk(block)):
            yield samples
    if len(samples := resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)):
        yield samples
