"""A long recording and its text, such as an audio book and the book, to short utterances that belong together.

    recording -> pieces between silences -> log-probabilities (T, V), joined
    text -> passages -> labels                                        -> CTC's best path -> frames and score of each

As in CTC segmentation (Kürzinger et al. 2020, "CTC-segmentation of large corpora for German end-to-end speech
recognition"), the recording may begin before the text and end after it. Whatever was not said, or was said otherwise,
has frames that do not fit, and a passage is as good as its worst half second. The path is CTC's own, with a blank
between any two letters: the package ctc-segmentation, whose paths have none, put 75 of 89 passages in their places
where this puts 87 (benchmarks/align.py).
"""

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
from ds2_deploy.text.languages import try_spelling
from ds2_deploy.text.punctuation import sentences, without_punctuation

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


class Sound(NamedTuple):
    """What the network heard in a recording."""

    log_probs: npt.NDArray[np.float32]
    """(T, V); between two pieces a frame of blank."""
    times_s: npt.NDArray[np.float64]
    """(T,) when each frame begins."""
    duration_s: float


class Passage(NamedTuple):
    """A stretch of text and where it was said."""

    text: str
    """In the model's spelling."""
    start_s: float
    end_s: float
    score: float
    """Mean natural logarithm of a frame's probability in the worst half second."""


def passages_of(text: str, language: str, alphabet: Alphabet) -> tuple[list[str], list[str]]:
    """Sentences and lines in the model's spelling, without punctuation; apart, those that it cannot spell."""
    good: list[str] = []
    strange: list[str] = []
    for sentence in sentences(text):
        spelled = try_spelling(without_punctuation(sentence, alphabet), language, alphabet)
        if spelled is None:
            strange.append(sentence)
        elif spelled:
            good.append(spelled)
    return good, strange


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
        heard = run_alone(backend, piece, metadata.min_samples)
        frames += [heard, between]
        ends = np.arange(len(heard) + 1) * metadata.frame_s
        times.append(start / rate + np.minimum(ends, len(piece) / rate))  # a tail is heard after its end
    if not frames:
        raise AlignmentError("no speech was found in the recording.")
    return Sound(np.concatenate(frames), np.concatenate(times), samples / rate)


def align(sound: Sound, passages: Sequence[str], alphabet: Alphabet) -> list[Passage]:
    """Where each passage was said, in order; AlignmentError where the text cannot fit into the recording at all."""
    labels: list[int] = []
    ends: list[tuple[int, int]] = []  # of each passage, its first and last label
    for passage in passages:
        labels += [alphabet.boundary] if labels and alphabet.boundary is not None else []
        first = len(labels)
        labels += alphabet.encode(passage)
        ends.append((first, len(labels) - 1))
    boundary = alphabet.boundary
    path = best_path(sound.log_probs, labels, alphabet.blank, boundary=boundary, window=STATES, free_ends=True)
    spans = [(path[first][0], path[last][1]) for first, last in ends]
    frame_scores = sound.log_probs[:, alphabet.blank].astype(np.float64)  # (T,) of the path
    for label, (begin, end) in zip(labels, path, strict=True):
        frame_scores[begin : end + 1] = sound.log_probs[begin : end + 1, label]
    if boundary is not None:  # which may come several times in a row
        for (before, (_, end)), (after, (begin, _)) in pairwise(zip(labels, path, strict=True)):
            if boundary in (before, after):
                between = slice(end + 1, begin)
                frame_scores[between] = np.maximum(frame_scores[between], sound.log_probs[between, boundary])
    return _placed(sound, passages, spans, frame_scores)


def _placed(
    sound: Sound,
    passages: Sequence[str],
    spans: Sequence[tuple[int, int]],
    frame_scores: npt.NDArray[np.float64],
) -> list[Passage]:
    """With a margin around each, which neighbours share half and half."""
    last = len(sound.times_s) - 1
    starts, ends = (sound.times_s[np.minimum(frames, last)] for frames in zip(*spans, strict=True))
    placed = []
    for i, (text, (first, end)) in enumerate(zip(passages, spans, strict=True)):
        before = (ends[i - 1] + starts[i]) / 2 if i else 0.0
        after = (ends[i] + starts[i + 1]) / 2 if i + 1 < len(passages) else sound.duration_s
        start_s, end_s = max(starts[i] - MARGIN_S, before, 0.0), min(ends[i] + MARGIN_S, after, sound.duration_s)
        placed.append(Passage(text, float(start_s), float(end_s), _score(frame_scores[first : end + 1])))
    return placed


def _score(frame_scores: npt.NDArray[np.float64]) -> float:
    """The worst mean over WINDOW frames."""
    if len(frame_scores) <= WINDOW:
        return float(frame_scores.mean()) if len(frame_scores) else -np.inf
    sums = np.convolve(frame_scores, np.ones(WINDOW), "valid")
    return float(sums.min() / WINDOW)
