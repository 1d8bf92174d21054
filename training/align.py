"""A long recording and its text, such as an audio book and the book, to short utterances that belong together.

    recording -> pieces between silences -> log-probabilities (T, V), joined
    text -> passages -> labels                                        -> CTC's best path -> frames and score of each

As in CTC segmentation (Kürzinger et al. 2020, "CTC-segmentation of large corpora for German end-to-end speech
recognition"), the recording may begin before the text and end after it. Whatever was not said, or was said otherwise,
has frames that do not fit, and a passage is as good as its worst half second. The path is CTC's own, with a blank
between any two letters: the package ctc-segmentation, whose paths have none, put 75 of 89 passages in their places
where this puts 87 (benchmarks/align.py).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ds2_deploy.audio.load import Samples
from ds2_deploy.audio.segments import segments
from ds2_deploy.decoding.alignment import best_path
from ds2_deploy.errors import AlignmentError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.runtime.protocol import Backend, longest_piece_s, run_alone
from ds2_deploy.text.alphabet import Alphabet

PIECE_S = 30.0
"""Longest piece that the network hears at once."""
WINDOW = 30
"""Frames, about half a second, whose mean decides how well a passage fits."""
MARGIN_S = 0.3
"""Of sound kept before the first and after the last letter, where there is room: a network hears a letter late and
ends a word early."""
STATES = 8000
"""Of the path, looked at around the most probable: 4000 letters, minutes of text. As many place its beginning."""
MIN_SCORE = -1.5
"""Worst mean of a passage's logarithms per frame that is still taken for its text; benchmarks/align.py chose it."""
Span = tuple[int, int]
"""First and last frame of a label, or first and last label of a passage."""


class Sound(NamedTuple):
    """What the network heard in a recording."""

    log_probs: npt.NDArray[np.float32]
    """(T, V); between two pieces a frame of blank."""
    times_s: npt.NDArray[np.float64]
    """(T,) when each frame begins."""
    duration_s: float


class AlignedPassage(NamedTuple):
    """A stretch of text and where it was said."""

    text: str
    """In the model's spelling."""
    start_s: float
    end_s: float
    score: float
    """Mean natural logarithm of a frame's probability in the worst half second."""


def hear(backend: Backend, metadata: ModelMetadata, blocks: Iterable[Samples]) -> Sound:
    """Run the network over a recording of any length in blocks (S_i,), piece by piece."""
    rate, blank = metadata.feature.sample_rate, metadata.alphabet.blank
    between = np.full((1, len(metadata.alphabet)), -1e4, np.float32)
    between[0, blank] = 0.0
    frames: list[npt.NDArray[np.float32]] = []
    times: list[npt.NDArray[np.float64]] = []
    samples = 0

    def counted() -> Iterable[Samples]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    for start, piece in segments(counted(), rate, longest_piece_s(backend, rate, PIECE_S)):
        heard = run_alone(backend, piece)
        frames += [heard, between]
        ends = np.arange(len(heard) + 1) * metadata.frame_s
        times.append(start / rate + np.minimum(ends, len(piece) / rate))  # a tail is heard after its end
    if not frames:
        raise AlignmentError("no speech was found in the recording.")
    return Sound(np.concatenate(frames), np.concatenate(times), samples / rate)


def align(
    sound: Sound, passages: Sequence[str], alphabet: Alphabet, max_seconds: float = math.inf
) -> list[AlignedPassage]:
    """Where each passage was said, in order, longer ones in pieces; AlignmentError where the text cannot fit into the
    recording at all."""
    boundary = alphabet.boundary
    labels: list[int] = []
    spans: list[Span] = []
    for passage in passages:
        labels += [boundary] if labels and boundary is not None else []
        first = len(labels)
        labels += alphabet.encode(passage)
        spans.append((first, len(labels) - 1))
    path = best_path(sound.log_probs, labels, alphabet.blank, boundary=boundary, window=STATES, free_ends=True)
    times_s = sound.times_s[np.minimum(path, len(sound.times_s) - 1)]  # (L, 2) begin and end of each label
    longest_s = max_seconds - 2 * MARGIN_S
    pieces = [piece for span in spans for piece in _pieces(span, _gaps(span, labels, boundary), times_s, longest_s)]
    texts = [alphabet.decode(labels[first : last + 1]) for first, last in pieces]
    frame_scores = _frame_scores(sound, labels, path, alphabet)
    scores = [_score(frame_scores[path[first][0] : path[last][1] + 1]) for first, last in pieces]
    return _placed(texts, [(times_s[first, 0], times_s[last, 1]) for first, last in pieces], scores, sound.duration_s)


def _gaps(span: Span, labels: Sequence[int], boundary: int | None) -> list[Span]:
    """Between the words of a passage, and where nothing parts words between its labels: the last label before and the
    first one after."""
    first, last = span
    if boundary is None:
        return [(i, i + 1) for i in range(first, last)]
    return [(i - 1, i + 1) for i in range(first + 1, last) if labels[i] == boundary]


def _pieces(span: Span, gaps: Sequence[Span], times_s: npt.NDArray[np.float64], longest_s: float) -> list[Span]:
    """A passage that is longer is cut at the widest of its gaps that lie in its middle half, and so are its pieces."""
    first, last = span
    begin_s, end_s = times_s[first, 0], times_s[last, 1]
    if end_s - begin_s <= longest_s or not gaps:
        return [span]
    before, after = np.transpose(gaps)
    ends_s, starts_s = times_s[before, 1], times_s[after, 0]  # of the words around each gap
    off_s = np.abs(ends_s + starts_s - begin_s - end_s) / 2
    central = off_s <= (end_s - begin_s) / 4
    cut = int(np.where(central, starts_s - ends_s, -np.inf).argmax() if central.any() else off_s.argmin())
    left = _pieces((first, gaps[cut][0]), gaps[:cut], times_s, longest_s)
    return left + _pieces((gaps[cut][1], last), gaps[cut + 1 :], times_s, longest_s)


def _frame_scores(
    sound: Sound, labels: Sequence[int], path: Sequence[Span], alphabet: Alphabet
) -> npt.NDArray[np.float64]:
    """(T,) logarithms of what the path has in each frame."""
    boundary = alphabet.boundary
    scores = sound.log_probs[:, alphabet.blank].astype(np.float64)
    for label, (begin, end) in zip(labels, path, strict=True):
        scores[begin : end + 1] = sound.log_probs[begin : end + 1, label]
    if boundary is not None:  # which may come several times in a row
        for (before, (_, end)), (after, (begin, _)) in pairwise(zip(labels, path, strict=True)):
            if boundary in (before, after):
                between = slice(end + 1, begin)
                scores[between] = np.maximum(scores[between], sound.log_probs[between, boundary])
    return scores


def _placed(
    texts: Sequence[str], times_s: Sequence[tuple[float, float]], scores: Sequence[float], duration_s: float
) -> list[AlignedPassage]:
    """With a margin around each, which neighbours share half and half."""
    middles = [(end_s + start_s) / 2 for (_, end_s), (start_s, _) in pairwise(times_s)]
    rooms = pairwise([0.0, *middles, duration_s])
    return [
        AlignedPassage(text, float(max(start_s - MARGIN_S, low_s)), float(min(end_s + MARGIN_S, high_s)), score)
        for text, (start_s, end_s), score, (low_s, high_s) in zip(texts, times_s, scores, rooms, strict=True)
    ]


def _score(frame_scores: npt.NDArray[np.float64]) -> float:
    """The worst mean over WINDOW frames."""
    if len(frame_scores) <= WINDOW:
        return float(frame_scores.mean()) if len(frame_scores) else -np.inf
    sums = np.convolve(frame_scores, np.ones(WINDOW), "valid")
    return float(sums.min() / WINDOW)
