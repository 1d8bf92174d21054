"""From utterances to batches: reading, augmentation, bucketing by length, SortaGrad, sharding over processes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ds2_deploy.audio.load import load_audio
from ds2_deploy.errors import AudioError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.runtime.protocol import pad_batch
from training.distributed import Processes
from training.manifest import Utterance
from training.recipe import AugmentConfig, Recipe

Key = tuple[int, int]
"""(epoch, index of the utterance): all that an example depends on; epoch 0 is never augmented."""


class Batch(NamedTuple):
    """One process's share of a step; B utterances."""

    audio: Tensor
    """(B, S) float32."""
    lengths: Tensor
    """(B,) samples."""
    targets: Tensor
    """(sum of target_lengths,) label indices, one utterance after the other."""
    target_lengths: Tensor
    """(B,)"""
    time_masks: Tensor
    """(B, masks, 2) first and end frame of what SpecAugment hides."""
    frequency_masks: Tensor
    """(B, masks, 2) first and end bin."""
    indices: Tensor
    """(B,) which utterances these are."""

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Speech(Dataset["Batch | AudioError"]):
    """`dataset[[(epoch, index), ...]]` is a batch, the same whichever worker prepares it.

    A recording that cannot be read is an AudioError as a value: raised in a worker, it would arrive as a traceback.
    """

    def __init__(self, utterances: list[Utterance], metadata: ModelMetadata, augment: AugmentConfig, seed: int) -> None:
        self.utterances, self.metadata, self.augment, self.seed = utterances, metadata, augment, seed

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, keys: Sequence[Key]) -> Batch | AudioError:
        try:
            return self._batch(keys)
        except AudioError as error:
            return error

    def _batch(self, keys: Sequence[Key]) -> Batch:
        recordings, targets, time, frequency = [], [], [], []
        for epoch, index in keys:
            augment = self.augment if epoch else AugmentConfig()
            rng = np.random.default_rng((self.seed, epoch, index))
            audio = load_audio(self.utterances[index].path, self.metadata.feature.sample_rate)
            audio = change_speed(audio, float(rng.choice(augment.speeds)))
            targets.append(self.metadata.alphabet.encode(self.utterances[index].text))
            frames = self.metadata.feature.frames(len(audio))
            widest = min(augment.time_mask_frames, int(frames * augment.time_mask_share))
            time.append(draw_masks(rng, augment.time_masks, frames, widest))
            bins = self.metadata.feature.bins
            frequency.append(draw_masks(rng, augment.frequency_masks, bins, augment.frequency_mask_bins))
            recordings.append(change_level(audio, rng.uniform(*augment.gain_db)))
        samples, lengths = pad_batch(recordings, self.metadata.min_samples)
        return Batch(
            torch.from_numpy(samples),
            torch.from_numpy(lengths),
            torch.tensor([label for target in targets for label in target], dtype=torch.int64),
            torch.tensor([len(target) for target in targets]),
            torch.from_numpy(np.stack(time)),
            torch.from_numpy(np.stack(frequency)),
            torch.tensor([index for _, index in keys]),
        )


def change_speed(audio: npt.NDArray[np.float32], factor: float) -> npt.NDArray[np.float32]:
    """`factor` 1.1 is a tenth faster and higher: audio (S,) -> (S / factor,)."""
    if factor == 1.0 or len(audio) == 0:
        return audio
    resampled: npt.NDArray[np.float32] = soxr.resample(audio, factor, 1.0)
    return resampled


def change_level(audio: npt.NDArray[np.float32], gain_db: float) -> npt.NDArray[np.float32]:
    """Audio (S,), louder by `gain_db` decibels."""
    return audio * np.float32(10 ** (gain_db / 20)) if gain_db else audio


def draw_masks(rng: np.random.Generator, count: int, size: int, widest: int) -> npt.NDArray[np.int64]:
    """(count, 2) first and end positions within `size`; widths are uniform in 0..widest (SpecAugment)."""
    widths = rng.integers(0, min(widest, size) + 1, count)
    starts = rng.integers(0, size - widths + 1)
    masks: npt.NDArray[np.int64] = np.stack([starts, starts + widths], axis=1).astype(np.int64)
    return masks


class BatchSampler:
    """Lists of (epoch, index), one list a step, for one process.

    Batches hold utterances of similar length. The first epoch goes from the shortest batch to the longest (SortaGrad,
    section 3.3 of the paper); later ones draw the neighbours anew, by lengths jittered by up to a tenth, and shuffle
    the batches. Every utterance comes exactly once an epoch: batch sizes differ by one at most, and process r of n
    takes every n-th utterance of each batch, so no process waits for another's longer batch.
    """

    def __init__(self, durations_s: Sequence[float], recipe: Recipe, processes: Processes) -> None:
        self.durations = np.asarray(durations_s)
        self.recipe, self.processes, self.epoch, self.start = recipe, processes, 1, 0

    def __len__(self) -> int:
        return -(-len(self.durations) // self.recipe.batch_size)  # rounded up: a batch never exceeds its size

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.batches()[self.start :]:
            yield [(self.epoch, int(index)) for index in batch[self.processes.rank :: self.processes.count]]

    def batches(self) -> list[npt.NDArray[np.int64]]:
        """The indices of every step of this epoch, over all processes."""
        rng = np.random.default_rng((self.recipe.seed, self.epoch))
        sorted_epoch = self.recipe.sorta_grad and self.epoch == 1
        jitter = 1.0 if sorted_epoch else rng.uniform(0.9, 1.1, len(self.durations))
        order = np.argsort(self.durations * jitter, kind="stable")
        batches = np.array_split(order, len(self))
        if not sorted_epoch:
            rng.shuffle(batches)
        return batches


def checked(batches: Iterable[Batch | AudioError]) -> Iterator[Batch]:
    """Raise here what went wrong in a worker."""
    for batch in batches:
        if isinstance(batch, AudioError):
            raise batch
        yield batch


def train_loader(dataset: Speech, sampler: BatchSampler, workers: int) -> DataLoader[Batch | AudioError]:
    """One pass a time over `sampler`'s epoch, in its order; persistent workers read ahead."""
    # batch_size=None with a sampler of lists: the dataset makes whole batches itself
    return DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else every start of workers moves the random state that dropout draws from
    )


def valid_loader(
    dataset: Speech, batch_size: int, workers: int, processes: Processes
) -> DataLoader[Batch | AudioError]:
    """This process's share of the validation set, unaugmented, longest first."""
    order = sorted(range(len(dataset)), key=lambda i: -dataset.utterances[i].duration_s)
    batches = [[(0, i) for i in order[s : s + batch_size]] for s in range(0, len(order), batch_size)]
    mine = batches[processes.rank :: processes.count]
    return DataLoader(dataset, sampler=mine, batch_size=None, num_workers=workers, generator=torch.Generator())
