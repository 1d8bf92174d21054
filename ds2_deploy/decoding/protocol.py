"""Decoder, StreamDecoder and Hypothesis. NumPy alone."""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class TimedWord(NamedTuple):
    """A word of a recording, as the command line's JSON has it."""

    word: str
    start_s: float
    end_s: float
    confidence: float
    """From 0 to 1."""


class Word(NamedTuple):
    """A word and the frames in which it was heard."""

    text: str
    start: int
    """The first frame of its first letter."""
    end: int
    """The frame after its last letter."""
    confidence: float
    """From 0 to 1: the probability of its least probable letter."""

    def timed(self, frame_s: float, begin_s: float = 0.0, end_s: float = float("inf")) -> TimedWord:
        """In seconds of a recording, whose frames begin at `begin_s`, and which ends at `end_s`."""
        start, end = (min(begin_s + frame * frame_s, end_s) for frame in (self.start, self.end))
        return TimedWord(self.text, start, end, self.confidence)


class Reading(NamedTuple):
    """One of several that a search found, with its scores apart; natural logarithms."""

    text: str
    score: float
    """All together: Q of ds2_deploy/decoding/search.py."""
    acoustic: float
    """ln P_ctc."""
    language: float
    """What language model, words and hot words added."""


class Hypothesis(NamedTuple):
    """One reading of an utterance."""

    text: str
    score: float
    """Natural logarithm: how probable the decoder finds this reading."""
    words: tuple[Word, ...] = ()
    readings: tuple[Reading, ...] = ()
    """The best ones, this among them, where a search was asked for several."""


class StreamDecoder(Protocol):
    """Decodes one utterance piece by piece."""

    @property
    def frames(self) -> int:
        """Taken in so far."""
        ...

    @property
    def spoken(self) -> tuple[int, int] | None:
        """The first frame with a letter and the one after the last; None while there is none."""
        ...

    def accept(self, log_probs: npt.NDArray[np.float32]) -> None:
        """`log_probs` (t, V), the next frames of the utterance; t may be 0."""
        ...

    def hypothesis(self) -> Hypothesis:
        """The best reading of all frames so far, without its words."""
        ...

    def finish(self) -> Hypothesis:
        """The best reading of the whole utterance, with its words; nothing can be added any more."""
        ...

    def stable(self) -> str:
        """The whole words at the start of the reading that no later frame can change."""
        ...

    def next(self) -> "StreamDecoder":
        """For the utterance that follows on the next frame: a label that goes on is not a second one."""
        ...


class Decoder(Protocol):
    """Turns the emissions of one utterance into text."""

    def decode(self, log_probs: npt.NDArray[np.float32]) -> Hypothesis:
        """`log_probs` (T, V), the valid frames of one utterance; T may be 0."""
        ...

    def start(self) -> StreamDecoder:
        """For an utterance that comes in pieces; at its end the reading is that of `decode`."""
        ...
