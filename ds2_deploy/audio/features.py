"""What the front end computes, as plain data (no torch): see ds2_deploy/model/frontend.py for the computation."""

import math
from typing import Literal

import msgspec

from ds2_deploy.ranges import POSITIVE, between, check_ranges

Spectrum = Literal[
    "amplitude", "power", "log_power", "log1p", "log_density", "mel_amplitude", "mel_power", "log_mel", "mfcc"
]  # fmt: skip
Window = Literal["hann", "hamming"]
Normalization = Literal[
    "utterance", "utterance_sample", "utterance_bins", "running", "frame", "global", "whitening", "none"
]

LONGEST_S = 600.0
"""Most that `running` normalisation looks back: a stream keeps three numbers of every frame."""
LONGEST_TAIL_MS = 1000.0
DELTA_FRAMES = 4
"""Neighbours on either side that a difference is taken over."""


class FeatureConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From samples in [-1, 1] to a (F, T) matrix of energies or of what describes them."""

    sample_rate: int = 16000
    """Samples per second the model was trained at; audio of another rate is resampled to it."""
    spectrum: Spectrum = "log_power"
    """`amplitude`, `power`: |X| and |X|^2 of every bin; `log_power`: ln max(|X|^2, floor); `log1p`:
    ln(1 + |X|); `log_density`: ln max(P, floor) below the Nyquist frequency, with the one-sided power density P of
    scipy.signal.spectrogram, 2 |X|^2 over sample rate and energy of the window (half of it at 0 Hz); `mel_amplitude`,
    `mel_power`, `log_mel`: the first three after a mel filter bank; `mfcc`: mel-frequency cepstral coefficients, the
    orthonormal cosine transform (DCT-II) of `log_mel`."""
    window: Window = "hann"
    """Analysis window of `window_ms`."""
    symmetric_window: bool = False
    """Whether the window's last sample is its first again; otherwise the one after it would be (periodic)."""
    window_ms: float = 20.0
    hop_ms: float = 10.0
    fft_size: int | None = None
    """Points of the DFT, at least the window (which is then zero-padded); None is the window itself."""
    mel_bands: int = 80
    """Triangles with a peak of one, equally spaced on the HTK mel scale from 0 Hz to Nyquist (torchaudio's default)."""
    cepstra: int = 13
    """Coefficients of `mfcc`, the zeroth, which is the level, included."""
    deltas: Literal[0, 1, 2] = 0
    """1 appends the first differences over time, 2 the second ones, too: regression over four frames on either side,
    an utterance's first and last frame repeated beyond its ends (as HTK and librosa's `nearest` do)."""
    floor: float = 1e-6
    """Smallest power that a logarithm is taken of; with 1e-10 two correct spectrograms in float32 differ by 8e-3."""
    center: bool = False
    """Pad half a window of zeros at both ends, so that frame t is centred on sample t * hop."""
    reflect: bool = False
    """Pad with the recording itself, backwards from its ends, instead of zeros (cannot stream)."""
    tail_ms: float = 0.0
    """Zeros heard after the recording: where one is cut close to its last sound, a network that answers late, as one
    that streams does, has frames for its last letters there."""
    power_normalize: bool = False
    """Bring each recording to one root mean square level first (cannot stream): the paper's "power normalized" clips,
    section 3."""
    peak_normalize: bool = False
    """Divide each recording by its largest sample first (cannot stream)."""
    normalization: Normalization = "utterance"
    """`utterance`: one mean and deviation per recording; `utterance_sample`: the same with the sample deviation (n - 1)
    and nothing added to it; `utterance_bins`: one per bin of each recording, which is cepstral mean and variance
    normalisation (none of them can stream); `running`: at each frame one mean and deviation of the `running_s` up to
    it, and of the training set as long as it is not full; `frame`: one mean and deviation over the bins of each frame;
    `global`: per bin, from the training set, kept in the metadata; `whitening`: from the training set, bins
    decorrelated, kept with the weights; `none`."""
    running_s: float = 6.0
    """How far back `running` normalisation looks."""
    prior_s: float = 0.5
    """What it begins with: as if so much had been heard of what the training set is like on average. It gives way to
    what is heard once there is as much as `running_s`."""

    def __post_init__(self) -> None:
        check_ranges(
            self, "feature.",
            sample_rate=POSITIVE, window_ms=POSITIVE, hop_ms=POSITIVE, tail_ms=between(0, LONGEST_TAIL_MS),
            mel_bands=POSITIVE, floor=POSITIVE, running_s=POSITIVE, prior_s=POSITIVE,
        )  # fmt: skip
        if self.running_s > LONGEST_S:
            raise ValueError(f"feature.running_s is {self.running_s}: it must be at most {LONGEST_S:g} seconds")
        for name in ("window_ms", "hop_ms"):
            samples = self.sample_rate * getattr(self, name) / 1000
            beyond = samples % 1  # not exactly 0: 220 samples at 11025 Hz are no round number of milliseconds
            if not min(beyond, 1 - beyond) < 1e-6 or round(samples) < 1:
                raise ValueError(f"feature.{name} is {samples} samples: it must be a whole number of them")
        if self.spectrum == "mfcc" and not 1 <= self.cepstra <= self.mel_bands:
            raise ValueError(
                f"feature.cepstra is {self.cepstra}: it must be between 1 and feature.mel_bands, {self.mel_bands}"
            )
        if self.power_normalize and self.peak_normalize:
            raise ValueError("feature.power_normalize and feature.peak_normalize are both true: choose one")
        if self.reflect and self.tail_ms:
            raise ValueError("feature.reflect is true and feature.tail_ms above 0: nothing can follow a mirrored end")
        if self.reflect and not self.center:
            raise ValueError("feature.reflect is true and feature.center is false: there is no padding to fill")
        if self.deltas and not self.is_log:
            raise ValueError(f"feature.deltas is {self.deltas}: {self.spectrum} has none, choose log_mel or mfcc")
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
    def padding(self) -> tuple[int, int]:
        """Samples put before and after the recording."""
        half = self.window_samples // 2 if self.center else 0
        return half, half + round(self.sample_rate * self.tail_ms / 1000)

    @property
    def bins(self) -> int:
        """F, the height of the feature matrix."""
        return self.static_bins * (1 + self.deltas)

    @property
    def running_frames(self) -> int:
        """Frames that `running` normalisation looks at, the present one among them."""
        return max(round(self.running_s * self.sample_rate / self.hop_samples), 1)

    @property
    def by_utterance(self) -> bool:
        """Whether each recording is normalised by the whole of itself."""
        return self.normalization.startswith("utterance")

    @property
    def needs_statistics(self) -> bool:
        """Whether it is normalised with what the training set is like in every bin."""
        return self.normalization in ("global", "running")

    @property
    def static_bins(self) -> int:
        """Rows without differences over time."""
        if self.spectrum == "mfcc":
            return self.cepstra
        return self.mel_bands if self.has_mel else self.dft_bins

    @property
    def dft_bins(self) -> int:
        """Bins of the DFT that are looked at."""
        return (self.dft_points + 1) // 2 if self.spectrum == "log_density" else self.dft_points // 2 + 1

    @property
    def has_mel(self) -> bool:
        """Whether there is a mel filter bank."""
        return self.spectrum == "mfcc" or "mel" in self.spectrum

    @property
    def is_log(self) -> bool:
        """Whether energies are logarithmic, in nats."""
        return self.spectrum in ("log_power", "log1p", "log_density", "log_mel", "mfcc")

    @property
    def smallest(self) -> float:
        """What silence is in every bin of the spectrum (for `mfcc`, of the mel bands)."""
        return math.log(self.floor) if self.is_log and self.spectrum != "log1p" else 0.0

    def frames(self, samples: int) -> int:
        """Feature frames of a recording of `samples` samples: only whole windows count."""
        missing = samples + sum(self.padding) - self.window_samples
        return 0 if samples == 0 or missing < 0 else missing // self.hop_samples + 1


class FeatureStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean and standard deviation of every bin over the training set, for `global` and `running` normalisation."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
