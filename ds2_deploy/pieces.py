"""Pieces of recordings, which go through the model at once, and their results put together, one per recording."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ds2_deploy.audio.load import Samples
from ds2_deploy.decoding.outcome import Outcome
from ds2_deploy.decoding.protocol import Hypothesis, TimedWord
from ds2_deploy.errors import AudioError, DS2Error
from ds2_deploy.result import Passage, Result, Source

END: Samples = np.zeros(0, dtype=np.float32)
"""No samples: what comes after a long recording's last segment."""


class Piece(NamedTuple):
    """What goes through the model at once: a recording, or a segment of a long one."""

    source: Source
    content: Source | AudioError
    """The recording, the segment's samples; at the end of a long recording END or what went wrong with it."""
    expected_s: float
    start_s: float | None = None
    """Where a segment begins; None for a whole recording."""

    @property
    def is_last(self) -> bool:
        """The end of a long recording."""
        return self.content is END or isinstance(self.content, AudioError)


class PieceResult(NamedTuple):
    """What became of a piece."""

    piece: Piece
    outcome: Outcome
    duration_s: float
    passages: tuple[Passage, ...] = ()
    """Of a recording that proved to be long only when it was read."""
    words: tuple[TimedWord, ...] = ()
    """In seconds of the recording, not of the piece."""


def in_order(results: Iterable[tuple[int, PieceResult]]) -> Iterator[PieceResult]:
    """Each as soon as it and all before it are there."""
    waiting: dict[int, PieceResult] = {}
    due = 0
    for place, result in results:
        waiting[place] = result
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def assembled(results: Iterable[PieceResult], *, between: str = " ") -> Iterator[Result]:
    """Pieces in order to one result per source; the first error of a long recording is its result.

    `between` goes between the passages of a long recording.
    """
    passages: list[Passage] = []
    words: list[TimedWord] = []
    score = 0.0
    error: DS2Error | None = None
    for piece, outcome, duration_s, own_passages, own_words in results:
        if piece.start_s is None:
            yield Result(piece.source, outcome, duration_s, own_passages, own_words)
            continue
        if isinstance(outcome, DS2Error):
            error = error or outcome
        elif outcome.text:
            score += outcome.score
            words += own_words
            passages.append(Passage(piece.start_s, piece.start_s + duration_s, outcome.text))
        if piece.is_last:
            text = Hypothesis(between.join(passage.text for passage in passages), score)
            yield Result(piece.source, error or text, piece.start_s, tuple(passages), tuple(words))
            passages, words, score, error = [], [], 0.0, None
