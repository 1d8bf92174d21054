"""Result: what became of one recording, whether it was heard as a whole, in segments or as a stream."""

import os
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ds2_deploy.audio.load import AudioSource, Bytes, Channel, Samples, source_name
from ds2_deploy.decoding.outcome import Outcome
from ds2_deploy.decoding.protocol import Hypothesis, TimedWord
from ds2_deploy.errors import AudioError, DS2Error, InferenceError

Source = AudioSource | Samples
"""An audio file, or samples (S,) at the model's rate."""
Given = TypeVar("Given", bound=Source)


class Passage(NamedTuple):
    """What was said in one piece of a recording that was cut at silences."""

    start_s: float
    end_s: float
    text: str


class Result(NamedTuple):
    """What became of one source: a hypothesis or an error."""

    source: Source
    outcome: Outcome
    duration_s: float
    passages: tuple[Passage, ...] = ()
    """Of a recording longer than `max_segment_s`, the pieces with speech, in order."""
    words: tuple[TimedWord, ...] = ()
    """In seconds of the recording."""

    @property
    def hypothesis(self) -> Hypothesis | None:
        return None if isinstance(self.outcome, DS2Error) else self.outcome

    @property
    def error(self) -> DS2Error | None:
        return self.outcome if isinstance(self.outcome, DS2Error) else None

    def __repr__(self) -> str:
        """Without a recording that was given as bytes, of which logs would be full."""
        values = {**self._asdict(), "source": _brief(self.source)}
        return f"Result({', '.join(f'{name}={value!r}' for name, value in values.items())})"


class Sources(Generic[Given]):
    """The caller's sources, one after the other, up to where giving them fails.

    AudioError for a single one, most of which would be taken for many: a path for its letters, samples for each.
    """

    def __init__(self, sources: Iterable[Given]) -> None:
        if isinstance(sources, str | Bytes | os.PathLike | np.ndarray | Channel) or hasattr(sources, "read"):
            kind = type(sources).__name__
            raise AudioError(f"Several sources are taken, and this is one, a {kind}: put it in a list, [source].")
        self._sources = sources
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Given]:
        try:
            yield from self._sources
        except Exception as error:
            self._error = error

    def raise_error(self) -> None:
        """Raise what the caller's iterator raised, once all that it gave before has its results."""
        if self._error is not None:
            raise self._error


def about(source: Source, error: Exception) -> InferenceError:
    """The error with the name of the recording."""
    name = "samples" if isinstance(source, np.ndarray) else source_name(source)
    return InferenceError(f"{name}: {error}")


def _brief(source: Source) -> object:
    """To show."""
    if isinstance(source, Channel):
        return Channel(str(_brief(source.file)), source.number)
    return f"<{len(source)} bytes>" if isinstance(source, Bytes) else source
