"""Subtitles beside a recording, SubRip's and WebVTT's: what was said when."""

import html
import re
from pathlib import Path

from training.corpora.entry import Dropped, Entry, Items, Part, Reason, seconds, text_file

TIMES = re.compile(r"([\d:]+[.,]\d+)[ \t]*-->[ \t]*([\d:]+[.,]\d+).*")
"""Behind them may be where on the screen it stands."""
MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")
VOICE = re.compile(r"<v(?:\.\S*)?\s+([^>]+)>")
CHANNEL = re.compile(r"\[(\d+)\] |<v Channel (\d+)>")
"""How `ds2 transcribe --channel each` begins a subtitle."""


def read_subtitles(audio: Path, subtitles: Path) -> Items:
    """An utterance per subtitle."""
    with text_file(subtitles) as file:
        blocks = re.split(r"\n[ \t]*\n", file.read())
    found = False
    for block in blocks:
        if times := TIMES.search(block):
            found = True
            yield _utterance(audio, subtitles, times, block[times.end() :].strip())
    if not found:
        yield Dropped(str(audio), Reason.MALFORMED, f"{subtitles.name} holds no subtitles")


def _utterance(audio: Path, subtitles: Path, times: re.Match[str], shown: str) -> Entry | Dropped:
    channel, voice = CHANNEL.match(shown), VOICE.search(shown)
    number = None
    if channel:
        number, voice, shown = int(channel[1] or channel[2]), None, shown[channel.end() :]
    try:
        part = Part.between(seconds(times[1]), seconds(times[2]), number)
    except ValueError as error:
        return Dropped(str(audio), Reason.MALFORMED, f"{subtitles.name}: {error}")
    text = html.unescape(MARKUP.sub("", shown))
    return Entry(str(audio), text, speaker=voice[1].strip() if voice else "", part=part)
