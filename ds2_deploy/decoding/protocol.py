"""Decoder, StreamDecoder and Hypothesis. NumPy alone."""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Hypothesis(NamedTuple):
    """One reading of an utterance."""

    text: str
    score: float
    """Natural logarithm: how probable the decoder finds this reading."""


class StreamDecoder(Protocol):
    """Decodes one utterance piece by piece."""

    frames: int
    """Taken in so far."""
    spoken: tuple[int, int] | None
    """The first frame with a letter and the one after the last; None while there is none."""

    def accept(self, log_probs: npt.NDArray[np.float32]) -> None:
        """`log_probs` (t, V), the next frames of the utterance; t may be 0."""
        ...

    def hypothesis(self) -> Hypothesis:
        """The best reading of all frames so far."""
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
