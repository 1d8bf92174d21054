"""One forward pass with its loss: the module that DistributedDataParallel wraps."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from ds2_deploy.model.deepspeech2 import DeepSpeech2, log_softmax
from ds2_deploy.model.layers import time_mask
from training.data import Batch
from training.precision import AUTOCAST
from training.recipe import AugmentConfig
from training.teacher import Teacher, divergence


class TrainingStep(nn.Module):
    """`forward(batch) -> losses (B,)`, one per utterance; front end and loss stay in float32."""

    def __init__(
        self, model: DeepSpeech2, precision: str, augment: AugmentConfig, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.model, self.augment, self.teacher = model, augment, teacher
        self.dtype = AUTOCAST[precision]

    def forward(self, batch: Batch, windows: tuple[int, int] | None = None) -> Tensor:
        """`windows` are others than the network's own: their frames and context, or (0, 0) for whole recordings."""
        features, frames = self.model.frontend(batch.audio, batch.lengths)
        normalized = self.model.metadata.feature.normalization != "none"
        features = noisy(features, frames, batch.noise_seeds, self.augment)
        hidden = features.new_zeros(1, 1) if normalized else self.model.frontend.silence  # the mean, or silence
        views = self.augment.views
        masks = zip(per_view(batch.time_masks, views), per_view(batch.frequency_masks, views), strict=True)
        features = torch.cat([hide(features, time, frequency, hidden) for time, frequency in masks])  # (views B, F, T')
        if not normalized:  # else what is hidden is zero, as padding is
            features = features.masked_fill(~time_mask(frames.repeat(views), features.shape[2])[:, None], 0.0)
        with torch.autocast(features.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            logits, lengths = self.model.encoder(features, frames.repeat(views), windows)
        heard, lengths = log_softmax(logits).chunk(views), lengths[: len(frames)]  # a (B, T, V) of each view, and (B,)
        blank = self.model.metadata.alphabet.blank
        losses = torch.stack([ctc_losses(view, lengths, batch, blank) for view in heard]).mean(dim=0)
        if self.teacher:
            losses = self.teacher.taught(losses, heard, batch, lengths)
        if views == 1:
            return losses
        one, other = heard
        return losses + self.augment.consistency * disagreement(one, other, lengths)


def ctc_losses(log_probs: Tensor, lengths: Tensor, batch: Batch, blank: int, zero_infinity: bool = True) -> Tensor:
    """(B,) -ln P(text | audio) of each utterance (Graves et al. 2006); `log_probs` (B, T, V) float32.

    An utterance that speed perturbation made too short for its text has zero, with `zero_infinity`, and no gradient.
    """
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        batch.targets,
        lengths,
        batch.target_lengths,
        blank=blank,
        reduction="none",
        zero_infinity=zero_infinity,
    )


def disagreement(one: Tensor, other: Tensor, lengths: Tensor) -> Tensor:
    """(B,) how far the log-probabilities (B, T, V) of two views are apart, summed over `lengths` (B,) frames, in nats.

    The mean of the Kullback-Leibler divergences of each view from the other, which stands still meanwhile as what is
    to be learnt: gradients go into the view that learns alone (CR-CTC, section 3.2, equation 2).
    """
    return 0.5 * (divergence(one, other.detach(), lengths) + divergence(other, one.detach(), lengths))


def per_view(masks: Tensor, views: int) -> tuple[Tensor, ...]:
    """(B, views * masks, 2) -> a (B, masks, 2) for each view."""
    return masks.view(len(masks), views, masks.shape[1] // views, 2).unbind(1)


def hide(features: Tensor, time_masks: Tensor, frequency_masks: Tensor, value: Tensor) -> Tensor:
    """SpecAugment: set the masked frames and bins of (B, F, T) to `value` (F, 1) or (1, 1)."""
    if time_masks.shape[1]:
        features = torch.where(_covered(time_masks, features.shape[2])[:, None, :], value, features)
    if frequency_masks.shape[1]:
        features = torch.where(_covered(frequency_masks, features.shape[1])[:, :, None], value, features)
    return features


def noisy(features: Tensor, frames: Tensor, seeds: Tensor, augment: AugmentConfig) -> Tensor:
    """Noise of mean zero on the `frames` (B,) of those rows of (B, F, T) whose seed (B,) is not 0.

    Each draws from its own generator, on the CPU: the same noise in whichever batch and on whichever device.
    """
    if augment.feature_noise == "none" or not seeds.any():
        return features
    noise = torch.zeros(features.shape)
    for row, (seed, count) in enumerate(zip(seeds.tolist(), frames.tolist(), strict=True)):
        if seed:
            generator = torch.Generator().manual_seed(seed)
            noise[row, :, :count] = draw_noise(augment.feature_noise, (features.shape[1], count), generator)
    return features + augment.feature_noise_deviation * noise.to(features)


def draw_noise(name: str, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Of mean 0 and deviation 1: Gaussian, or Gumbel's skewed one, whose mean is Euler's constant otherwise."""
    if name == "gaussian":
        return torch.randn(shape, generator=generator)
    uniform = torch.rand(shape, generator=generator).clamp(min=1e-7, max=1 - 1e-7)
    return (-(-uniform.log()).log() - np.euler_gamma) * (math.sqrt(6) / math.pi)


def _covered(masks: Tensor, size: int) -> Tensor:
    """(B, masks, 2) spans -> (B, size) true inside any of them."""
    position = torch.arange(size, device=masks.device)
    return ((position >= masks[..., :1]) & (position < masks[..., 1:])).any(dim=1)
