"""Where in the frames a known text was said: CTC's most probable path through it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.words import Letter
from ds2_deploy.errors import AlignmentError
from ds2_deploy.text.alphabet import Alphabet

WINDOW = 1024
"""States, some 500 letters or half a minute of speech: a text that was heard in the frames does not stray further."""


def best_path(
    log_probs: npt.NDArray[np.float32],
    labels: Sequence[int],
    blank: int = 0,
    *,
    boundary: int | None = None,
    window: int | None = None,
    free_ends: bool = False,
) -> list[tuple[int, int]]:
    """First and last frame of each of `labels` (L,) on the most probable path through (T, V) that spells them.

    Graves et al. 2006, section 4, with the maximum in place of the sum. `boundary`: a label that the text shows once
    where the path has it several times in a row, and not at all around the text. `free_ends`: before the first and
    after the last label the recording may say anything. `window`: only so many of the 2L + 1 states are looked at,
    around the most probable one so far, which makes hours of text bearable. But a text that may begin anywhere has no
    such state: to begin only now has cost nothing yet. So its first window is placed in the whole recording, and the
    path followed from there. AlignmentError where there are too few frames, or too much of the text was not said.
    """
    if not labels:
        return []
    if len(log_probs) < len(labels) + sum(label == following for label, following in pairwise(labels)):
        raise AlignmentError(f"its frames are too few for the labels of the text, {len(log_probs)} for {len(labels)}.")
    if not free_ends or window is None or window > 2 * len(labels):
        return _path(log_probs, labels, blank, boundary, window, free_start=free_ends, free_end=free_ends)
    begin = _path(log_probs, labels[: window // 2], blank, boundary, None, free_start=True, free_end=True)[0][0]
    found = _path(log_probs[begin:], labels, blank, boundary, window, free_start=False, free_end=True)
    return [(begin + first, begin + last) for first, last in found]


def _path(
    log_probs: npt.NDArray[np.float32],
    labels: Sequence[int],
    blank: int,
    boundary: int | None,
    window: int | None,
    *,
    free_start: bool,
    free_end: bool,
) -> list[tuple[int, int]]:
    """best_path, in a window from the first frame on; a free start needs one as wide as the text."""
    states = np.full(2 * len(labels) + 1, blank, np.int64)
    states[1::2] = labels
    parting = np.zeros(len(states), np.bool_)  # blanks that may be boundaries: around the text and beside one
    if boundary is not None:
        ends = np.array([True, *(label == boundary for label in labels), True])
        parting[::2] = ends[:-1] | ends[1:]
    skip = np.full(len(states), -np.inf)  # zero where a blank may be left out: between different labels
    skip[3::2] = np.where(states[3::2] != states[1:-2:2], 0.0, -np.inf)
    width = min(window or len(states), len(states))
    lows = np.zeros(len(log_probs), np.int64)  # the first state that is looked at, frame by frame
    steps = np.zeros((2, len(log_probs), (width + 7) // 8), np.uint8)  # bits: came from two states before, from one
    padded = np.full(width + 2, -np.inf)  # two states before the first, which nothing leads out of
    scores, one, two = padded[2:], padded[1:-1], padded[:-2]
    low = 0
    for t, row in enumerate(log_probs):
        if width < len(states) and (ahead := int(scores.argmax()) - width // 2) > 0:
            shift = min(ahead, len(states) - width - low)
            scores[: width - shift] = scores[shift:].copy()
            scores[width - shift :] = -np.inf
            low += shift
        said = row[states[low : low + width]].astype(np.float64)
        if boundary is not None:
            said[parting[low : low + width]] = max(row[blank], row[boundary])
        if free_start:
            said[0] = row.max()
        if free_end and low + width == len(states):
            said[-1] = row.max()
        if t == 0:
            scores[:2] = said[:2]
            continue
        skipping = two + skip[low : low + width]
        staying = np.maximum(scores, one)
        steps[:, t] = np.packbits([skipping > staying, one > scores], axis=-1)
        lows[t] = low
        padded[2:] = np.maximum(staying, skipping) + said
    state = len(states) - 1 if scores[-1] >= scores[-2] else len(states) - 2
    if low + width < len(states) or not np.isfinite(scores[state - low]):
        heard = (low + int(scores.argmax())) // 2
        raise AlignmentError(
            f"the text was lost after {heard} of its {len(labels)} labels: leave out what was not said from there on."
        )
    found: dict[int, tuple[int, int]] = {}
    for t in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            found[state // 2] = (t, found.get(state // 2, (t, t))[1])
        byte, bit = divmod(int(state - lows[t]), 8)
        two_before, one_before = (steps[:, t, byte] >> (7 - bit)) & 1
        state -= 2 if two_before else int(one_before)
    return [found[number] for number in range(len(labels))]


def aligned(log_probs: npt.NDArray[np.float32], text: str, alphabet: Alphabet) -> list[Letter]:
    """The labels of `text` with their frames in (T, V) and how sure the network was of each."""
    labels = alphabet.encode(text)
    frames = best_path(log_probs, labels, alphabet.blank, boundary=alphabet.boundary, window=WINDOW)
    return [
        Letter(label, first, last + 1, float(log_probs[first : last + 1, label].max()))
        for label, (first, last) in zip(labels, frames, strict=True)
    ]
