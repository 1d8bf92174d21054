"""A call with a speaker on each channel: who spoke when."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from ds2_deploy.decoding.protocol import TimedWord
from ds2_deploy.output.subtitles import joined

PAUSE_S = 1.0
"""A silence that long ends a turn: somebody else may have spoken in it."""


class Turn(NamedTuple):
    """What one channel's speaker said without a pause."""

    channel: int
    words: tuple[TimedWord, ...]
    word_separator: str = " "
    """What stands between words, as the alphabet has it."""

    @property
    def start_s(self) -> float:
        return self.words[0].start_s

    @property
    def end_s(self) -> float:
        return self.words[-1].end_s

    @property
    def text(self) -> str:
        return joined(self.words, self.word_separator)


def turns(channels: Iterable[Sequence[TimedWord]], separator: str = " ") -> tuple[Turn, ...]:
    """Of all channels' words, in the order in which they begin; two may speak at once."""
    found = [Turn(channel, part, separator) for channel, words in enumerate(channels) for part in _parted(words)]
    return tuple(sorted(found, key=lambda turn: (turn.start_s, turn.channel)))


def _parted(words: Sequence[TimedWord]) -> Iterable[tuple[TimedWord, ...]]:
    """At pauses."""
    cuts = [i for i, (one, two) in enumerate(pairwise(words), 1) if two.start_s - one.end_s >= PAUSE_S]
    return [tuple(words[begin:end]) for begin, end in pairwise([0, *cuts, len(words)]) if end > begin]
