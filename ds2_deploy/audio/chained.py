"""Files that hold several recordings one after the other, as `cat a.mp3 b.mp3` and radio recorders make them.

libsndfile reads the first and takes its end for the file's, without a word.
"""

from typing import BinaryIO

BEGINS = 2
"""The flag of a page that begins a stream (RFC 3533, section 6)."""
FRAME_BYTES = 200
"""Of an MP3 frame, from its beginning: more than stand before the tag that tells how much follows."""
TAGS = (b"Xing", b"Info")
BYTES_TOLD = 2
"""The flag of such a tag with the number of bytes of the whole recording in it."""


def is_chained(file: BinaryIO, kind: str) -> bool:
    """Whether `file`, of libsndfile's kind (OGG, MP3), goes on with another recording after the first."""
    return {"OGG": _ogg, "MP3": _mp3}.get(kind, _never)(file)


def _never(_: BinaryIO) -> bool:
    return False


def _ogg(file: BinaryIO) -> bool:
    """Streams side by side all begin before any of them goes on."""
    at, goes_on = 0, False
    while True:
        file.seek(at)
        page = file.read(27)
        if len(page) < 27 or not page.startswith(b"OggS"):
            return False
        begins = bool(page[5] & BEGINS)
        if begins and goes_on:
            return True
        goes_on |= not begins
        segments = file.read(page[26])
        at += 27 + len(segments) + sum(segments)


def _mp3(file: BinaryIO) -> bool:
    """Whether another frame with a tag follows where the first one's says that its recording ends."""
    start = _after_id3(file, 0)
    told = _bytes_told(file, start) or 0
    return told > 0 and _bytes_told(file, _after_id3(file, start + told)) is not None


def _after_id3(file: BinaryIO, at: int) -> int:
    """Where the sound begins: after an ID3v2 tag, if there is one, whose header of 10 bytes ends with its length in
    four times seven bits."""
    file.seek(at)
    head = file.read(10)
    if len(head) < 10 or not head.startswith(b"ID3"):
        return at
    size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return at + 10 + size


def _bytes_told(file: BinaryIO, at: int) -> int | None:
    """Of a recording whose first frame lies there; 0 where its tag tells no length, None where there is no tag."""
    file.seek(at)
    frame = file.read(FRAME_BYTES)
    if len(frame) < 2 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    place = max(frame.find(tag) for tag in TAGS)
    if place < 0 or place + 16 > len(frame):
        return None
    flags = int.from_bytes(frame[place + 4 : place + 8], "big")
    after_frames = place + 8 + 4 * (flags & 1)  # the number of frames comes before
    return int.from_bytes(frame[after_frames : after_frames + 4], "big") if flags & BYTES_TOLD else 0
