"""BatchSampler: which utterances are learnt together, in which order, by which process."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ds2_deploy.errors import ConfigError
from training.augment import many_followers, silences_s
from training.distributed import Processes
from training.draws import Draw, generator
from training.recipe import Recipe

Key = tuple[int, int]
"""(epoch, index of the utterance): all that an example depends on; epoch 0 is never augmented."""
Indices = npt.NDArray[np.int64]
AT_ONCE = 1 << 16
"""Utterances whose silence and followers are drawn together: a million with a hundred each would be gigabytes."""


class BatchSampler:
    """Lists of (epoch, index), one list a step, for one process.

    Batches hold utterances of similar length, what is put around and after them included. The first epoch goes from
    the shortest batch to the longest (SortaGrad, section 3.3 of the paper); later ones draw the neighbours anew, by
    lengths jittered by up to a tenth, and shuffle the batches. Every utterance comes exactly once an epoch, apart
    from those that follow others, and process r of n takes every n-th utterance of each batch, so no process waits
    for another's longer batch. With a limit of seconds, the number of batches varies a little from epoch to epoch.
    """

    def __init__(self, durations_s: Sequence[float] | npt.NDArray[np.float64], recipe: Recipe, processes: Processes):
        self.durations = np.asarray(durations_s, dtype=np.float64)
        self.recipe, self.processes, self.epoch, self.start = recipe, processes, 1, 0
        self._made: tuple[int, list[Indices]] | None = None
        smallest = min(map(len, self.batches()))
        if smallest < processes.count:
            raise ConfigError(
                f"A batch of {smallest} utterances cannot be shared by {processes.count} processes: raise "
                "batch_size, or start fewer."
            )
        later = recipe.sorta_grad and recipe.batch_seconds is not None and recipe.epochs > 1
        self.typical = len(self._drawn(2)) if later else len(self)
        """Batches of an epoch; with a limit of seconds a sorted one, whose neighbours are of one length, has fewer."""

    def __len__(self) -> int:
        return len(self.batches())

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.batches()[self.start :]:
            yield [(self.epoch, int(index)) for index in batch[self.processes.rank :: self.processes.count]]

    def batches(self) -> list[Indices]:
        """The indices of every step of this epoch, over all processes."""
        if self._made is None or self._made[0] != self.epoch:
            self._made = self.epoch, self._drawn(self.epoch)
        return self._made[1]

    @property
    def fingerprint(self) -> str:
        """Of this epoch's batches: which utterances, in which order."""
        batches = self.batches()
        return hashlib.sha256(np.concatenate([*batches, [len(batch) for batch in batches]]).tobytes()).hexdigest()

    def _drawn(self, epoch: int) -> list[Indices]:
        rng = generator(self.recipe.seed, epoch, of=Draw.ORDER)
        sorted_epoch = self.recipe.sorta_grad and epoch == 1
        jitter = 1.0 if sorted_epoch else rng.uniform(0.9, 1.1, len(self.durations))
        lengths = self.durations + self._added_s(epoch)
        order = np.argsort(lengths * jitter, kind="stable")
        if self.recipe.batch_seconds is None:  # sizes differ by one at most; rounded up: none exceeds its size
            batches = np.array_split(order, -(-len(order) // self.recipe.batch_size))
        else:
            batches = self._packed(lengths, order, self.recipe.batch_seconds)
        if not sorted_epoch:
            rng.shuffle(batches)
        return batches

    def _added_s(self, epoch: int) -> npt.NDArray[np.float64] | float:
        """The silence around each utterance in an epoch, and what follows it."""
        augment, count = self.recipe.augment, len(self.durations)
        if not augment.silence_probability and not augment.joined_probability:
            return 0.0
        added = np.zeros(count)
        for first in range(0, count, AT_ONCE):
            key, some = (self.recipe.seed, epoch, first), added[first : first + AT_ONCE]
            indices, pauses_s = many_followers(augment, key, len(some), count)
            following_s = np.where(indices >= 0, self.durations[indices], 0.0)
            some += silences_s(augment, key, len(some)).sum(1) + pauses_s.sum(1) + following_s.sum(1)
        return added

    def _packed(self, lengths: npt.NDArray[np.float64], order: Indices, seconds: float) -> list[Indices]:
        """Cut `order` where one utterance more would make a batch, padded to its longest, exceed the limits.

        A batch holds an utterance for each process in any case: the last takes what it lacks from the one before it,
        and that one from its own. Where they are too few for so many batches, the first two, the shortest, become one,
        maybe of more than `batch_size`: a process without an utterance would leave the others waiting for its gradient.
        """
        least, ends, end = self.processes.count, [], 0
        while end < len(order):
            candidates = order[end : end + self.recipe.batch_size]
            padded = np.maximum.accumulate(lengths[candidates]) * np.arange(1, len(candidates) + 1)
            end += max(int(np.searchsorted(padded, seconds, side="right")), least)
            ends.append(end)
        ends = ends[-max(len(order) // least, 1) :]
        latest = len(order) - least * np.arange(len(ends))[::-1]  # ends that leave enough for the batches after them
        return np.split(order, np.minimum(ends, latest)[:-1])
