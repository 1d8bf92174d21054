"""The front end: samples in, normalised spectrogram or cepstra out. One module for training and for the exported graph.

The short-time Fourier transform is a strided convolution with the windowed DFT basis as its weights, because that is
what every runtime has a kernel for:

    audio    |----- window -----|
                  |----- window -----|          stride = hop
                       |----- window -----|
    weights  (2F, 1, window): F cosines, then F sines, each times the analysis window

It runs in float32 whatever the network around it runs in: half precision would lose the quiet bins.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ds2_deploy.audio.features import DELTA_FRAMES, FeatureConfig, FeatureStatistics
from ds2_deploy.model.layers import time_mask

DEVIATION_FLOOR = 1e-2
"""Added (squared) to an utterance's variance, in nats; digital silence would otherwise amplify rounding errors. A
linear spectrum changes by this share of its mean where its logarithm changes by this many nats."""
LEAST_SAMPLE_DEVIATION = 1e-5
"""What `utterance_sample` divides by at least; only silence is below it."""
FRAME_DEVIATION_FLOOR = 1e-2 * math.log(10) / 20
"""The same for `frame`: 0.01 in twenty times the common logarithm."""
LEVEL = 0.1
"""Root mean square that power normalisation aims at, 20 dB below full scale."""
QUIETEST = 1e-4
"""Root mean square below which a recording counts as silence, and is not made louder for being quieter still."""
QUIETEST_PEAK = 1e-5
"""Added to a recording's largest sample before it is divided by it."""
TINY = 1e-30
"""What numbers of frames are divided by at least."""
LARGEST = 65504.0
"""Most that half precision can hold, so that no network is given infinity: power at full scale is more in windows of
32 ms at 16 kHz, and divided by the deviations of a quiet training set it is more in shorter ones, too."""


def deviation_floor(config: FeatureConfig, mean: Tensor) -> Tensor | float:
    """The smallest deviation that counts, of features with this `mean`, in their unit."""
    if config.is_log:
        return FRAME_DEVIATION_FLOOR if config.normalization == "frame" else DEVIATION_FLOOR
    return DEVIATION_FLOOR * mean + (config.floor**0.5 if "amplitude" in config.spectrum else config.floor)


def dft_basis(config: FeatureConfig) -> npt.NDArray[np.float64]:
    """(2F, window): rows k and F + k give the real part and the negated imaginary part of DFT bin k."""
    n = np.arange(config.window_samples)
    a0 = {"hann": 0.5, "hamming": 0.54}[config.window]
    period = max(config.window_samples - config.symmetric_window, 1)
    window = a0 - (1 - a0) * np.cos(2 * math.pi * n / period)
    bins = np.arange(config.dft_bins)
    angle = 2 * math.pi / config.dft_points * np.outer(bins, n)  # (F, window)
    basis: npt.NDArray[np.float64] = np.concatenate([np.cos(angle), np.sin(angle)]) * window
    if config.spectrum == "log_density":
        sides = np.where(np.tile(bins, 2) > 0, 2, 1)[:, None]
        basis *= np.sqrt(sides / (config.sample_rate * np.square(window).sum()))
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


def cosine_transform(rows: int, bands: int) -> npt.NDArray[np.float64]:
    """(rows, bands): the first rows of the orthonormal DCT-II."""
    k, n = np.arange(rows)[:, None], np.arange(bands)
    matrix: npt.NDArray[np.float64] = np.sqrt(2 / bands) * np.cos(math.pi * k * (2 * n + 1) / (2 * bands))
    matrix[0] /= math.sqrt(2)
    return matrix


class Frontend(nn.Module):
    """`forward(audio (B, S), lengths (B,)) -> features (B, F, T), frames (B,)`; frames beyond a row's end are zero."""

    basis: Tensor
    mel: Tensor | None
    cosines: Tensor | None
    silence: Tensor
    """(F, 1) features of digital silence, before normalisation."""
    mean: Tensor | None
    scale: Tensor | None
    center: Tensor
    """(F, 1) and, for `whitening`, stored with the weights as is the matrix."""
    whitening: Tensor
    """(F, F)"""

    def __init__(self, config: FeatureConfig, statistics: FeatureStatistics | None = None) -> None:
        super().__init__()
        self.config = config
        self._constant("basis", dft_basis(config)[:, None, :])
        self._constant("mel", mel_filters(config) if config.has_mel else None)
        cosines = cosine_transform(config.cepstra, config.mel_bands) if config.spectrum == "mfcc" else None
        self._constant("cosines", cosines)
        self._constant("silence", self._silence(cosines))
        mean, deviation = _mean_and_deviation(config, statistics) if statistics else (None, None)
        self._constant("mean", mean)
        self._constant("scale", None if deviation is None else 1 / deviation)
        if config.normalization == "whitening":
            self.register_buffer("center", torch.zeros(config.bins, 1))
            self.register_buffer("whitening", torch.eye(config.bins))

    def _silence(self, cosines: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        config = self.config
        value = np.zeros((config.bins, 1))  # differences are zero
        energies = np.full(config.mel_bands if config.has_mel else config.static_bins, config.smallest)
        value[: config.static_bins, 0] = energies if cosines is None else cosines @ energies
        return value

    def _constant(self, name: str, value: npt.NDArray[np.float64] | None) -> None:
        tensor = None if value is None else torch.from_numpy(value).float()
        self.register_buffer(name, tensor, persistent=False)  # computed from the configuration, so never stored

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features = self.spectrogram(audio, lengths)  # (B, F, T)
        frames = self.frames(lengths)
        valid = time_mask(frames, features.shape[-1])[:, None, :]  # (B, 1, T)
        return self.normalize(features, frames, valid).masked_fill(~valid, 0.0), frames

    def whiten(self, center: Tensor, matrix: Tensor) -> None:
        """What `whitening` does from now on: features (F, T) become `matrix` (F, F) times them less `center` (F, 1)."""
        self.center.copy_(center)
        self.whitening.copy_(matrix)

    def frames(self, lengths: Tensor) -> Tensor:
        """Feature frames (B,) of recordings of `lengths` samples (B,): FeatureConfig.frames, vectorised."""
        config = self.config
        offset = sum(config.padding) - config.window_samples + config.hop_samples
        frames = (lengths + offset).clamp(min=0) // config.hop_samples  # not torch.div: it exports as float32
        return frames * (lengths > 0) if any(config.padding) else frames

    def spectrogram(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, F, T) before normalisation."""
        if self.config.power_normalize:
            audio = self.level(audio, lengths)
        if self.config.peak_normalize:
            peak = audio.masked_fill(~time_mask(lengths, audio.shape[-1]), 0.0).abs().amax(dim=1, keepdim=True)
            audio = audio / (peak + QUIETEST_PEAK)
        before, after = self.config.padding
        if self.config.reflect:
            audio = reflected(audio, lengths, before)
        elif after:  # what lies beyond the end would otherwise enter the last windows
            audio = audio.masked_fill(~time_mask(lengths, audio.shape[-1]), 0.0)
            audio = nn.functional.pad(audio, (before, after))
        features = [self.energies(audio)]
        for _ in range(self.config.deltas):
            features.append(differences(features[-1], self.frames(lengths)))
        return torch.cat(features, dim=1) if self.config.deltas else features[0]

    def level(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Recordings (B, S) at a root mean square of LEVEL; silence stays silence."""
        valid = audio.masked_fill(~time_mask(lengths, audio.shape[-1]), 0.0)
        mean_square = valid.square().sum(dim=1, keepdim=True) / lengths.clamp(min=1)[:, None]
        return valid * (LEVEL / mean_square.clamp(min=QUIETEST**2).sqrt())

    def energies(self, audio: Tensor) -> Tensor:
        """Energies or cepstra (B, F, T) of all whole windows in (B, S)."""
        config = self.config
        audio = audio.to(self.basis.dtype)
        with _full_precision(audio):
            spectrum = nn.functional.conv1d(audio[:, None, :], self.basis, stride=config.hop_samples)  # (B, 2F, T)
            power = spectrum.square()
            bins = config.dft_bins
            power = power[:, :bins] + power[:, bins:]  # (B, F, T)
            if "amplitude" in config.spectrum or config.spectrum == "log1p":
                power = power.sqrt()
            if config.spectrum == "log1p":
                return power.log1p()
            if self.mel is not None:
                power = self.mel @ power
            if not config.is_log:
                return power
            log = power.clamp(min=config.floor).log()
            if self.cosines is None:
                return log
            return self.cosines @ (log - config.smallest) + self.silence[: config.cepstra]  # silence without rounding

    def normalize(
        self, features: Tensor, frames: Tensor, valid: Tensor, heard: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """`features` (B, F, T) of `frames` (B,), where `valid` (B, 1, T); what is not valid becomes anything.

        `heard` puts those of earlier frames before moments (B, 3, T), (B, 3, running_frames - 1 + T): None if the
        recording begins here.
        """
        normalized = self._normalize(features, frames, valid, heard or self._nothing_before)
        return normalized if self.config.is_log else normalized.clamp(min=-LARGEST, max=LARGEST)  # logs are small

    def _normalize(self, features: Tensor, frames: Tensor, valid: Tensor, heard: Callable[[Tensor], Tensor]) -> Tensor:
        if self.config.normalization == "none":
            return features
        if self.config.needs_statistics:
            assert self.mean is not None  # as ModelMetadata sees to
            assert self.scale is not None
            features = (features - self.mean) * self.scale
            if self.config.normalization == "global":
                return features
            least = deviation_floor(self.config, self.mean) * self.scale
            return self._normalize_running(features, heard(_moments(features, valid)), least)
        if self.config.normalization == "whitening":
            with _full_precision(features):
                return self.whitening @ (features - self.center)
        return self._normalize_utterances(features, frames, valid)

    def _nothing_before(self, moments: Tensor) -> Tensor:
        return nn.functional.pad(moments, (self.config.running_frames - 1, 0))

    def _normalize_running(self, features: Tensor, heard: Tensor, least: Tensor) -> Tensor:
        """`features` (B, F, T) to mean 0 and deviation 1 of the frames up to each, whose moments were `heard`.

        They come with mean 0 and deviation 1 of the training set, which counts for `prior_s` as long as `running_s` is
        not full, as the global frames of Kaldi's online cepstral mean normalisation do. `least` (1, 1) is the smallest
        deviation that counts.
        """
        frames = self.config.running_frames
        moments = _sliding_moments(heard, frames, features.shape[-1])  # (B, 3, T)
        prior = self.config.prior_s * self.config.sample_rate / self.config.hop_samples
        known = torch.minimum(frames - moments[:, :1], torch.full_like(moments[:, :1], prior))
        moments = _merged(moments, torch.cat([known, torch.zeros_like(known), known], dim=1))
        count, mean, squares = moments[:, :1], moments[:, 1:2], moments[:, 2:]
        return (features - mean) / (squares / count.clamp(min=TINY) + least.square()).sqrt()

    def _normalize_utterances(self, features: Tensor, frames: Tensor, valid: Tensor) -> Tensor:
        """To mean 0 and deviation 1 of each utterance, over all its bins or in each of them, or of each frame."""
        over = {"utterance_bins": (2,), "frame": (1,)}.get(self.config.normalization, (1, 2))
        bins = features.shape[1] if 1 in over else 1
        frames = frames if 2 in over else torch.ones_like(frames)
        # Counted from the floor, so that the sums are small and silence is exactly zero: its mean would otherwise
        # be off by a rounding error, which its tiny deviation blows up.
        features = features - self.silence
        count = (frames.clamp(min=1) * bins).to(features.dtype)[:, None, None]
        mean = features.masked_fill(~valid, 0.0).sum(dim=over, keepdim=True) / count
        centred = (features - mean).masked_fill(~valid, 0.0)
        squares = centred.square().sum(dim=over, keepdim=True)
        if self.config.normalization == "utterance_sample":
            return centred / (squares / (count - 1).clamp(min=1)).sqrt().clamp(min=LEAST_SAMPLE_DEVIATION)
        variance = squares / count
        return centred / (variance + deviation_floor(self.config, mean) ** 2).sqrt()


def _moments(features: Tensor, valid: Tensor) -> Tensor:
    """(B, F, T) -> (B, 3, T), of each frame alone: its number, one or none, and its bins' mean and variance."""
    mean = features.mean(dim=1, keepdim=True)
    variance = (features - mean).square().mean(dim=1, keepdim=True)
    return torch.cat([torch.ones_like(mean), mean, variance], dim=1).masked_fill(~valid, 0.0)


def _merged(one: Tensor, other: Tensor) -> Tensor:
    """Moments (B, 3, T) of both together: a number of frames, their mean, and their variance times their number.

    Exact where a difference of squares is not (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample
    variance").
    """
    count = one[:, :1] + other[:, :1]
    share = other[:, :1] / count.clamp(min=TINY)
    apart = other[:, 1:2] - one[:, 1:2]
    squares = one[:, 2:] + other[:, 2:] + one[:, :1] * share * apart.square()
    return torch.cat([count, one[:, 1:2] + share * apart, squares], dim=1)


def _sliding_moments(x: Tensor, window: int, frames: int) -> Tensor:
    """(B, 3, window - 1 + frames) -> (B, 3, frames): of the `window` frames up to each.

    By doubling, 2 n frames being twice n: in the same order for every frame, so in a stream as in the whole recording.
    """
    moments, place, size = torch.zeros_like(x[..., :frames]), 0, 1
    while True:
        if window & size:  # this binary digit of the window
            moments = _merged(moments, x[..., place : place + frames])
            place += size
        size *= 2
        if size > window:
            return moments
        half = size // 2
        x = _merged(x[..., :-half], x[..., half:])


def _mean_and_deviation(
    config: FeatureConfig, statistics: FeatureStatistics
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What a training set is like: (F, 1) each, or, for `running`, (1, 1) of all bins together."""
    mean, deviation = np.array(statistics.mean)[:, None], np.array(statistics.deviation)[:, None]
    if config.normalization != "running":
        return mean, deviation
    square = (np.square(mean) + np.square(deviation)).mean(keepdims=True)
    mean = mean.mean(keepdims=True)
    return mean, np.sqrt(square - np.square(mean))


def reflected(audio: Tensor, lengths: Tensor, padding: int) -> Tensor:
    """(B, S) -> (B, S + 2 padding): each recording goes on backwards beyond its ends, as in a mirror.

    Recordings of no more than `padding` samples, which would need a second mirror, repeat their first one there.
    """
    place = (torch.arange(audio.shape[1] + 2 * padding, device=audio.device) - padding).abs()
    last = lengths[:, None] - 1  # (B, 1)
    return audio.gather(1, torch.where(place > last, 2 * last - place, place).clamp(min=0))


def differences(features: Tensor, frames: Tensor) -> Tensor:
    """Regression slopes over time of (B, F, T), the ends of each row's `frames` (B,) repeated: HTK book, 5.9.

    d[t] = sum over n = 1..4 of n (c[t + n] - c[t - n]) / (2 sum of n^2)
    """
    width, length = DELTA_FRAMES, features.shape[2]
    source = torch.arange(-width, length + width, device=features.device).clamp(min=0)  # (T + 8,)
    source = torch.minimum(source, (frames - 1).clamp(min=0)[:, None])  # (B, T + 8)
    padded = features.gather(2, source[:, None, :].expand(-1, features.shape[1], -1))
    slopes = torch.zeros_like(features)
    for n in range(1, width + 1):
        slopes = slopes + n * (padded[..., width + n :][..., :length] - padded[..., width - n :][..., :length])
    return slopes / (2 * sum(n * n for n in range(1, width + 1)))


def _full_precision(audio: Tensor) -> AbstractContextManager[None]:
    """cuDNN convolutions round to TF32 by default, which moves a log spectrogram by up to 0.8; products may, too."""
    return _without_tf32() if audio.is_cuda else nullcontext()


@contextmanager
def _without_tf32() -> Iterator[None]:
    products, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products
