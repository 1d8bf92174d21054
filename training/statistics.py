"""What a training set says about every feature bin: mean and deviation for `global` normalisation, or covariances."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from ds2_deploy.audio.features import FeatureConfig, FeatureStatistics
from ds2_deploy.audio.load import load_audio
from ds2_deploy.manifest import Utterance
from ds2_deploy.model.frontend import Frontend, deviation_floor
from training.distributed import Processes

ALONE = Processes()
HEARD = 20_000
"""Recordings of a training set that are heard for it, evenly spread: some ten seconds for an hour of speech."""
FLATTEST = 1e-3
"""Directions of less than this share of the mean variance are not made louder than it would be."""
TINY = 1e-20
"""Variance of a training set that is all silence."""


@torch.no_grad()
def feature_statistics(
    utterances: Sequence[Utterance], feature: FeatureConfig, processes: Processes = ALONE
) -> FeatureStatistics:
    """One pass over the recordings, each process's share of them; the sums are in float64."""
    count, sums, squares = 0, torch.zeros(feature.bins).double(), torch.zeros(feature.bins).double()
    for features in _features(utterances, feature, processes):
        count += features.shape[1]
        sums += features.sum(1)
        squares += features.square().sum(1)
    frames, sums, squares = _over_all(processes, count, sums, squares)
    mean = sums / frames
    deviation = (squares / frames - mean.square()).clamp(min=0).sqrt() + deviation_floor(feature, mean)
    return FeatureStatistics(mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))


class Whitening(NamedTuple):
    """What makes features of the training set uncorrelated and of variance 1, in float64."""

    center: Tensor
    """(F, 1) their mean."""
    matrix: Tensor
    """(F, F) symmetric (ZCA), so that every output still is mostly its own bin and convolutions over frequency fit."""


@torch.no_grad()
def whitening(utterances: Sequence[Utterance], feature: FeatureConfig, processes: Processes = ALONE) -> Whitening:
    """The inverse square root of the covariance (Bell and Sejnowski 1997), its flattest directions held back."""
    size = feature.bins
    count, sums, products = 0, torch.zeros(size, 1).double(), torch.zeros(size, size).double()
    for features in _features(utterances, feature, processes):
        count += features.shape[1]
        sums += features.sum(1, keepdim=True)
        products += features @ features.T
    frames, sums, products = _over_all(processes, count, sums, products)
    center = sums / frames
    variances, directions = torch.linalg.eigh(products / frames - center @ center.T)
    floor = max(FLATTEST * float(variances.mean()), TINY)
    return Whitening(center, directions / variances.clamp(min=floor).sqrt() @ directions.T)


def _over_all(processes: Processes, count: int, *sums: Tensor) -> list[Tensor]:
    """The frames of all processes, at least one, and their sums, on the CPU."""
    counted = torch.tensor(count, dtype=torch.float64)
    frames, *rest = (processes.sum(values.to(processes.device)).cpu() for values in (counted, *sums))
    return [frames.clamp(min=1), *rest]


def _features(utterances: Sequence[Utterance], feature: FeatureConfig, processes: Processes) -> Iterator[Tensor]:
    """(F, T) float64 of each recording of this process's share, not normalised and without a tail."""
    feature = msgspec.structs.replace(feature, normalization="none", tail_ms=0.0)
    frontend = Frontend(feature)
    heard = range(0, len(utterances), max(-(-len(utterances) // HEARD), 1))
    for index in heard[processes.rank :: processes.count]:
        utterance = utterances[index]
        audio = torch.from_numpy(load_audio(utterance.path, feature.sample_rate))[None]  # (1, S)
        if feature.frames(audio.shape[1]):
            yield frontend.spectrogram(audio, torch.tensor([audio.shape[1]]))[0].double()
