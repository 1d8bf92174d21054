"""Spectra, cepstra, differences and ways of normalisation against librosa and numpy; all of them in the ONNX graph."""

import json

import librosa
import numpy as np
import pytest
import scipy.signal
import torch

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.audio.load import load_audio
from ds2_deploy.errors import ConfigError
from ds2_deploy.manifest import read_manifest
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import load_checkpoint
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.model.frontend import Frontend, differences
from ds2_deploy.runtime.protocol import pad_batch
from training.recipe import load_recipe
from training.statistics import feature_statistics, whitening
from training.trainer import train

SPECTRA = [
    "amplitude", "power", "log_power", "log1p", "log_density", "mel_amplitude", "mel_power", "log_mel", "mfcc",
]  # fmt: skip


def voice(rate, seconds=1.0, seed=0):
    """Harmonics under a moving envelope, with pauses and a noise floor: the dynamics of speech."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(rate * seconds)) / rate
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 3 * t)) / rate
    tone = sum(np.sin(k * pitch) / k for k in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 2.3 * t + seed), 0, 1)
    return (0.1 * tone * envelope + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)


def by_librosa(samples, config):
    """(F, T) before normalisation, in float64."""
    spectrum = librosa.stft(
        samples.astype(np.float64),
        n_fft=config.dft_points,
        hop_length=config.hop_samples,
        win_length=config.window_samples,
        window=config.window,
        center=False,
    )  # librosa centres a short window in the transform, so that its frames start earlier and magnitudes are the same
    size = np.abs(spectrum)
    if config.spectrum == "log1p":
        return np.log1p(size)
    energies = size if "amplitude" in config.spectrum else size**2
    if config.has_mel:
        bank = librosa.filters.mel(
            sr=config.sample_rate,
            n_fft=config.dft_points,
            n_mels=config.mel_bands,
            htk=True,
            norm=None,
            dtype=np.float64,
        )
        energies = bank @ energies
    if not config.is_log:
        return energies
    if config.spectrum == "log_density":
        window = scipy.signal.get_window(config.window, config.window_samples)
        energies = 2 * energies[: (config.dft_points + 1) // 2] / (config.sample_rate * np.square(window).sum())
        energies[0] /= 2
    log = np.log(np.maximum(energies, config.floor))
    return librosa.feature.mfcc(S=log, n_mfcc=config.cepstra) if config.spectrum == "mfcc" else log


def features_of(samples, config):
    """(F, T), float32, before normalisation."""
    audio = torch.from_numpy(samples)[None]
    return Frontend(config).spectrogram(audio, torch.tensor([len(samples)]))[0].numpy()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("rate", [8000, 16000])
def test_spectra_are_librosas(spectrum, rate):
    config = FeatureConfig(sample_rate=rate, spectrum=spectrum, window_ms=32.0, mel_bands=40, cepstra=13)
    samples = voice(rate)
    expected, got = by_librosa(samples, config), features_of(samples, config)
    assert got.shape == expected.shape == (config.bins, config.frames(len(samples)))
    error = np.abs(got - expected).max()
    assert error < (2e-3 if config.is_log else 1e-5 * expected.max())


@pytest.mark.parametrize("deltas", [1, 2])
def test_differences_are_librosas(deltas):
    config = FeatureConfig(spectrum="mfcc", mel_bands=40, deltas=deltas)
    static = by_librosa(voice(16000), FeatureConfig(spectrum="mfcc", mel_bands=40))
    parts = [static]
    for _ in range(deltas):
        parts.append(librosa.feature.delta(parts[-1], width=9, mode="nearest"))
    got = features_of(voice(16000), config)
    assert got.shape == (13 * (1 + deltas), static.shape[1])
    assert np.abs(got - np.concatenate(parts)).max() < 2e-3


def test_differences_do_not_see_the_padding():
    features = torch.randn(3, 5, 20)
    frames = torch.tensor([20, 7, 1])
    together = differences(features, frames)
    for row, count in enumerate(frames.tolist()):
        alone = differences(features[row : row + 1, :, :count], torch.tensor([count]))
        torch.testing.assert_close(together[row, :, :count], alone[0], rtol=0, atol=0)
    assert torch.equal(differences(features, torch.tensor([1, 1, 0]))[:2, :, 0], torch.zeros(2, 5))


@pytest.mark.parametrize(("spectrum", "deltas"), [*((spectrum, 0) for spectrum in SPECTRA), ("mfcc", 1)])
def test_each_bin_of_an_utterance_has_mean_zero_and_deviation_one(spectrum, deltas):
    config = FeatureConfig(spectrum=spectrum, mel_bands=20, fft_size=512, deltas=deltas, normalization="utterance_bins")
    recordings = [voice(16000), 0.3 * voice(16000, 0.6, seed=1), np.zeros(4000, np.float32)]
    features, frames = Frontend(config)(*map(torch.from_numpy, pad_batch(recordings)))
    for row, samples in enumerate(recordings[:2]):
        raw = features_of(samples, config).astype(np.float64)
        mean = raw.mean(axis=1, keepdims=True)
        least = 0.01 if config.is_log else 0.01 * mean + (1e-3 if "amplitude" in spectrum else 1e-6)
        expected = (raw - mean) / np.sqrt(raw.var(axis=1, keepdims=True) + least**2)
        assert np.abs(features[row, :, : frames[row]].numpy() - expected).max() < 2e-3
    assert features[2].abs().max() < 1e-6  # silence


@pytest.mark.parametrize("spectrum", ["amplitude", "mel_power", "mfcc"])
def test_silence_is_zero_and_level_is_forgotten_by_utterance_normalisation(spectrum):
    frontend = Frontend(FeatureConfig(spectrum=spectrum, mel_bands=20, fft_size=512))
    silent, _ = frontend(torch.zeros(1, 16000), torch.tensor([16000]))
    assert silent.abs().max() < 1e-6
    if spectrum != "mfcc":  # whose floor the quiet copy meets earlier
        samples = torch.from_numpy(voice(16000))[None]
        loud, quiet = (frontend(gain * samples, torch.tensor([16000]))[0] for gain in (1.0, 0.5))
        assert (loud - quiet).abs().max() < 1e-3


def test_power_normalisation_brings_recordings_to_one_level():
    frontend = Frontend(FeatureConfig(power_normalize=True))
    recordings = [voice(16000), 0.01 * voice(16000, 0.5), np.zeros(3000, np.float32), np.full(2000, 1e-6, np.float32)]
    audio, lengths = map(torch.from_numpy, pad_batch(recordings))
    audio[1, len(recordings[1]) :] = 1.0  # what lies beyond the end does not count
    levelled = frontend.level(audio, lengths).numpy()
    for row in (0, 1):
        samples = recordings[row].astype(np.float64)
        expected = samples * 0.1 / np.sqrt(np.mean(samples**2))
        assert np.abs(levelled[row, : len(samples)] - expected).max() < 1e-5
        assert not levelled[row, len(samples) :].any()
    assert not levelled[2].any()
    assert np.abs(levelled[3]).max() <= 1.001e-3  # not blown up
    once, _ = frontend(audio[:1], lengths[:1])
    again, _ = frontend(0.2 * audio[:1], lengths[:1])
    assert (once - again).abs().max() < 1e-3


@pytest.mark.parametrize("spectrum", ["log_mel", "amplitude"])
def test_whitened_training_features_are_uncorrelated(corpus, spectrum):
    config = FeatureConfig(spectrum=spectrum, mel_bands=20, fft_size=512, normalization="whitening")
    if spectrum == "amplitude":
        config = FeatureConfig(
            sample_rate=8000, spectrum=spectrum, window_ms=4.0, hop_ms=2.0, normalization="whitening"
        )
    utterances = read_manifest(corpus)
    center, matrix = whitening(utterances, config)
    frontend = Frontend(config)
    frontend.whiten(center, matrix)
    raw, white = [], []
    for utterance in utterances:
        samples = load_audio(utterance.path, config.sample_rate)
        raw.append(features_of(samples, config).astype(np.float64))
        white.append(frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0].numpy())
    joined = np.concatenate(white, axis=1).astype(np.float64)
    assert np.abs(joined.mean(axis=1)).max() < 1e-3
    covariance = np.cov(np.concatenate(raw, axis=1), bias=True)
    values, vectors = np.linalg.eigh(covariance)
    floor = 1e-3 * values.mean()
    expected = vectors @ np.diag(np.minimum(values / floor, 1)) @ vectors.T  # identity where nothing was held back
    assert (values > floor).sum() > 5
    assert np.abs(np.cov(joined, bias=True) - expected).max() < 2e-2
    assert np.abs(matrix.numpy() - matrix.numpy().T).max() < 1e-9  # so bins keep their places


def test_statistics_are_numpys(corpus):
    config = FeatureConfig(spectrum="mfcc", mel_bands=20, fft_size=512, deltas=1, normalization="global")
    utterances = read_manifest(corpus)
    found = feature_statistics(utterances, config)
    frames = np.concatenate([features_of(load_audio(u.path, 16000), config) for u in utterances], axis=1)
    assert np.abs(np.array(found.mean) - frames.mean(axis=1, dtype=np.float64)).max() < 1e-4
    deviation = frames.std(axis=1, dtype=np.float64) + 0.01
    assert np.abs(np.array(found.deviation) - deviation).max() < 1e-4


def test_whitening_is_learnt_from_the_training_set_and_kept(corpus, tmp_path):
    (tmp_path / "r.toml").write_text(
        'epochs = 1\nworkers = 0\nalphabet = " abc"\nmodel = { rnn_layers = 1, rnn_size = 8, conv = [] }\n'
        'feature = { spectrum = "mfcc", mel_bands = 20, fft_size = 512, normalization = "whitening" }\n'
    )
    recipe = load_recipe(str(tmp_path / "r.toml"), [])
    train(recipe, [corpus], [corpus], tmp_path / "run")
    weights = load_checkpoint(tmp_path / "run/last.pt").weights
    center, matrix = whitening(read_manifest(corpus), recipe.feature)
    assert np.allclose(weights["frontend.center"], center, atol=1e-4)
    assert np.allclose(weights["frontend.whitening"], matrix, atol=1e-4)
    train(recipe, [corpus], [corpus], tmp_path / "tuned", init_from=tmp_path / "run/last.pt")
    tuned = load_checkpoint(tmp_path / "tuned/last.pt").weights
    assert torch.equal(tuned["frontend.whitening"], weights["frontend.whitening"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("feature.cepstra=41", "feature.cepstra is 41: it must be between 1 and feature.mel_bands, 40"),
        ("feature.cepstra=0", "feature.cepstra is 0"),
        ("feature.spectrum=loudness", "feature.spectrum is 'loudness': choose amplitude, log1p,"),
        ("feature.deltas=3", "feature.deltas is 3: choose 0, 1, 2"),
        ("feature={ spectrum = 'power', deltas = 1 }", "feature.deltas is 1: power has none"),
    ],
)
def test_unusable_features_are_named(override, said, tmp_path):
    (tmp_path / "r.toml").write_text('feature = { spectrum = "mfcc", mel_bands = 40 }\n')
    with pytest.raises(ConfigError, match=said):
        load_recipe(str(tmp_path / "r.toml"), [override])


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({"normalization": "utterance_bins"}, "needs the whole recording"),
        ({"normalization": "none", "power_normalize": True}, "needs the whole recording"),
        ({"normalization": "none", "deltas": 1}, "look ahead"),
        ({"normalization": "none", "peak_normalize": True}, "needs the whole recording"),
        ({"normalization": "none", "center": True, "reflect": True}, "needs the end of the recording"),
        ({"normalization": "frame", "spectrum": "log_density"}, None),
        ({"normalization": "whitening"}, None),
        ({"normalization": "none", "spectrum": "mfcc"}, None),
    ],
)
def test_what_cannot_stream_says_so(changes, obstacle):
    obstacles = ModelMetadata(
        feature=FeatureConfig(**changes), model=ModelConfig(bidirectional=False)
    ).streaming_obstacles
    assert (obstacle in obstacles[0]) if obstacle else not obstacles
    assert json.loads(ModelMetadata(feature=FeatureConfig(**changes)).to_json())["feature"]
