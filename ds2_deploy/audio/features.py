"""What the front end computes, as plain data (no torch): see ds2_deploy/model/frontend.py for the computation."""

import math
from typing import Literal

import msgspec

Spectrum = Literal["log_power", "log_mel"]
Window = Literal["hann", "hamming"]
Normalization = Literal["utterance", "global", "none"]


class FeatureConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From samples in [-1, 1] to a (F, T) matrix of logarithmic energies."""

    sample_rate: int = 16000
    """Samples per second the model was trained at; audio of another rate is resampled to it."""
    spectrum: Spectrum = "log_power"
    """`log_power`: ln max(|X|^2, floor) of every bin; `log_mel`: the same after a mel filter bank."""
    window: Window = "hann"
    """Periodic analysis window of `window_ms`."""
    window_ms: float = 20.0
    hop_ms: float = 10.0
    fft_size: int | None = None
    """Points of the DFT, at least the window (which is then zero-padded); None is the window itself."""
    mel_bands: int = 80
    """Bands of `log_mel`: triangles with a peak of one on the HTK mel scale, 0 Hz to Nyquist (torchaudio's default)."""
    floor: float = 1e-6
    """Smallest power: with 1e-10 two correct float32 spectrograms of real audio differ by 8e-3."""
    center: bool = False
    """Pad half a window of zeros at both ends, so that frame t is centred on sample t * hop."""
    normalization: Normalization = "utterance"
    """`utterance`: one mean and deviation per recording (cannot stream); `global`: per bin, from the
    training set, kept in the metadata; `none`."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "window_ms", "hop_ms", "mel_bands", "floor"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"feature.{name} is {value}: it must be a positive number")
        for name in ("window_ms", "hop_ms"):
            samples = self.sample_rate * getattr(self, name) / 1000
            if samples != round(samples):
                raise ValueError(f"feature.{name} is {samples} samples: it must be a whole number of them")
        if self.fft_size is not None and self.fft_size < self.window_samples:
            raise ValueError(
                f"feature.fft_size is {self.fft_size}: it must be at least the window, {self.window_samples} samples"
            )

    @property
    def window_samples(self) -> int:
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop_samples(self) -> int:
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def dft_points(self) -> int:
        return self.fft_size or self.window_samples

    @property
    def padding_samples(self) -> int:
        """Zeros put before and after the recording."""
        return self.window_samples // 2 if self.center else 0

    @property
    def bins(self) -> int:
        """F, the height of the feature matrix."""
        return self.mel_bands if self.spectrum == "log_mel" else self.dft_points // 2 + 1

    def frames(self, samples: int) -> int:
        """Feature frames of a recording of `samples` samples: only whole windows count."""
        missing = samples + 2 * self.padding_samples - self.window_samples
        return 0 if samples == 0 or missing < 0 else missing // self.hop_samples + 1


class FeatureStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean and standard deviation of every bin over the training set, for `global` normalisation."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
