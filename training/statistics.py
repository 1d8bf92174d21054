"""Mean and deviation of every feature bin over a training set, for `global` normalisation."""

import msgspec
import torch

from ds2_deploy.audio.features import FeatureConfig, FeatureStatistics
from ds2_deploy.audio.load import load_audio
from ds2_deploy.model.frontend import DEVIATION_FLOOR, Frontend
from training.manifest import Utterance


@torch.no_grad()
def feature_statistics(utterances: list[Utterance], feature: FeatureConfig) -> FeatureStatistics:
    """One pass over the recordings; the sums are in float64."""
    frontend = Frontend(msgspec.structs.replace(feature, normalization="none"))
    count, sums, squares = 0, torch.zeros(feature.bins).double(), torch.zeros(feature.bins).double()
    for utterance in utterances:
        audio = torch.from_numpy(load_audio(utterance.path, feature.sample_rate))[None]  # (1, S)
        if feature.frames(audio.shape[1]) == 0:
            continue
        features = frontend.spectrogram(audio, torch.tensor([audio.shape[1]]))[0].double()  # (F, T)
        count += features.shape[1]
        sums += features.sum(1)
        squares += features.square().sum(1)
    mean = sums / max(count, 1)
    deviation = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt() + DEVIATION_FLOOR
    return FeatureStatistics(mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))
