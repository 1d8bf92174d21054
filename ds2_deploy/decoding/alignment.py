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
    skips = np.zeros(len(states), bool)  # a blank may be left out between different labels
    skips[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probs[0, states[:2]] if len(log_probs) else -np.inf
    steps = np.zeros((len(log_probs), len(states)), np.int8)
    for t in range(1, len(log_probs)):
        one, two = np.r_[-np.inf, scores[:-1]], np.r_[-np.inf, -np.inf, scores[:-2]]
        choices = np.stack([scores, one, np.where(skips, two, -np.inf)])
        steps[t] = choices.argmax(0)
        scores = choices.max(0) + log_probs[t, states]
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
