"""From utterances to batches: read, varied and padded by workers."""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ds2_deploy.audio.load import load_audio
from ds2_deploy.errors import DS2Error
from ds2_deploy.manifest import Utterance
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.runtime.protocol import at_least, pad_batch
from training.augment import Augmenter, followers, one_after_the_other
from training.corpus import Corpus, ctc_frames
from training.distributed import Processes
from training.recipe import AugmentConfig, Recipe
from training.sampler import BatchSampler, Key


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
    """(B, views * masks, 2) first and end frame of what SpecAugment hides, one view after the other."""
    frequency_masks: Tensor
    """(B, views * masks, 2) first and end bin."""
    noise_seeds: Tensor
    """(B,) of the noise on the features; 0: none."""
    indices: Tensor
    """(B,) which utterances these are, or begin with."""
    recorded_s: Tensor
    """(B,) seconds of each one's own recording, as it lies on the disk."""

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Speech(Dataset["Batch | DS2Error"]):
    """`dataset[[(epoch, index), ...]]` is a batch, the same whichever worker prepares it.

    Without an `augmenter`, and in epoch 0, recordings are as they are. What cannot be read is a DS2Error as a value:
    raised in a worker, it would arrive as a traceback.
    """

    def __init__(self, corpus: Corpus, metadata: ModelMetadata, augmenter: Augmenter | None, seed: int) -> None:
        self.corpus, self.metadata, self.seed = corpus, metadata, seed
        plain = Augmenter(AugmentConfig(), metadata.feature.sample_rate)
        self.augmenters = plain, augmenter or plain
        """For epoch 0, and for the others."""

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, keys: Sequence[Key]) -> Batch | DS2Error:
        try:
            return self._batch(keys)
        except DS2Error as error:
            return error

    def _batch(self, keys: Sequence[Key]) -> Batch:
        feature, varied, targets, recorded_s = self.metadata.feature, [], [], []
        for epoch, index in keys:
            augmenter, key = self.augmenters[epoch > 0], (self.seed, epoch, index)
            after = followers(augmenter.config, key, len(self.corpus))
            utterances = [self.corpus[i] for i in (index, *after.indices)]
            recordings = [load_audio(utterance.path, feature.sample_rate) for utterance in utterances]
            recorded_s.append(len(recordings[0]) / feature.sample_rate)
            audio = one_after_the_other(recordings, after.pauses_s, feature.sample_rate, key)
            varied.append(augmenter.vary(audio, key, feature.bins, feature.frames))
            targets.append(self.metadata.alphabet.encode(self._text(utterances)))
        samples, lengths = pad_batch([v.audio for v in varied])
        return Batch(
            torch.from_numpy(at_least(samples, self.metadata.min_samples)),
            torch.from_numpy(lengths),
            torch.tensor([label for target in targets for label in target], dtype=torch.int64),
            torch.tensor([len(target) for target in targets]),
            torch.from_numpy(np.stack([v.time_masks for v in varied])),
            torch.from_numpy(np.stack([v.frequency_masks for v in varied])),
            torch.tensor([v.noise_seed for v in varied]),
            torch.tensor([index for _, index in keys]),
            torch.tensor(recorded_s),
        )

    def _text(self, utterances: Sequence[Utterance]) -> str:
        """What is said in utterances that follow one another; in some nothing is."""
        alphabet = self.metadata.alphabet
        return (alphabet.word_end + alphabet.separator).join(said.text for said in utterances if said.text)


def long_enough(batch: Batch, metadata: ModelMetadata) -> Tensor:
    """(B,) whether each utterance, as it was varied, has the output frames that CTC needs for its text."""
    frames = [metadata.output_frames(samples) for samples in batch.lengths.tolist()]
    targets = torch.split(batch.targets, batch.target_lengths.tolist())
    return torch.tensor([n >= ctc_frames(target.tolist()) for n, target in zip(frames, targets, strict=True)])


def checked(batches: Iterable[Batch | DS2Error]) -> Iterator[Batch]:
    """Raise here what went wrong in a worker."""
    for batch in batches:
        if isinstance(batch, DS2Error):
            raise batch
        yield batch


def leave_signals(_: int) -> None:
    """Of a worker: Ctrl-C and SIGTERM, which may go to every process, are the training's, which ends its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere nothing says who sent one
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_training, daemon=True).start()


def _obey_the_training() -> None:
    """End by its SIGTERM alone."""
    if sys.platform == "linux":
        training = multiprocessing.parent_process()  # which os.getppid() is not where a server forks the workers
        while training and signal.sigwaitinfo({signal.SIGTERM}).si_pid != training.pid:
            pass
        os._exit(0)


def train_loader(
    dataset: Speech, sampler: BatchSampler, workers: int, start_method: str | None = None
) -> DataLoader[Batch | DS2Error]:
    """One pass a time over `sampler`'s epoch, in its order; persistent workers read ahead.

    They start by the system's method (`fork` on Linux, `spawn` elsewhere), or by the one given.
    """
    # batch_size=None with a sampler of lists: the dataset makes whole batches itself
    return DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=start_method,
        worker_init_fn=leave_signals,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else every start of workers moves the random state that dropout draws from
    )


def valid_loader(dataset: Speech, recipe: Recipe, processes: Processes) -> DataLoader[Batch | DS2Error]:
    """This process's share of the validation set, unaugmented, longest first; a batch is as large as in training."""
    most = -(-recipe.batch_size // processes.count)
    seconds = (recipe.batch_seconds or math.inf) / processes.count
    durations_s = dataset.corpus.durations_s
    order = np.argsort(-durations_s, kind="stable").tolist()
    batches: list[list[Key]] = []
    start = 0
    while start < len(order):
        end = start + max(int(min(most, seconds / max(durations_s[order[start]], 1e-3))), 1)
        batches.append([(0, i) for i in order[start:end]])
        start = end
    mine = batches[processes.rank :: processes.count]
    return DataLoader(
        dataset,
        sampler=mine,
        batch_size=None,
        num_workers=recipe.workers,
        # once beside other processes' threads, for a fork there may hang (CPython 3.11); else memory is worth more
        persistent_workers=recipe.workers > 0 and processes.count > 1,
        worker_init_fn=leave_signals,
        generator=torch.Generator(),
    )
