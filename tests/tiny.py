"""Small networks for tests: every part of the family, few parameters, running statistics that are not the defaults."""

import torch

from ds2_deploy.audio.features import FeatureConfig, FeatureStatistics
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.initialize import initialize

CONV_2D = (
    ConvLayer(channels=3, kernel=(11, 5), stride=(3, 2)),
    ConvLayer(channels=4, kernel=(4, 6), stride=(2, 1)),  # even kernels, too
)
CONV_1D = (ConvLayer(channels=9, kernel=(1, 5), stride=(1, 3)),)

MODELS = {
    "gru, two directions, 2d": ModelConfig(conv=CONV_2D, cell="gru", rnn_layers=2, rnn_size=10),
    "lstm, lookahead, 1d, fc": ModelConfig(
        conv_dims=1, conv=CONV_1D, cell="lstm", rnn_layers=2, rnn_size=11, bidirectional=False, lookahead=4,
        fc_layers=2, fc_size=7, dropout=0.3,
    ),
    "rnn, two directions, 3 x 2d, fc": ModelConfig(
        conv=(*CONV_2D, ConvLayer(channels=2, kernel=(3, 3))), cell="rnn", rnn_layers=1, rnn_size=8, fc_layers=1,
        fc_size=6,
    ),
    "rnn with clipped relu, concatenated, shared input weights, no conv": ModelConfig(
        conv=(), cell="rnn_relu", rnn_layers=2, rnn_size=7, directions="concat", shared_input_weights=True,
        relu_clip=0.5,
    ),
    "lstm, norm at every step, residual 1d": ModelConfig(
        conv_dims=1, conv=(ConvLayer(channels=8, kernel=(1, 5), stride=(1, 2), residual=True),), cell="lstm",
        rnn_layers=1, rnn_size=9, recurrent_norm="step", fc_layers=1, fc_size=6,
    ),
    "gru, two directions by windows, 2d": ModelConfig(
        conv=CONV_2D, cell="gru", rnn_layers=2, rnn_size=8, window=2, window_context=3, dropout=0.3,
        locked_dropout=True,
    ),
    "gru, forward only, no batch norm": ModelConfig(
        conv=CONV_2D, cell="gru", rnn_layers=1, rnn_size=8, bidirectional=False, batch_norm=False
    ),
}  # fmt: skip

FEATURES = {
    "log power, utterance": FeatureConfig(),
    "log mel, global, centred, tail": FeatureConfig(
        spectrum="log_mel",
        mel_bands=40,
        fft_size=512,
        center=True,
        normalization="global",
        window="hamming",
        tail_ms=250.0,
    ),
    "mfcc with differences, each bin": FeatureConfig(
        sample_rate=8000, spectrum="mfcc", mel_bands=20, deltas=2, normalization="utterance_bins"
    ),
    "amplitude, whitened, one level": FeatureConfig(
        sample_rate=8000, spectrum="amplitude", window_ms=10.0, power_normalize=True, normalization="whitening"
    ),
    "log mel, running, tail": FeatureConfig(
        spectrum="log_mel", mel_bands=20, fft_size=512, normalization="running", running_s=0.5, tail_ms=90.0
    ),
    "log mel, none, 8 kHz": FeatureConfig(sample_rate=8000, spectrum="log_mel", mel_bands=20, normalization="none"),
}


def tiny_metadata(model: ModelConfig, feature: FeatureConfig | None = None) -> ModelMetadata:
    feature = feature or FeatureConfig(spectrum="log_mel", mel_bands=40, fft_size=512)
    statistics = None
    if feature.needs_statistics:
        ramp = torch.linspace(0, 1, feature.bins)
        statistics = FeatureStatistics(mean=tuple((-9 + ramp).tolist()), deviation=tuple((2 + ramp).tolist()))
    return ModelMetadata(name="tiny", feature=feature, statistics=statistics, model=model)


@torch.no_grad()
def first_to_differ(model: DeepSpeech2, samples: int, changed_from: int) -> int:
    """The first output frame of noise (samples,) that changes with what is heard from sample `changed_from` on."""
    length, audio = torch.tensor([samples]), 0.1 * torch.randn(1, samples).double()
    changed = audio.clone()
    changed[:, changed_from:] += 0.1 * torch.randn(samples - changed_from)
    differs = (model(changed, length)[0] - model(audio, length)[0]).abs().amax(dim=(0, 2)) > 1e-9
    return int(differs.nonzero()[0])


def tiny_model(metadata: ModelMetadata, *, seed: int = 0) -> DeepSpeech2:
    """In evaluation mode, its running statistics moved by a few training batches of noise.

    A lookahead gets random weights: untrained, it does nothing.
    """
    torch.manual_seed(seed)
    model = DeepSpeech2(metadata).train()
    initialize(model, "orthogonal")
    if model.encoder.lookahead is not None:
        torch.nn.init.normal_(model.encoder.lookahead.conv.weight)
    if metadata.feature.normalization == "whitening":
        ramp = torch.linspace(0.5, 1.5, metadata.feature.bins)
        model.frontend.whiten(ramp[:, None], ramp.diag() + 0.05 * ramp.outer(ramp))
    rate = metadata.feature.sample_rate
    with torch.no_grad():
        for _ in range(20):
            model(0.1 * torch.randn(4, rate), torch.tensor([rate, rate // 2, rate // 3, rate // 4]))
    return model.eval()
