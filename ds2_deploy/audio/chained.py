"""Files that hold several recordings one after the other, as `cat a.mp3 b.mp3` and radio recorders make them.

libsndfile reads the first and takes its end for the file's, without a word.
"""

from collections.abc import Callable
from typing import BinaryIO

BEGINS = 2
"""The flag of a page that begins a stream (RFC 3533, section 6)."""
FRAME_BYTES = 200
"""Of an MP3 frame, from its beginning: more than stand before the tag that tells how much follows."""
TAGS = (b"Xing", b"Info")
TRAILERS: tuple[tuple[bytes, Callable[[bytes], int]], ...] = (
    (b"APETAGEX", lambda header: 32 + int.from_bytes(header[12:16], "little")),
    (b"TAG", lambda _: 128),
)
"""Tags that may follow a recording (APE version 2, ID3 version 1), and their sizes in bytes by their beginnings."""
MORE = 4096
"""Bytes: more than the one frame, of at most 1441, that some encoders leave out of what they tell."""
BYTES_TOLD = 2
"""The flag of such a tag with the number of bytes of the whole recording in it."""
KINDS = ("OGG", "MP3")
"""libsndfile's names of those that this happens to."""


def is_chained(file: BinaryIO, kind: str) -> bool:
    """Whether `file`, of one of KINDS, goes on with another recording after the first."""
    return _ogg(file) if kind == "OGG" else _mp3(file)


def _ogg(file: BinaryIO) -> bool:
    """Streams side by side all begin before any of them goes on."""
    at, goes_on = 0, False
    while True:
        page = _read_at(file, at, 27)
        if len(page) < 27 or not page.startswith(b"OggS"):
            return False
        begins = bool(page[5] & BEGINS)
        if begins and goes_on:
            return True
        goes_on |= not begins
        segments = file.read(page[26])
        at += 27 + len(segments) + sum(segments)


def _mp3(file: BinaryIO) -> bool:
    """Whether more than one frame follows where the first one's tag says that the recording ends.

    Without such a tag libsndfile reads on.
    """
    start = _after_id3(file, 0)
    if not (told := _bytes_told(file, start)):
        return False
    kind, at = _read_at(file, start, 2), start + told
    for tag, size in TRAILERS:
        if _read_at(file, at, len(tag)) == tag:
            at += size(_read_at(file, at, 32))
    at = _after_id3(file, at)
    return _read_at(file, at, 2) == kind and len(_read_at(file, at, MORE)) == MORE


def _after_id3(file: BinaryIO, at: int) -> int:
    """Where the sound begins: after an ID3v2 tag, if there is one, whose header of 10 bytes ends with its length in
    four times seven bits."""
    head = _read_at(file, at, 10)
    if len(head) < 10 or not head.startswith(b"ID3"):
        return at
    size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return at + 10 + size


def _bytes_told(file: BinaryIO, at: int) -> int:
    """Of a recording whose first frame lies there; 0 where there is no tag that tells."""
    frame = _read_at(file, at, FRAME_BYTES)
    place = max(frame.find(tag) for tag in TAGS)
    if frame[:1] != b"\xff" or place < 0 or place + 16 > len(frame):
        return 0
    flags = int.from_bytes(frame[place + 4 : place + 8], "big")
    after_frames = place + 8 + 4 * (flags & 1)  # the number of frames comes before
    return int.from_bytes(frame[after_frames : after_frames + 4], "big") if flags & BYTES_TOLD else 0


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
