"""Normalised features where others might leak in or numbers run out: batches, streams, masks, half precision."""

import json

import msgspec
import numpy as np
import pytest
import torch

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.frontend import Frontend
from ds2_deploy.model_folder import open_model
from ds2_deploy.runtime.ort_backend import OrtBackend
from ds2_deploy.runtime.streamed import Streamed
from ds2_deploy.runtime.torch_backend import TorchBackend, TorchStreamBackend
from export.exporter import export_model
from tests.conftest import noise
from tests.test_export import save
from tests.test_spectra import SPECTRA, voice
from tests.tiny import MODELS, tiny_metadata, tiny_model
from training.augment import Augmenter
from training.corpus import survey
from training.data import Speech
from training.recipe import AugmentConfig
from training.step import TrainingStep

FULL_SCALE = np.ones(16000, np.float32)
LOUD = FeatureConfig(spectrum="power", window_ms=32.0, normalization="none")
"""A full-scale constant is (256 samples of window)^2 = 65536 in it, 32 more than half precision holds."""


def changed(config, **fields):
    return msgspec.structs.replace(config, **fields)


@pytest.mark.parametrize(
    "normalization", ["utterance", "utterance_sample", "utterance_bins", "running", "frame", "whitening", "none"]
)
@pytest.mark.parametrize(
    "config",
    [
        *(FeatureConfig(sample_rate=8000, spectrum=spectrum, mel_bands=20) for spectrum in SPECTRA),
        FeatureConfig(sample_rate=8000, spectrum="mfcc", mel_bands=20, deltas=2, power_normalize=True),
        FeatureConfig(sample_rate=8000, spectrum="amplitude", center=True, power_normalize=True),
        FeatureConfig(sample_rate=8000, spectrum="log1p", center=True, reflect=True, peak_normalize=True),
    ],
    ids=[*SPECTRA, "mfcc with differences, one level", "amplitude centred, one level", "log1p mirrored, one peak"],
)
def test_features_do_not_depend_on_the_batch(config, normalization):
    config = changed(config, normalization=normalization)
    frontend = Frontend(config, tiny_metadata(MODELS["gru, two directions, 2d"], config).statistics)
    if normalization == "whitening":
        ramp = torch.linspace(0.5, 1.5, config.bins)
        frontend.whiten(ramp[:, None], ramp.diag() + 0.05 * ramp.outer(ramp))
    window = config.window_samples
    recordings = [voice(8000, 0.7), voice(8000, 0.3, seed=1), noise(window, seed=2), noise(window + 1, seed=3)]
    recordings.append(np.zeros(900, np.float32))
    lengths = torch.tensor([len(r) for r in recordings])
    audio = torch.full((len(recordings), 8000), 9.0)  # nobody may look beyond the end
    for row, recording in zip(audio, recordings, strict=True):
        row[: len(recording)] = torch.from_numpy(recording)
    together, frames = frontend(audio, lengths)
    for row, recording in enumerate(recordings):
        alone, count = frontend(torch.from_numpy(recording)[None], lengths[row : row + 1])
        assert int(count) == int(frames[row]) == config.frames(len(recording))
        torch.testing.assert_close(together[row, :, : int(count)], alone[0, :, : int(count)], rtol=1e-4, atol=1e-4)
        assert not together[row, :, int(count) :].any()


@pytest.mark.parametrize(
    "feature",
    [
        FeatureConfig(sample_rate=8000, spectrum="amplitude", window_ms=10.0, normalization="whitening"),
        FeatureConfig(spectrum="mfcc", mel_bands=20, fft_size=512, center=True, normalization="global"),
        FeatureConfig(spectrum="mfcc", mel_bands=20, fft_size=512, normalization="running", running_s=0.01),
        FeatureConfig(spectrum="log1p", normalization="running", running_s=0.2),
        FeatureConfig(spectrum="mel_power", mel_bands=20, fft_size=512, normalization="none"),
        FeatureConfig(spectrum="log_density", normalization="frame", symmetric_window=True),
        FeatureConfig(spectrum="log1p", window="hamming", center=True, normalization="none"),
    ],
    ids=[
        "amplitude, whitening",
        "mfcc, global, centred",
        "mfcc, running, a frame",
        "log1p, running",
        "mel power, none",
        "density, frame",
        "log1p, centred",
    ],
)
def test_a_stream_hears_the_same(feature):
    model = tiny_model(tiny_metadata(MODELS["lstm, lookahead, 1d, fc"], feature))
    backend = TorchStreamBackend.of(model, 2 * model.metadata.stream_unit_samples)
    for samples in (1, model.metadata.min_samples, backend.chunk_samples + 1, 9001):
        batch = noise(samples, seed=samples)[None], np.array([samples])
        expected, streamed = TorchBackend.of(model).run(*batch), Streamed(backend, model.metadata).run(*batch)
        count = int(expected.lengths[0])
        assert streamed.lengths[0] == count == model.metadata.output_frames(samples)
        np.testing.assert_allclose(streamed.log_probs[0, :count], expected.log_probs[0, :count], atol=3e-5)


@pytest.mark.parametrize(
    "feature",
    [
        FeatureConfig(spectrum="mfcc", mel_bands=20, fft_size=512, deltas=1, normalization="none"),
        FeatureConfig(spectrum="amplitude", normalization="none"),
        FeatureConfig(spectrum="mfcc", mel_bands=20, fft_size=512, normalization="utterance_bins"),
        FeatureConfig(spectrum="mel_power", mel_bands=20, fft_size=512, normalization="whitening"),
    ],
    ids=["mfcc, none", "amplitude, none", "mfcc, each bin", "mel power, whitening"],
)
@torch.no_grad()
def test_masks_hide_behind_the_mean_or_what_silence_is(corpus, feature):
    """The encoder is given silence's own features, bin by bin, where a mask lies, and where it does not what it was."""
    metadata = tiny_metadata(MODELS["lstm, lookahead, 1d, fc"], feature)
    masks = AugmentConfig(time_masks=2, time_mask_frames=30, time_mask_share=0.9, frequency_masks=2)
    model = tiny_model(metadata)
    augmenter = Augmenter(masks, metadata.feature.sample_rate)
    batch = Speech(survey([corpus], "en", None).corpus, metadata, augmenter, seed=7)[[(1, 3)]]
    silence, _ = Frontend(changed(feature, normalization="none"))(torch.zeros(1, 16000), torch.tensor([16000]))
    value = silence[0, :, :1] if feature.normalization == "none" else torch.zeros(feature.bins, 1)
    plain, _ = model.frontend(batch.audio, batch.lengths)
    hidden = torch.zeros(plain.shape, dtype=torch.bool)
    for start, end in batch.time_masks[0].tolist():
        hidden[:, :, start:end] = True
    for start, end in batch.frequency_masks[0].tolist():
        hidden[:, start:end] = True
    given = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    TrainingStep(model, "fp32", masks)(batch)
    assert hidden.any()
    assert not hidden.all()
    torch.testing.assert_close(given[0], torch.where(hidden, value, plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_linear_features_fit_into_half_precision(scale):
    audio, lengths = torch.from_numpy(FULL_SCALE)[None], torch.tensor([16000])
    whitened = Frontend(changed(LOUD, normalization="whitening"))
    whitened.whiten(torch.zeros(LOUD.bins, 1), scale * torch.eye(LOUD.bins))
    assert whitened.spectrogram(audio, lengths).max() == pytest.approx(256**2)
    for frontend in (whitened, Frontend(LOUD)):
        features, _ = frontend(audio, lengths)
        assert features.half().isfinite().all()
        assert features.max() == 65504


def test_half_precision_hears_full_scale_power(tmp_path):
    model = tiny_model(tiny_metadata(ModelConfig(conv=(), rnn_layers=1, rnn_size=8, bidirectional=False), LOUD))
    save(model, tmp_path / "model.pt")
    report = export_model(tmp_path / "model.pt", tmp_path / "model")
    assert report.passed
    batch = np.stack([FULL_SCALE, voice(16000)]), np.array([16000, 16000])
    expected = TorchBackend.of(model).run(*batch).log_probs
    for precision, most in (("fp32", 1e-4), ("fp16", 0.02)):
        got = OrtBackend(open_model(tmp_path / "model"), device="cpu", precision=precision).run(*batch).log_probs
        assert np.abs(got - expected).max() < most


@pytest.mark.parametrize("prior_s", [1e-30, 0.5])
@pytest.mark.parametrize("spectrum", ["log_mel", "mel_power", "log1p", "amplitude"])
def test_running_normalisation_of_long_silence_is_small(spectrum, prior_s):
    """Ten seconds of digital zero, in the end behind noise: nothing blows up, and zero stays near zero."""
    config = FeatureConfig(spectrum=spectrum, mel_bands=20, normalization="running", prior_s=prior_s)
    frontend = Frontend(config, tiny_metadata(MODELS["gru, two directions, 2d"], config).statistics)
    for begin in (np.zeros(0, np.float32), noise(16000)):
        samples = np.concatenate([begin, np.zeros(160_000, np.float32)])
        features, _ = frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        assert features.isfinite().all()
        assert features[..., -300:].abs().max() < 1e-3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"spectrum": "mfcc", "mel_bands": 40, "deltas": 2, "normalization": "utterance_bins"},
         "mfcc, 13 cepstra of 40 mel bands with first and second differences"),
        ({"spectrum": "amplitude", "power_normalize": True, "normalization": "whitening"},
         "amplitude, 161 bins, hann 20 ms every 10 ms, one level, normalised: whitening"),
        ({"normalization": "running", "running_s": 4}, "running, over 4 s begun with 0.5 s of the training set's"),
    ],
)  # fmt: skip
def test_info_says_what_the_front_end_is(fields, said, tmp_path, ds2):
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"], FeatureConfig(**fields))
    model = DeepSpeech2(metadata)
    save(model, tmp_path / "model.pt")
    shown = ds2("info", tmp_path / "model.pt")
    assert shown.code == 0
    assert said in " ".join(shown.out.split())
    facts = json.loads(ds2("info", tmp_path / "model.pt", "--json").out)
    assert facts["metadata"]["feature"]["normalization"] == fields["normalization"]
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())  # a whitening matrix is not trained
