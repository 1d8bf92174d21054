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
            raise AudioError(f"Standard input holds {kind}, not raw samples: use ds2 transcribe -, or give its path.")
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
    coding = "" if kind == PCM else f" in coding {kind}"
    if (kind, channels, bits) != (PCM, 1, 16):
        raise AudioError(
            f"Standard input is a WAV file of {channels} channels with {bits} bits{coding}, not 16-bit mono: record it "
            "as arecord -f S16_LE -c 1 does, or use ds2 transcribe -."
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
