"""Subtitles out of timed words: broken at pauses, short enough to read, long enough to be seen.

Lines and durations as broadcasters ask for them (BBC and Netflix: two lines of at most 42 characters, 5/6 to 7 s).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from ds2_deploy.decoding.protocol import TimedWord

LINE_CHARACTERS = 42
LINES = 2
SHORTEST_S, LONGEST_S = 5 / 6, 7.0
PAUSE_S = 0.8
"""A silence that long begins a new subtitle."""
LINGER_S = 0.3
"""A subtitle stays that long after its last word, where nothing follows: words end early in a recogniser's ear."""
GAP_S = 0.04
"""Between two subtitles: a frame of film, so that the eye sees the change."""


class Cue(NamedTuple):
    """What is shown at once."""

    start_s: float
    end_s: float
    text: str


def cues(words: Iterable[TimedWord], separator: str = " ", width: int = LINE_CHARACTERS) -> Iterator[Cue]:
    """Subtitles in order, none overlapping the next; together they hold every word once, with `separator` between them.

    Their lines have at most `width` characters, but for a single longer word.
    """
    groups = list(_groups(words, separator, width))
    for group, following in zip_longest(groups, groups[1:]):
        start_s = group[0].start_s
        end_s = min(max(group[-1].end_s + LINGER_S, start_s + SHORTEST_S), start_s + LONGEST_S)
        if following:
            end_s = min(end_s, max(following[0].start_s - GAP_S, group[-1].end_s))
        yield Cue(start_s, end_s, joined(group, separator))


def _groups(words: Iterable[TimedWord], separator: str, width: int) -> Iterator[list[TimedWord]]:
    group: list[TimedWord] = []
    for word in words:
        if group and not _fits(group, word, separator, width):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _fits(group: list[TimedWord], word: TimedWord, separator: str, width: int) -> bool:
    """Whether the subtitle can go on with this word."""
    pause_s = word.start_s - group[-1].end_s
    shown = lines(joined([*group, word], separator), width)
    short = len(shown) <= LINES and all(len(line) <= width for line in shown)
    return pause_s < PAUSE_S and word.end_s - group[0].start_s <= LONGEST_S and short


def joined(words: Sequence[TimedWord], separator: str) -> str:
    """A text of them; `separator` is the alphabet's for words."""
    return separator.join(word.word for word in words)


def lines(text: str, width: int = LINE_CHARACTERS) -> list[str]:
    """One line where it fits; else two as equal as the words allow, or, where even those are too long, as many as it
    takes."""
    if len(text) <= width:
        return [text]
    breaks = [i for i, character in enumerate(text) if character == " "]
    if not breaks:
        middle = width if len(text) > LINES * width else (len(text) + 1) // 2
        return [text[:middle], *lines(text[middle:], width)]
    middle = min(breaks, key=lambda i: abs(i - len(text) / 2))
    first, second = text[:middle], text[middle + 1 :]
    return [*lines(first, width), *lines(second, width)]
