"""FeatureConfig: frame counts against windows counted one by one, and what it refuses."""

from typing import Any

import numpy as np
import pytest

from ds2_deploy.audio.features import FeatureConfig


def counted_frames(samples: int, window: int, hop: int, padding: int) -> int:
    """Whole windows in the padded recording, by numpy's own sliding windows."""
    padded = np.zeros(samples + 2 * padding)
    if samples == 0 or len(padded) < window:
        return 0
    return len(np.lib.stride_tricks.sliding_window_view(padded, window)[::hop])


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("rate", [1000, 8000])
@pytest.mark.parametrize(("window_ms", "hop_ms"), [(20.0, 10.0), (25.0, 10.0), (7.0, 7.0), (5.0, 8.0), (1.0, 1.0)])
def test_frames_are_the_whole_windows(rate: int, window_ms: float, hop_ms: float, center: bool) -> None:
    config = FeatureConfig(sample_rate=rate, window_ms=window_ms, hop_ms=hop_ms, center=center)
    window, hop = rate * int(window_ms) // 1000, rate * int(hop_ms) // 1000
    assert (config.window_samples, config.hop_samples) == (window, hop)
    padding = window // 2 if center else 0
    for samples in [*range(3 * window + 2 * hop), 10 * window + 7]:
        assert config.frames(samples) == counted_frames(samples, window, hop, padding), samples


def test_frames_around_the_first_and_second_window() -> None:
    config = FeatureConfig()  # 320 samples every 160
    assert [config.frames(n) for n in (0, 1, 319, 320, 321, 479, 480)] == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("changes", "bins"),
    [
        ({}, 161),
        ({"fft_size": 512}, 257),
        ({"spectrum": "log_density"}, 160),  # without the Nyquist bin
        ({"spectrum": "log_density", "sample_rate": 1000, "window_ms": 7.0}, 4),
        ({"sample_rate": 8000}, 81),
        ({"sample_rate": 1000, "window_ms": 7.0}, 4),  # an odd DFT has no Nyquist bin
        ({"spectrum": "log_mel", "mel_bands": 40, "fft_size": 512}, 40),
    ],
)
def test_bins(changes: dict[str, Any], bins: int) -> None:
    config = FeatureConfig(**changes)
    assert config.bins == bins
    if config.spectrum == "log_power":
        assert config.bins == len(np.fft.rfft(np.zeros(config.dft_points)))


def test_nobody_looks_back_on_hours() -> None:
    with pytest.raises(ValueError, match=r"feature\.running_s is 601: it must be at most 600 seconds"):
        FeatureConfig(running_s=601)


@pytest.mark.parametrize("value", [-1, 1001, float("nan")])
def test_a_tail_is_at_most_a_second(value: float) -> None:
    with pytest.raises(ValueError, match=rf"feature\.tail_ms is {value}: it must be between 0 and 1000"):
        FeatureConfig(tail_ms=value)


def test_nothing_follows_a_mirrored_end() -> None:
    with pytest.raises(ValueError, match=r"feature\.reflect is true and feature\.tail_ms above 0"):
        FeatureConfig(center=True, reflect=True, tail_ms=20)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["sample_rate", "window_ms", "hop_ms", "mel_bands", "floor", "running_s", "prior_s"])
def test_values_that_are_not_positive_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"feature\.{field} is {value}"):
        FeatureConfig(**{field: value})  # type: ignore[arg-type]


def test_windows_and_hops_are_whole_samples() -> None:
    with pytest.raises(ValueError, match=r"feature\.window_ms is 220\.5 samples"):
        FeatureConfig(sample_rate=11025)
    with pytest.raises(ValueError, match=r"feature\.hop_ms is .* samples: it must be a whole number of them"):
        FeatureConfig(hop_ms=1e-9)
    with pytest.raises(ValueError, match=r"feature\.hop_ms is inf samples"):
        FeatureConfig(hop_ms=1e308)
    with pytest.raises(ValueError, match=r"feature\.hop_ms is 80\.04 samples"):
        FeatureConfig(sample_rate=8000, hop_ms=10.005)
    assert FeatureConfig(sample_rate=11025, window_ms=40.0, hop_ms=40.0).hop_samples == 441
    for samples in range(1, 600):
        milliseconds = 1000 * samples / 11025  # rounded, so not exactly that many samples
        assert FeatureConfig(sample_rate=11025, window_ms=milliseconds, hop_ms=milliseconds).hop_samples == samples


def test_the_dft_is_at_least_the_window() -> None:
    assert FeatureConfig(fft_size=320).dft_points == 320
    with pytest.raises(ValueError, match=r"feature\.fft_size is 319.*320 samples"):
        FeatureConfig(fft_size=319)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reflect": True}, r"feature\.reflect is true and feature\.center is false"),
        (
            {"power_normalize": True, "peak_normalize": True},
            r"power_normalize and feature\.peak_normalize are both true",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FeatureConfig(**changes)
