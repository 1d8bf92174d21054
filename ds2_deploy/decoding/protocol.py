"""Decoder and Hypothesis. NumPy alone."""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Hypothesis(NamedTuple):
    """One reading of an utterance."""

    text: str
    score: float
    """Natural logarithm: how probable the decoder finds this reading."""


class Decoder(Protocol):
    """Turns the emissions of one utterance into text."""

    def decode(self, log_probs: npt.NDArray[np.float32]) -> Hypothesis:
        """`log_probs` (T, V), the valid frames of one utterance; T may be 0."""
        ...
