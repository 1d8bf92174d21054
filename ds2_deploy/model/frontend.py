"""The front end: samples in, normalised log spectrogram out. One module for training and for the exported graph.

The short-time Fourier transform is a strided convolution with the windowed DFT basis as its weights, because that is
what every runtime has a kernel for:

    audio    |----- window -----|
                  |----- window -----|          stride = hop
                       |----- window -----|
    weights  (2F, 1, window): F cosines, then F sines, each times the analysis window

It runs in float32 whatever the network around it runs in: half precision would lose the quiet bins.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ds2_deploy.audio.features import FeatureConfig, FeatureStatistics
from ds2_deploy.model.layers import time_mask

DEVIATION_FLOOR = 1e-2
"""Added (squared) to an utterance's variance, in nats; digital silence would otherwise amplify rounding errors."""


def dft_basis(config: FeatureConfig) -> npt.NDArray[np.float64]:
    """(2F, window): rows k and F + k give the real part and the negated imaginary part of DFT bin k."""
    n = np.arange(config.window_samples)
    a0 = {"hann": 0.5, "hamming": 0.54}[config.window]
    window = a0 - (1 - a0) * np.cos(2 * math.pi * n / config.window_samples)  # periodic, not symmetric
    bins = np.arange(config.dft_points // 2 + 1)
    angle = 2 * math.pi / config.dft_points * np.outer(bins, n)  # (F, window)
    basis: npt.NDArray[np.float64] = np.concatenate([np.cos(angle), np.sin(angle)]) * window
    return basis


def mel_filters(config: FeatureConfig) -> npt.NDArray[np.float64]:
    """(mel bands, F): triangles with a peak of one, equally spaced on the HTK mel scale from 0 Hz to Nyquist."""
    nyquist = config.sample_rate / 2
    hertz = np.arange(config.dft_points // 2 + 1) * config.sample_rate / config.dft_points
    top = 2595 * math.log10(1 + nyquist / 700)
    edges = 700 * (10 ** (np.linspace(0, top, config.mel_bands + 2) / 2595) - 1)  # (bands + 2,)
    rising = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    filters: npt.NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return filters


class Frontend(nn.Module):
    """`forward(audio (B, S), lengths (B,)) -> features (B, F, T), frames (B,)`; frames beyond a row's end are zero."""

    basis: Tensor
    mel: Tensor | None
    mean: Tensor | None
    scale: Tensor | None

    def __init__(self, config: FeatureConfig, statistics: FeatureStatistics | None = None) -> None:
        super().__init__()
        self.config = config
        self._constant("basis", dft_basis(config)[:, None, :])
        self._constant("mel", mel_filters(config) if config.spectrum == "log_mel" else None)
        self._constant("mean", np.array(statistics.mean)[:, None] if statistics else None)
        self._constant("scale", 1 / np.array(statistics.deviation)[:, None] if statistics else None)

    def _constant(self, name: str, value: npt.NDArray[np.float64] | None) -> None:
        tensor = None if value is None else torch.from_numpy(value).float()
        self.register_buffer(name, tensor, persistent=False)  # computed from the configuration, so never stored

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features = self.spectrogram(audio, lengths)  # (B, F, T)
        frames = self.frames(lengths)
        valid = time_mask(frames, features.shape[-1])[:, None, :]  # (B, 1, T)
        return self.normalize(features, frames, valid).masked_fill(~valid, 0.0), frames

    def frames(self, lengths: Tensor) -> Tensor:
        """Feature frames (B,) of recordings of `lengths` samples (B,): FeatureConfig.frames, vectorised."""
        config = self.config
        offset = 2 * config.padding_samples - config.window_samples + config.hop_samples
        frames = (lengths + offset).clamp(min=0) // config.hop_samples  # not torch.div: it exports as float32
        return frames * (lengths > 0) if config.center else frames

    def spectrogram(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Logarithmic energies (B, F, T) before normalisation."""
        if self.config.center:  # what lies beyond the end would otherwise enter the last windows
            audio = audio.masked_fill(~time_mask(lengths, audio.shape[-1]), 0.0)
        return self.energies(audio, padding=self.config.padding_samples)

    def energies(self, audio: Tensor, *, padding: int) -> Tensor:
        """Logarithmic energies (B, F, T) of all whole windows in (B, S) with `padding` zeros at both ends."""
        config = self.config
        audio = audio.to(self.basis.dtype)
        with _full_precision(audio):
            spectrum = nn.functional.conv1d(
                audio[:, None, :], self.basis, stride=config.hop_samples, padding=padding
            )  # (B, 2F, T)
            power = spectrum.square()
            bins = config.dft_points // 2 + 1
            power = power[:, :bins] + power[:, bins:]  # (B, F, T)
            if self.mel is not None:
                power = self.mel @ power
        return power.clamp(min=config.floor).log()

    def normalize(self, features: Tensor, frames: Tensor, valid: Tensor) -> Tensor:
        if self.config.normalization == "none":
            return features
        if self.mean is not None and self.scale is not None:
            return (features - self.mean) * self.scale
        # Counted from the floor, so that the sums are small and silence is exactly zero: its mean would otherwise
        # be off by a rounding error, which its tiny deviation blows up.
        features = features - math.log(self.config.floor)
        count = (frames.clamp(min=1) * features.shape[1]).to(features.dtype)[:, None, None]
        mean = features.masked_fill(~valid, 0.0).sum(dim=(1, 2), keepdim=True) / count
        centred = (features - mean).masked_fill(~valid, 0.0)
        variance = centred.square().sum(dim=(1, 2), keepdim=True) / count
        return centred / (variance + DEVIATION_FLOOR**2).sqrt()


def _full_precision(audio: Tensor) -> AbstractContextManager[None]:
    """cuDNN convolutions round to TF32 by default, which moves a log spectrogram by up to 0.8."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if audio.is_cuda else nullcontext()
