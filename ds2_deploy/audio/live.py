"""Audio as it comes: raw samples from a pipe, or a recording played at its own speed.

Both yield (S_i,) float32 samples in [-1, 1].
"""

import time
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ds2_deploy.audio.load import AudioSource, Samples, audio_blocks
from ds2_deploy.errors import AudioError

READ_BYTES = 65536
"""At most; a pipe gives what it has."""
PIECE_S = 0.02
MAGIC = {b"RIFF": "a WAV file", b"fLaC": "a FLAC file", b"OggS": "an Ogg file", b"ID3": "an MP3 file"}


def raw_pcm(pipe: BinaryIO) -> Iterator[Samples]:
    """16-bit little-endian mono as it arrives; an odd byte waits for its other half."""
    data = b""
    while len(data) < 4 and (more := _read(pipe)):
        data += more
    for magic, kind in MAGIC.items():
        if data.startswith(magic):
            raise AudioError(f"Standard input holds {kind}, not raw samples: use ds2 transcribe -, or give its path.")
    while data:
        whole = len(data) // 2 * 2
        samples: Samples = np.frombuffer(data[:whole], dtype="<i2").astype(np.float32) / np.float32(2**15)
        if whole:
            yield samples
        more = _read(pipe)
        data = data[whole:] + more if more else b""


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
