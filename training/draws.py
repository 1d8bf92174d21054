"""What is drawn for a training: every draw from a generator of its own, whichever process or worker makes it. No torch.

A generator follows from a key: the seed, the epoch, the utterance or the batch, and last the Draw.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

UtteranceKey = tuple[int, int, int]
"""(seed, epoch, utterance)."""


class Draw(IntEnum):
    """What is drawn. None is 0, since NumPy takes (1, 2) and (1, 2, 0) for one seed."""

    SOUND = 1
    """Rooms, noise, telephones, hiss and the seeds of noise on features."""
    SILENCE = 2
    FOLLOWERS = 3
    PAUSES = 4
    SPEED = 5
    """And level and masks."""
    ORDER = 6
    """Of an epoch."""
    STEP = 7
    """What PyTorch draws in it, such as dropout."""
    WINDOWS = 8


def generator(*key: int, of: Draw) -> np.random.Generator:
    return np.random.default_rng((*key, of))


def seed_of(*key: int, of: Draw) -> int:
    """63 bits."""
    return int(np.random.SeedSequence((*key, of)).generate_state(1, np.uint64)[0]) >> 1


def uniform_rows(key: UtteranceKey, of: Draw, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """(rows, columns) numbers in [0, 1): a row for the utterance of `key` and for each after it, as for these alone.

    Philox counts (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so that any row of an epoch can
    be had without those before it. A count gives four numbers.
    """
    *epoch, first = key
    counts = -(-columns // 4)
    bits = np.random.Philox(np.random.SeedSequence((*epoch, of))).advance(first * counts)
    return np.random.Generator(bits).random((rows, 4 * counts))[:, :columns]
