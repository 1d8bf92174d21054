"""Where in the frames a known text was said: CTC's most probable path through it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.words import Letter
from ds2_deploy.errors import AlignmentError


def best_path(log_probs: npt.NDArray[np.float32], labels: Sequence[int], blank: int = 0) -> list[tuple[int, int]]:
    """First and last frame of each of `labels` (L,) on the most probable path through (T, V) that spells them.

    Graves et al. 2006, section 4, with the maximum in place of the sum. AlignmentError where there are too few frames.
    """
    if not labels:
        return []
    states = np.full(2 * len(labels) + 1, blank, np.int64)
    states[1::2] = labels
    skip = np.full(len(states), -np.inf)  # zero where a blank may be left out: between different labels
    skip[3::2] = np.where(states[3::2] != states[1:-2:2], 0.0, -np.inf)
    said = log_probs[:, states].astype(np.float64)  # (T, 2L + 1)
    padded = np.full(len(states) + 2, -np.inf)  # two states before the first, which nothing leads out of
    scores, one, two = padded[2:], padded[1:-1], padded[:-2]
    scores[:2] = said[0, :2] if len(said) else -np.inf
    steps = np.zeros(said.shape, np.int8)
    for t in range(1, len(said)):
        skipping = two + skip
        staying = np.maximum(scores, one)
        steps[t] = one > scores
        np.copyto(steps[t], 2, where=skipping > staying)
        padded[2:] = np.maximum(staying, skipping) + said[t]
    state = len(states) - 1 if scores[-1] >= scores[-2] else len(states) - 2
    if not np.isfinite(scores[state]):
        raise AlignmentError(f"{len(log_probs)} frames are too few for {len(labels)} labels.")
    found: dict[int, tuple[int, int]] = {}
    for t in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            found[state // 2] = (t, found.get(state // 2, (t, t))[1])
        state -= int(steps[t, state])
    return [found[number] for number in range(len(labels))]


def aligned(log_probs: npt.NDArray[np.float32], labels: Sequence[int], blank: int) -> list[Letter]:
    """`labels` with their frames in (T, V) and how sure the network was of each."""
    return [
        Letter(label, first, last + 1, float(log_probs[first : last + 1, label].max()))
        for label, (first, last) in zip(labels, best_path(log_probs, labels, blank), strict=True)
    ]
