"""Formats of transcripts, each a class and a line in WRITERS. A writer puts each transcript out at once."""

import json
import re
from typing import Any, NamedTuple, TextIO

from ds2_deploy.decoding.protocol import Reading, TimedWord
from ds2_deploy.errors import ConfigError
from ds2_deploy.output.subtitles import LINE_CHARACTERS, Cue, cues, lines
from ds2_deploy.output.turns import Turn


class Transcript(NamedTuple):
    """What is written about one recording."""

    path: str
    """As the user named it."""
    text: str
    duration_s: float
    passages: tuple[tuple[float, float, str], ...] = ()
    """Start and end in seconds and text of each piece of a recording that was cut at silences."""
    words: tuple[TimedWord, ...] = ()
    channel: int | None = None
    """The one that was heard; None where all were, as their mean or, with `turns`, each by itself."""
    turns: tuple[Turn, ...] | None = None
    """Where each channel was heard apart: who spoke when. `text` and `words` are empty then."""
    readings: tuple[Reading, ...] = ()
    """Where several were asked for, of a recording that was heard in one piece."""
    word_separator: str = " "
    """What stands between words, as the alphabet has it."""

    @property
    def channels(self) -> dict[int, list[TimedWord]]:
        """Channel -> its words in order."""
        if self.turns is None:
            return {self.channel or 0: list(self.words)}
        found: dict[int, list[TimedWord]] = {}
        for turn in sorted(self.turns, key=lambda turn: turn.channel):
            found.setdefault(turn.channel, []).extend(turn.words)
        return found

    def cues(self) -> list[tuple[int | None, Cue]]:
        """Subtitles in order, each with its channel where there are several, and room for it in the lines."""
        found = [(None if self.turns is None else channel, words) for channel, words in self.channels.items()]
        every = [
            (channel, cue) for channel, words in found for cue in cues(words, self.word_separator, _width(channel))
        ]
        return sorted(every, key=lambda item: item[1].start_s)


class TextWriter:
    """The transcript alone, or a line `path<TAB>transcript` for each of several; of a call, a line a turn, with the
    channel before what was said.

    Every writer is made with `single`: whether there is but one recording, with nothing to tell it from.
    """

    suffix = ".txt"
    """Of files in this format."""
    joins = True
    """Whether one file can hold several recordings."""

    def __init__(self, stream: TextIO, *, single: bool) -> None:
        self.stream = stream
        self.single = single

    def write(self, transcript: Transcript) -> None:
        path = "" if self.single else f"{transcript.path}\t"
        if transcript.turns is not None:
            self._put("".join(f"{path}{turn.channel}\t{turn.text}\n" for turn in transcript.turns))
        else:
            self._put(f"{path}{transcript.text}\n")

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
        "text": transcript.text or transcript.word_separator.join(turn.text for turn in transcript.turns or ()),
        "duration_s": round(transcript.duration_s, 3),
    }
    if transcript.channel is not None:
        fields["channel"] = transcript.channel
    if transcript.passages:
        fields["segments"] = [
            {"start_s": round(start_s, 3), "end_s": round(end_s, 3), "text": text}
            for start_s, end_s, text in transcript.passages
        ]
    if transcript.turns is not None:
        fields["turns"] = [
            {"channel": t.channel, "start_s": round(t.start_s, 3), "end_s": round(t.end_s, 3), "text": t.text}
            for t in transcript.turns
        ]
        words = [{"channel": t.channel, **rounded(word)} for t in transcript.turns for word in t.words]
        fields["words"] = sorted(words, key=lambda word: word["start_s"])
    else:
        fields["words"] = [rounded(word) for word in transcript.words]
    if transcript.readings:
        fields["readings"] = [rounded(reading) for reading in transcript.readings]
    return to_json(fields)


def to_json(fields: dict[str, Any], indent: int | None = None) -> str:
    """In the letters of the languages; bytes of names that are not UTF-8 as escapes, which read back as the same."""
    text = json.dumps(fields, ensure_ascii=False, indent=indent)
    return re.sub("[\ud800-\udfff]", lambda byte: f"\\u{ord(byte[0]):04x}", text)


def rounded(fields: NamedTuple) -> dict[str, Any]:
    """By name, with numbers to the thousandth."""
    return {n: round(value, 3) if isinstance(value, float) else value for n, value in fields._asdict().items()}


class SrtWriter(TextWriter):
    """SubRip: numbered subtitles."""

    suffix = ".srt"
    joins = False

    def write(self, transcript: Transcript) -> None:
        for number, (channel, (start_s, end_s, text)) in enumerate(transcript.cues(), 1):
            first, *others = lines(text, _width(channel))
            self._put(f"{number}\n" + _shown(start_s, end_s, ",", [_mark(channel) + first, *others]))


class VttWriter(TextWriter):
    """WebVTT, as browsers show it."""

    suffix = ".vtt"
    joins = False

    def write(self, transcript: Transcript) -> None:
        self._put("WEBVTT\n\n")
        for channel, (start_s, end_s, text) in transcript.cues():
            shown = [line.translate(VTT_ESCAPES) for line in lines(text)]
            if channel is not None:
                shown[0] = f"<v Channel {channel}>{shown[0]}"
            self._put(_shown(start_s, end_s, ".", shown))


VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class TsvWriter(TextWriter):
    """Start and end in milliseconds and text of each subtitle, below a heading: the columns of Whisper's."""

    suffix = ".tsv"
    joins = False

    def write(self, transcript: Transcript) -> None:
        self._put("start\tend\ttext\n")
        for channel, (start_s, end_s, text) in transcript.cues():
            self._put(f"{round(start_s * 1000)}\t{round(end_s * 1000)}\t{_mark(channel)}{text}\n")


class CtmWriter(TextWriter):
    """A line a word, as NIST's sclite reads them: recording, channel, start, duration, word, confidence."""

    suffix = ".ctm"

    def write(self, transcript: Transcript) -> None:
        name = "_".join(transcript.path.split())
        for channel, words in transcript.channels.items():
            for word, start_s, end_s, confidence in words:
                times = f"{start_s:.3f} {end_s - start_s:.3f}"
                self._put(f"{name} {channel + 1} {times} {'_'.join(word.split())} {confidence:.3f}\n")


def _mark(channel: int | None) -> str:
    """What stands before the first line of a subtitle: the channel, where there are several."""
    return "" if channel is None else f"[{channel}] "


def _width(channel: int | None) -> int:
    """Characters of a line beside that."""
    return LINE_CHARACTERS - len(_mark(channel))


def _shown(start_s: float, end_s: float, point: str, shown: list[str]) -> str:
    """Times, lines and an empty line of a subtitle."""
    return "\n".join((f"{_clock(start_s, point)} --> {_clock(end_s, point)}", *shown, "", ""))


def _clock(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


WRITERS: dict[str, type[TextWriter]] = {
    "text": TextWriter, "json": JsonWriter, "jsonl": JsonLinesWriter,
    "srt": SrtWriter, "vtt": VttWriter, "tsv": TsvWriter, "ctm": CtmWriter,
}  # fmt: skip


def writer_class(format_name: str) -> type[TextWriter]:
    """The writer of this format; ConfigError where there is none."""
    if format_name not in WRITERS:
        raise ConfigError(f"There is no format {format_name!r}: choose {', '.join(WRITERS)}.")
    return WRITERS[format_name]
