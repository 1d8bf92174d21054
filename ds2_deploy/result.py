"""Result: what became of one recording, whether it was heard as a whole, in segments or as a stream."""

from typing import NamedTuple

import numpy as np

from ds2_deploy.audio.load import AudioSource, Samples, source_name
from ds2_deploy.decoding.protocol import Hypothesis, TimedWord
from ds2_deploy.errors import DS2Error, InferenceError

Source = AudioSource | Samples
"""An audio file, or samples (S,) at the model's rate."""


class Passage(NamedTuple):
    """What was said in one piece of a recording that was cut at silences."""

    start_s: float
    end_s: float
    text: str


class Result(NamedTuple):
    """What became of one source: a hypothesis or an error."""

    source: Source
    hypothesis: Hypothesis | None
    duration_s: float
    error: DS2Error | None
    passages: tuple[Passage, ...] = ()
    """Of a recording longer than `max_segment_s`, the pieces with speech, in order."""
    words: tuple[TimedWord, ...] = ()
    """In seconds of the recording."""


def about(source: Source, error: Exception) -> InferenceError:
    """The error with the name of the recording."""
    name = "samples" if isinstance(source, np.ndarray) else source_name(source)
    return InferenceError(f"{name}: {error}")
