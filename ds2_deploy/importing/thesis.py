"""przybyszewskiw/DeepSpeech2, the code of a bachelor's thesis, as read in its model.py, dataload.py and trainer.py.

spectrogram    the recording over its largest sample; scipy.signal.spectrogram's power density P without the Nyquist
               bin; 10 log10 of P squared, at least 1e-30; each frame less its mean over its deviation
convolutions   padded as TensorFlow's "same", min(max(x, 0), 20), then batch norm
recurrent      as wide as what the convolutions give, directions summed
hidden layers  min(max(x, 0), 20), no batch norm
labels         blank, a to z, space, apostrophe

A batch norm behind a convolution's activation cannot go into the next convolution as it is, for the zeros at the
edges come after it. So each convolution but the last gets one more channel, which is 1 inside the recording and 0
around it, and the next one takes the shift from there:  W (s x + t) = [W s, W t] [x, 1].
"""

from typing import Any

import torch
from torch import Tensor

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.errors import ModelError
from ds2_deploy.importing.foreign import Weights, named, setting, settings_of, value_of
from ds2_deploy.metadata import ModelMetadata, Provenance
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.model.norm import Affine
from ds2_deploy.text.alphabet import Alphabet

NAME = "the DeepSpeech2 thesis' code"
ALPHABET = Alphabet.of("abcdefghijklmnopqrstuvwxyz '")
SAMPLE_RATE = 16000
"""LibriSpeech's: the code takes recordings at their own rate and does not write it down."""
SQUARED_POWER_FLOOR = 1e-30
NORM_EPS = 1e-4


def recognizes(content: dict[Any, Any]) -> bool:
    return {"state_dict", "net_params"} <= content.keys()


def convert(content: dict[Any, Any]) -> tuple[ModelMetadata, dict[str, Tensor]]:
    """What describes the network, and its weights."""
    settings = settings_of(content["net_params"])
    feature = _features(settings)
    model, weights = _network(settings, Weights(content["state_dict"]), feature.bins)
    epochs = value_of(content.get("epoch"))
    provenance = Provenance(recipe="thesis", epochs=epochs if isinstance(epochs, int) else 0)
    return ModelMetadata(feature=feature, alphabet=ALPHABET, model=model, provenance=provenance), weights


def _features(settings: dict[Any, Any]) -> FeatureConfig:
    window_ms, overlap_ms = (setting(settings, f"sound_time_{name}", float) for name in ("length", "overlap"))
    feature = FeatureConfig(
        sample_rate=SAMPLE_RATE,
        spectrum="log_density",
        window_ms=window_ms,
        hop_ms=window_ms - overlap_ms,
        floor=SQUARED_POWER_FLOOR**0.5,
        peak_normalize=True,
        normalization="frame",
    )
    for name in ("sound_features_size", "frequencies"):
        if setting(settings, name, int) != feature.bins:
            raise ModelError(f"its setting {name} is {settings[name]}, and only all {feature.bins} can be imported")
    return feature


def _network(settings: dict[Any, Any], theirs: Weights, bins: int) -> tuple[ModelConfig, dict[str, Tensor]]:
    if setting(settings, "rec_type", str) == "rnn":
        raise ModelError("its setting rec_type is 'rnn', a ReLU without a limit, which no layer here has")
    if not setting(settings, "rec_bidirectional", bool):
        raise ModelError("its setting rec_bidirectional is false, and then that code adds up two halves of a layer")
    convolutions, ours, norm = _convolutions(settings, theirs)
    cell, hidden = theirs.cell("rec.layers.0.weight_hh_l0")
    layers = setting(settings, "rec_number", int)
    if norm is not None:
        channels = len(norm.scale)
        norm = Affine(*(values.repeat_interleave(hidden // channels) for values in norm))  # (C, F') -> (C F',)
    for i in range(layers):
        for direction, suffix in (("forward_rnn", ""), ("backward_rnn", "_reverse")):
            weights = theirs.direction(f"rec.layers.{i}", suffix, norm if i == 0 else None)
            ours |= named(f"encoder.rnn.{i}.{direction}", **weights)
    sizes = setting(settings, "fc_layers_sizes", list)
    if len(set(sizes)) != 1:
        raise ModelError(f"its setting fc_layers_sizes is {sizes}, and hidden layers here are of one size")
    dropout = setting(settings, "fc_dropout", float)
    for i in range(len(sizes)):
        name = f"fc.layers.{i}.0.0" if dropout else f"fc.layers.{i}.0"
        ours |= named(f"encoder.fc.{i}.linear", **theirs.linear(name))
    ours |= named("encoder.output", **theirs.linear("probs.linear"))
    theirs.check_all_taken()
    config = ModelConfig(
        conv=convolutions,
        cell=cell,
        rnn_layers=layers,
        rnn_size=hidden,
        fc_layers=len(sizes),
        fc_size=sizes[0],
        batch_norm=False,
        dropout=0.0,
    )
    return config, ours


def _convolutions(
    settings: dict[Any, Any], theirs: Weights
) -> tuple[tuple[ConvLayer, ...], dict[str, Tensor], Affine | None]:
    """Layers and weights, and the last one's batch norm, which the recurrent layer takes over."""
    listed = [settings_of(layer) for layer in setting(settings, "conv_layers", list)]
    normalized = setting(settings, "batch_norm", bool)
    layers: list[ConvLayer] = []
    ours: dict[str, Tensor] = {}
    norm: Affine | None = None
    for i, layer in enumerate(listed):
        weights = theirs.linear(f"convs.layers.{i}.0.0.layer" if normalized else f"convs.layers.{i}.0.layer", dims=4)
        weight, bias = weights["weight"], weights["bias"]  # (C, C', F, T), (C,)
        channels = len(weight)
        if norm is not None:
            ones = (weight * norm.shift[:, None, None]).sum(1, keepdim=True)
            weight = torch.cat([weight * norm.scale[:, None, None], ones], dim=1)
        norm = theirs.norm(f"convs.layers.{i}.1", channels, NORM_EPS) if normalized else None
        if norm is not None and i < len(listed) - 1:
            weight = torch.cat([weight, weight.new_zeros(1, *weight.shape[1:])])
            bias = torch.cat([bias, bias.new_ones(1)])
        stride = setting(layer, "stride", tuple)
        kernel = (weight.shape[2], weight.shape[3])
        layers.append(ConvLayer(channels=len(weight), kernel=kernel, stride=stride, same=True))
        ours |= named(f"encoder.conv.{i}.conv", weight=weight, bias=bias)
    return tuple(layers), ours, norm
