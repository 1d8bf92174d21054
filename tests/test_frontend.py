"""The front end against scipy's short-time Fourier transform and a mel filter bank written out by its definition."""

import math

import numpy as np
import pytest
import scipy.signal
import torch

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.audio.load import load_audio
from ds2_deploy.model.frontend import Frontend, mel_filters
from tests.tiny import FEATURES, MODELS, tiny_metadata, tiny_model

RATE = 16000


@pytest.fixture(scope="module")
def speech(ds2_data):
    """Ten recordings at 16 kHz: read speech, and 8 kHz telephone-band digits resampled."""
    sources = [*(ds2_data / "an4/wav/train/fbbh").glob("*.flac"), *(ds2_data / "digits/audio").glob("7_*_1.flac")]
    assert len(sources) > 10
    return [load_audio(path, RATE) for path in sorted(sources)[-10:]]


def reference_power(samples, config):
    """|X|^2 (F, T) in float64 by scipy.signal.stft, its scaling undone."""
    window = scipy.signal.get_window(config.window, config.window_samples)  # periodic
    before, after = config.window_samples // 2 if config.center else 0, round(RATE * config.tail_ms / 1000)
    _, _, spectrum = scipy.signal.stft(
        np.pad(samples.astype(np.float64), (before, before + after + config.window_samples)),
        window=window,
        nperseg=config.window_samples,
        noverlap=config.window_samples - config.hop_samples,
        nfft=config.dft_points,
        boundary=None,
        padded=False,
    )
    return np.abs(spectrum * window.sum())[:, : config.frames(len(samples))] ** 2


def mel_by_definition(power, config):
    def mel(hertz):
        return 2595 * math.log10(1 + hertz / 700)

    top = mel(config.sample_rate / 2)
    points = [700 * (10 ** (top * i / (config.mel_bands + 1) / 2595) - 1) for i in range(config.mel_bands + 2)]
    out = np.zeros((config.mel_bands, power.shape[1]))
    for band in range(config.mel_bands):
        low, middle, high = points[band : band + 3]
        for k in range(power.shape[0]):
            hertz = k * config.sample_rate / config.dft_points
            if low < hertz <= middle:
                out[band] += power[k] * (hertz - low) / (middle - low)
            elif middle < hertz < high:
                out[band] += power[k] * (high - hertz) / (high - middle)
    return out


def reference(samples, config):
    power = reference_power(samples, config)
    if config.spectrum == "log_mel":
        power = mel_by_definition(power, config)
    return np.log(np.maximum(power, config.floor))


def spectrogram(samples, config):
    frontend = Frontend(config)
    audio = torch.from_numpy(samples)[None]
    return frontend.spectrogram(audio, torch.tensor([len(samples)]))[0].numpy()


def signals():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(RATE)
    low = scipy.signal.sosfilt(scipy.signal.butter(8, 0.4, output="sos"), noise)
    return {
        "noise": noise * 0.1,
        "loud": np.clip(noise, -1, 1),
        "band-limited": low * 0.1,
        "near silence": noise * 1e-4,
        "silence": noise * 0,
        "tone": 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE),
    }


@pytest.mark.parametrize("name", list(signals()))
@pytest.mark.parametrize(
    "config",
    [
        FeatureConfig(),
        FeatureConfig(center=True, window="hamming"),
        FeatureConfig(spectrum="log_mel", fft_size=512),
        FeatureConfig(spectrum="log_mel", mel_bands=23, window_ms=25, center=True),
        FeatureConfig(tail_ms=100),
        FeatureConfig(center=True, tail_ms=33),
        FeatureConfig(spectrum="log_mel", mel_bands=30, sample_rate=22050, window_ms=20, hop_ms=10 * 220 / 220.5),
    ],
    ids=[
        "log_power",
        "hamming, centred",
        "log_mel 512",
        "log_mel 25 ms, centred",
        "tail",
        "centred, tail",
        "log_mel of an odd DFT",
    ],
)
def test_agrees_with_scipy(name, config):
    samples = signals()[name].astype(np.float32)
    assert np.abs(spectrogram(samples, config) - reference(samples, config)).max() < 1e-3


@pytest.mark.parametrize("gain", [1.0, 1e-3])
def test_agrees_with_scipy_on_real_speech(speech, gain):
    """16 kHz read speech and telephone-band digits resampled from 8 kHz, as recorded and 60 dB down."""
    config = FeatureConfig()
    worst = max(
        np.abs(spectrogram(samples * np.float32(gain), config) - reference(samples * np.float32(gain), config)).max()
        for samples in speech
    )
    assert worst < 1e-3


@pytest.mark.parametrize("tail_ms", [0.0, 45.0])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 159, 160, 319, 320, 321, 479, 480, 481, 16000])
def test_frame_counts(samples, center, tail_ms):
    config = FeatureConfig(center=center, tail_ms=tail_ms)
    features, frames = Frontend(config)(torch.randn(1, max(samples, 320)), torch.tensor([samples]))
    assert int(frames) == config.frames(samples)
    expected = reference(np.zeros(samples, np.float32), config).shape[1] if samples >= 320 else None
    assert expected is None or int(frames) == expected
    assert not features[:, :, int(frames) :].any()


def test_frame_counts_of_hours():
    """float32 would be wrong from 2^24 samples, 17 minutes, on."""
    lengths = torch.tensor([16_777_279, 16_777_440, 576_000_159])
    assert Frontend(FeatureConfig()).frames(lengths).tolist() == [FeatureConfig().frames(n) for n in lengths.tolist()]


def test_normalisation_per_utterance():
    samples = torch.from_numpy(signals()["noise"].astype(np.float32))
    audio = torch.zeros(2, RATE)
    audio[0], audio[1, : RATE // 2] = samples, samples[: RATE // 2]
    features, frames = Frontend(FeatureConfig())(audio, torch.tensor([RATE, RATE // 2]))
    for row, count in zip(features, frames.tolist(), strict=True):
        assert abs(float(row[:, :count].mean())) < 1e-4
        assert abs(float(row[:, :count].std()) - 1) < 1e-3


def test_silence_is_exactly_zero_after_normalisation():
    features, _ = Frontend(FeatureConfig())(torch.zeros(1, RATE), torch.tensor([RATE]))
    assert features.abs().max() < 1e-6


def test_global_normalisation_uses_the_metadata_statistics():
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"], FEATURES["log mel, global, centred, tail"])
    samples = signals()["noise"].astype(np.float32)
    features, _ = tiny_model(metadata).frontend(torch.from_numpy(samples)[None], torch.tensor([RATE]))
    mean, deviation = np.array(metadata.statistics.mean), np.array(metadata.statistics.deviation)
    expected = (reference(samples, metadata.feature) - mean[:, None]) / deviation[:, None]
    assert np.abs(features[0].numpy() - expected).max() < 1e-3


def test_running_normalisation_is_that_of_the_last_frames_and_a_little_of_the_training_set():
    """Frame by frame, from the values themselves: 0.3 s, and at first 0.05 s of what the training set is like."""
    config = FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512, normalization="running",
                           running_s=0.3, prior_s=0.05)  # fmt: skip
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"], config)
    samples = (signals()["noise"] * np.linspace(1e-3, 1, RATE)).astype(np.float32)
    features, _ = Frontend(config, metadata.statistics)(torch.from_numpy(samples)[None], torch.tensor([RATE]))
    raw = reference(samples, config)  # (F, T)
    mean, deviation = np.array(metadata.statistics.mean), np.array(metadata.statistics.deviation)
    known = mean.mean(), mean.var() + np.square(deviation).mean()  # of a mixture of bins
    for frame in range(raw.shape[1]):
        heard = raw[:, max(frame - 29, 0) : frame + 1]
        known_frames = min(5, 30 - heard.shape[1])
        share = known_frames / (known_frames + heard.shape[1])
        center = share * known[0] + (1 - share) * heard.mean()
        variance = share * (known[1] + (known[0] - center) ** 2)
        variance += (1 - share) * np.square(heard - center).mean()
        expected = (raw[:, frame] - center) / np.sqrt(variance)
        assert np.abs(features[0, :, frame].numpy() - expected).max() < 1e-3


def test_running_normalisation_forgets_the_level_of_a_recording():
    config = FeatureConfig(normalization="running")
    frontend = Frontend(config, tiny_metadata(MODELS["gru, two directions, 2d"], config).statistics)
    samples = torch.from_numpy(np.tile(signals()["noise"], 7).astype(np.float32))[None]
    loud, quiet = (frontend(gain * samples, torch.tensor([7 * RATE]))[0] for gain in (4.0, 1.0))
    difference = (loud - quiet).abs().mean(dim=(0, 1))
    assert difference[0] > 0.1
    assert difference[600:].max() < 1e-3


def test_every_mel_band_hears_something():
    assert (mel_filters(FeatureConfig(spectrum="log_mel", fft_size=512)).sum(axis=1) > 0).all()
