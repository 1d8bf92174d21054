"""Formats of transcripts, each a class and a line in WRITERS. A writer puts each transcript out at once."""

import json
import re
from typing import Any, NamedTuple, TextIO

from ds2_deploy.errors import ConfigError


class Transcript(NamedTuple):
    """What is written about one recording."""

    path: str
    """As the user named it."""
    text: str
    duration_s: float
    passages: tuple[tuple[float, float, str], ...] = ()
    """Start and end in seconds and text of each piece of a recording that was cut at silences."""


class TextWriter:
    """The transcript alone, or a line `path<TAB>transcript` for each of several.

    Every writer is made with `single`: whether there is but one recording, with nothing to tell it from.
    """

    suffix = ".txt"
    """Of files in this format."""

    def __init__(self, stream: TextIO, *, single: bool) -> None:
        self.stream = stream
        self.single = single

    def write(self, transcript: Transcript) -> None:
        self._put(f"{transcript.text}\n" if self.single else f"{transcript.path}\t{transcript.text}\n")

    def close(self) -> None:
        """Write what ends the format, also after an interruption; the stream stays open."""

    def _put(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class JsonLinesWriter(TextWriter):
    """An object a line."""

    suffix = ".jsonl"

    def write(self, transcript: Transcript) -> None:
        self._put(_json(transcript) + "\n")


class JsonWriter(TextWriter):
    """One object, or an array of them."""

    suffix = ".json"

    def __init__(self, stream: TextIO, *, single: bool) -> None:
        super().__init__(stream, single=single)
        self._before, self._end = ("", "") if single else ("[\n", "[]\n")

    def write(self, transcript: Transcript) -> None:
        before, self._before = self._before, ",\n"
        self._end = "\n" if self.single else "\n]\n"  # set first: an interruption may come as soon as text is out
        self._put(before + _json(transcript))

    def close(self) -> None:
        self._put(self._end)


def _json(transcript: Transcript) -> str:
    fields: dict[str, Any] = {
        "path": transcript.path,
        "text": transcript.text,
        "duration_s": round(transcript.duration_s, 3),
    }
    if transcript.passages:
        fields["segments"] = [
            {"start_s": round(start_s, 3), "end_s": round(end_s, 3), "text": text}
            for start_s, end_s, text in transcript.passages
        ]
    text = json.dumps(fields, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda byte: f"\\u{ord(byte[0]):04x}", text)  # names that are not UTF-8


WRITERS: dict[str, type[TextWriter]] = {"text": TextWriter, "json": JsonWriter, "jsonl": JsonLinesWriter}
LATER = ("srt", "vtt", "ctm", "tsv")


def writer_class(format_name: str) -> type[TextWriter]:
    """The writer of this format; ConfigError where there is none."""
    if format_name in LATER:
        raise ConfigError(f"The format {format_name} comes with a later release: choose {', '.join(WRITERS)}.")
    if format_name not in WRITERS:
        raise ConfigError(f"There is no format {format_name!r}: choose {', '.join(WRITERS)}.")
    return WRITERS[format_name]
