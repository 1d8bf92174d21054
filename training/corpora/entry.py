"""What a corpus says, before anything is checked: entries, and what had to be dropped and why."""

import codecs
import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TextIO

from ds2_deploy.audio.find import recording_files
from ds2_deploy.errors import AudioNotFoundError, ManifestError


class Part(NamedTuple):
    """A stretch of a longer recording, which becomes a file of its own: manifests know whole files alone."""

    start_s: float
    duration_s: float
    """Infinite where it goes to the recording's end."""
    channel: int | None = None
    """Take this channel alone, 0 being the first; None keeps all."""

    @classmethod
    def between(cls, start_s: float, end_s: float, channel: int | None = None) -> "Part":
        """ValueError where it ends before it begins."""
        if end_s <= start_s:
            raise ValueError(f"it begins at {start_s:g} s and ends at {end_s:g} s")
        return cls(start_s, round(end_s - start_s, 6), channel)

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


class Entry(NamedTuple):
    """One utterance of a corpus. Paths are strings: a million Path objects weigh a gigabyte."""

    audio: str
    text: str
    speaker: str = ""
    part: Part | None = None
    score: float | None = None
    """How well an aligned text fits its recording."""
    recording: str = ""
    """What `audio` was cut from, where it is known for a part."""


class Dropped(NamedTuple):
    """Something that is not in the manifest."""

    item: str
    """The audio file; where there is none, the file and line that name it."""
    reason: "Reason"
    detail: str = ""


class Note(NamedTuple):
    """How a corpus was understood, where that is no matter of course."""

    text: str
    """A sentence."""


FAULTS = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
"""What reading a line of JSON raises where it is not what it should be."""


def fault(error: Exception) -> str:
    """What is wrong with a line of JSON, by what reading it raised."""
    match error:
        case json.JSONDecodeError():
            return f"it is not JSON: {error.msg}"
        case KeyError():
            return f"it has no field {error}"
        case ValueError():
            return str(error)
        case RecursionError():
            return "it is nested too deep"
        case _:
            return "something in it is of a wrong type"


Items = Iterator[Entry | Dropped | Note]


class Reason(StrEnum):
    """Why something is not in the manifest."""

    UNREADABLE = "audio cannot be read"
    NO_AUDIO = "audio is not there"
    SILENT = "audio is silence alone"
    MALFORMED = "line cannot be understood"
    NO_TRANSCRIPT = "audio without transcript"
    UNUSED_TRANSCRIPT = "transcript without audio"
    EMPTY_TEXT = "text is empty"
    BEYOND = "its text goes beyond the cut"
    TOO_SHORT = "too short"
    TOO_LONG = "too long"
    TOO_FAST = "too much text for its duration"
    TOO_SLOW = "too little text for its duration"
    DUPLICATE = "a second time"
    COPY = "a copy of another recording"
    OTHER_TEXT = "a copy of another recording, with another text"

    @property
    def is_failure(self) -> bool:
        """Whether the corpus promises what it does not hold; the rest is the limits' or the corpus's choice."""
        return self in (Reason.UNREADABLE, Reason.NO_AUDIO, Reason.SILENT, Reason.MALFORMED)


def seconds(time: str) -> float:
    """Of a number of them, or hours, minutes and seconds; ValueError where it is neither."""
    try:
        *longer, last = time.replace(",", ".").split(":")
        minutes = 0
        for number in longer:
            minutes = 60 * minutes + int(number)
        found = 60 * minutes + float(last)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(f"{time!r} is no time in a recording: write seconds, or h:mm:ss")
    return found


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong while the text file `path` is read becomes one sentence."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"Cannot read {path}: it is not UTF-8 text. Convert it (iconv -f cp1252 -t utf-8), or save it in Excel as "
            "CSV UTF-8."
        ) from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise ManifestError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


@contextmanager
def text_file(path: Path, *, errors: str = "strict", newline: str | None = None) -> Iterator[TextIO]:
    """A text file to read, gzipped or not: UTF-8, or what a byte order mark says; the rest as in `open`."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        marked = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        yield io.TextIOWrapper(file, "utf-16" if marked else "utf-8-sig", errors, newline)


def lines_of(path: Path, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Numbers and content of the lines of a text file that are not blank; what cannot be decoded is an error, or what
    `errors` says, as in `open`."""
    with readable(path), text_file(path, errors=errors) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def audio_files(folder: Path, *, recursive: bool = True) -> list[Path]:
    """The recordings of a folder by name, none where it holds none; AudioError where one below cannot be read."""
    try:
        return recording_files(folder, recursive=recursive)
    except AudioNotFoundError:
        return []


def audio_by_stem(folder: Path, *, recursive: bool = True) -> dict[str, Path]:
    """The recording of each name without suffix; where there are several formats, WAV or FLAC."""
    files = audio_files(folder, recursive=recursive)
    return {path.stem: path for path in sorted(files, key=lambda path: path.suffix.lower() in (".flac", ".wav"))}
