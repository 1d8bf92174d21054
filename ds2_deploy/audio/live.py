"""Audio as it comes: raw samples from a pipe, or a recording played at its own speed.

Both yield (S_i,) float32 samples in [-1, 1].
"""

import struct
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ds2_deploy.audio.load import AudioSource, Samples, audio_blocks
from ds2_deploy.errors import AudioError

NO_LENGTH = 0x7FFF0000
"""From here on, and 0: what arecord, sox and ffmpeg write for the length of samples that they do not know yet."""
READ_BYTES = 65536
"""At most; a pipe gives what it has."""
HEADER_BYTES = 1 << 24
"""Of a WAV file's header, whose tags may hold a picture."""
PCM, EXTENSIBLE = 1, 0xFFFE
"""Codings in the header of a WAV file; the latter has the true one behind."""
CODINGS = {PCM: "", 3: " as floats", 6: " in A-law", 7: " in mu-law"}
PIECE_S = 0.02
OTHERS = {
    b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file",
    b"ID3": "an MP3 file",
    b"FORM": "an AIFF file",
    b".snd": "an AU file",
    b"caff": "a CAF file",
    b"RF64": "an RF64 file",
    b"RIFX": "a RIFX file",
    b"\x1aE\xdf\xa3": "a WebM or Matroska file",
}
MPEG_1 = 3
MP3_RATES = {MPEG_1: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""In hertz, by the version that a frame's header names, 2 being MPEG 2 and 0 MPEG 2.5."""
MP3_KBPS = (
    (None, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, None),
    (None, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, None),  # of MPEG 1
)


def raw_pcm(pipe: BinaryIO, sample_rate: int) -> Iterator[Samples]:
    """16-bit little-endian mono at `sample_rate` as it arrives; an odd byte waits for its other half.

    A WAV header in front is skipped, since arecord writes one unless told otherwise; it must say the same. What stands
    behind the samples of a WAV file, such as tags, is not heard.
    """
    data, left = b"", sys.maxsize
    while len(data) < 8 and (more := _read(pipe)):
        data += more
    if len(data) < 2:
        raise AudioError("Standard input holds no sample: whatever should send audio sent none.")
    kinds = OTHERS | {data[:4] + b"ftyp": "an MP4 file"}  # which says first how long that is
    for magic, kind in kinds.items():
        if data.startswith(magic):
            raise _no_samples(kind)
    if size := _mp3_frame_bytes(data):
        while len(data) < size + 4 and (more := _read(pipe)):
            data += more
        if _mp3_frame_bytes(data[size:]):  # one such header may be sound, two at this distance are none
            raise _no_samples("an MP3 file")
    if data.startswith(b"RIFF"):
        data, left = _without_header(data, pipe, sample_rate)
    while True:
        whole = min(len(data), left) // 2 * 2
        left -= whole
        samples: Samples = np.frombuffer(data[:whole], dtype="<i2").astype(np.float32) / np.float32(2**15)
        if whole:
            yield samples
        if left < 2 or not (more := _read(pipe)):
            return
        data = data[whole:] + more


def _no_samples(kind: str) -> AudioError:
    return AudioError(f"Standard input holds {kind}, not raw samples: use ds2 transcribe -, or give its path.")


def _mp3_frame_bytes(data: bytes) -> int:
    """The length of the frame of MPEG audio layer III whose header begins `data` (ISO/IEC 11172-3, 2.4.1.3, and 13818-3
    for lower rates); 0 where none does."""
    header = int.from_bytes(data[:4], "big")
    sync, version, layer = header >> 21, header >> 19 & 3, header >> 17 & 3
    kbps, rate = MP3_KBPS[version == MPEG_1][header >> 12 & 15], header >> 10 & 3
    if (sync, layer) != (0x7FF, 1) or version not in MP3_RATES or kbps is None or rate == 3:
        return 0
    return (144_000 if version == MPEG_1 else 72_000) * kbps // MP3_RATES[version][rate] + (header >> 9 & 1)


def _without_header(data: bytes, pipe: BinaryIO, sample_rate: int) -> tuple[bytes, int]:
    """What follows the header of a WAV file (RIFF: 12 bytes, then chunks of a name, a length and so many bytes), and
    how many bytes of samples there are; more than can be where it does not say."""
    at, layout = 12, -1
    while True:
        while len(data) < at + 8:
            if at > HEADER_BYTES or not (more := _read(pipe)):
                raise AudioError("Standard input begins like a WAV file and holds no samples.")
            data += more
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"data":
            break
        if name == b"fmt ":
            layout = at + 8
        at += 8 + length + length % 2
    if layout < 0:
        raise AudioError(
            "Standard input is a WAV file whose samples come before its format: it is damaged, record it anew."
        )
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data.ljust(layout + 16), layout)
    if kind == EXTENSIBLE:  # as ffmpeg writes it from 48 kHz on
        (kind,) = struct.unpack_from("<H", data.ljust(layout + 26), layout + 24)
    coding = CODINGS.get(kind, f" in coding {kind}")
    if (kind, channels, bits) != (PCM, 1, 16):
        raise AudioError(
            f"Standard input is a WAV file of {channels} {'channel' if channels == 1 else 'channels'} with {bits} "
            f"bits{coding}, not 16-bit mono: record it as arecord -f S16_LE -c 1 does, or use ds2 transcribe -."
        )
    if rate != sample_rate:
        raise AudioError(f"Standard input is a WAV file at {rate} Hz, not {sample_rate}: add --rate {rate}.")
    return data[at + 8 :], length if 0 < length < NO_LENGTH else sys.maxsize


def _read(pipe: BinaryIO) -> bytes:
    data: bytes = pipe.read1(READ_BYTES)  # type: ignore[attr-defined]  # what is there, without waiting for more
    return data


def played(source: AudioSource, sample_rate: int) -> Iterator[Samples]:
    """A recording in pieces of 20 ms, each when a microphone would have given it."""
    start, heard = time.monotonic(), 0
    size = max(round(PIECE_S * sample_rate), 1)
    for block in audio_blocks(source, sample_rate):
        for begin in range(0, len(block), size):
            piece = block[begin : begin + size]
            heard += len(piece)
            time.sleep(max(start + heard / sample_rate - time.monotonic(), 0))
            yield piece
