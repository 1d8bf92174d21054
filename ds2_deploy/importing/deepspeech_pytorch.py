"""SeanNaren/deepspeech.pytorch, versions 2 and 3, as read in its model.py, data_loader.py and train_config.py.

    spectrogram    ln(1 + |X|) of librosa's centred STFT, the recording mirrored at its ends (librosa before 0.9), less
                   its mean, over its sample deviation. Version 2 hands scipy's window functions to librosa, whose
                   windows are symmetric; version 2.1 and 3 hand over their names, and librosa makes periodic ones.
    convolutions   two, with bias, batch norm, min(max(x, 0), 20), masked
    recurrent      directions summed, batch norm before every layer but the first, over packed sequences
    lookahead      forward networks only: a row convolution and min(max(x, 0), 20)
    output         batch norm, then a matrix without bias
    labels         the blank is "_"

A lookahead's activation becomes a hidden layer whose matrix is the identity.
"""

from typing import Any, get_args

import torch
from torch import Tensor

from ds2_deploy.audio.features import FeatureConfig, Window
from ds2_deploy.errors import ModelError
from ds2_deploy.importing.foreign import Weights, named, setting, settings_of, value_of
from ds2_deploy.metadata import ModelMetadata, Provenance
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.text.alphabet import BLANK, Alphabet

NAME = "deepspeech.pytorch 2 and 3"
BLANK_LABEL = "_"
STRIDES = (2, 2), (2, 1)
"""(frequency, time) of the convolutions."""


def recognizes(content: dict[Any, Any]) -> bool:
    return "state_dict" in content and bool({"audio_conf", "hyper_parameters"} & content.keys())


def convert(content: dict[Any, Any]) -> tuple[ModelMetadata, dict[str, Tensor]]:
    """What describes the network, and its weights."""
    lightning = "hyper_parameters" in content
    settings = settings_of(content["hyper_parameters"]) if lightning else content
    audio = settings.get("spect_cfg" if lightning else "audio_conf")
    model, weights = _network(Weights(content["state_dict"]))
    epochs = value_of(content.get("epoch"))
    metadata = ModelMetadata(
        feature=_features(settings_of(audio), symmetric=not lightning and type(audio) is dict),
        alphabet=_alphabet(value_of(settings.get("labels"))),
        model=model,
        provenance=Provenance(
            recipe=f"deepspeech.pytorch {3 if lightning else 2}", epochs=epochs if isinstance(epochs, int) else 0
        ),
    )
    return metadata, weights


def _features(audio: dict[Any, Any], *, symmetric: bool) -> FeatureConfig:
    window = setting(audio, "window", str)
    if window not in get_args(Window):
        raise ModelError(f"its setting window is {window!r}, and only {' and '.join(get_args(Window))} can be imported")
    rate = setting(audio, "sample_rate", int)
    samples, hop_samples = (int(rate * setting(audio, name, float)) for name in ("window_size", "window_stride"))
    return FeatureConfig(
        sample_rate=rate,
        spectrum="log1p",
        window=window,  # type: ignore[arg-type]
        symmetric_window=symmetric,
        window_ms=1000 * samples / rate,
        hop_ms=1000 * hop_samples / rate,
        center=True,
        reflect=True,
        normalization="utterance_sample",
    )


def _alphabet(labels: Any) -> Alphabet:
    """In small letters, as transcripts are here, unless that would make two labels one."""
    labels = [value_of(label) for label in labels] if isinstance(labels, (str, list)) else []
    if BLANK_LABEL not in labels or not all(isinstance(label, str) for label in labels):
        raise ModelError(f"its setting labels is {labels!r:.60}, without the blank {BLANK_LABEL!r}")
    small = [label.lower() for label in labels]
    blank = labels.index(BLANK_LABEL)
    same_length = all(len(one) == len(other) for one, other in zip(small, labels, strict=True))  # not so of a Turkish I
    labels = list(small if same_length and len(set(small)) == len(small) else labels)
    labels[blank] = BLANK
    return Alphabet(labels=tuple(labels), blank=blank)


def _network(theirs: Weights) -> tuple[ModelConfig, dict[str, Tensor]]:
    """All that the weights say: sizes, cell, directions, lookahead."""
    ours: dict[str, Tensor] = {}
    convolutions = []
    for i, stride in enumerate(STRIDES):
        name = f"conv.seq_module.{3 * i}"
        weight, bias = theirs.take(f"{name}.weight", 4), theirs.take(f"{name}.bias", 1)  # (C, C', F, T), (C,)
        weight, bias = theirs.norm(f"conv.seq_module.{3 * i + 1}", len(bias)).after(weight, bias)
        convolutions.append(ConvLayer(channels=len(weight), kernel=(weight.shape[2], weight.shape[3]), stride=stride))
        ours |= named(f"encoder.conv.{i}.conv", weight=weight, bias=bias)
    cell, hidden = theirs.cell("rnns.0.rnn.weight_hh_l0")
    suffixes = {"forward_rnn": "", "backward_rnn": "_reverse"}
    if "rnns.0.rnn.weight_ih_l0_reverse" not in theirs:
        del suffixes["backward_rnn"]
    layers = 0
    while f"rnns.{layers}.rnn.weight_ih_l0" in theirs:
        norm = theirs.norm(f"rnns.{layers}.batch_norm.module", hidden) if layers else None
        for direction, suffix in suffixes.items():
            weights = theirs.direction(f"rnns.{layers}.rnn", suffix, norm)
            ours |= named(f"encoder.rnn.{layers}.{direction}", **weights)
        layers += 1
    context = 0
    if "lookahead.0.conv.weight" in theirs:
        kernel = theirs.take("lookahead.0.conv.weight", 3)  # (H, 1, context)
        context = kernel.shape[2]
        ours |= named("encoder.lookahead.conv", weight=kernel)
        ours |= named("encoder.fc.0.linear", weight=torch.eye(hidden), bias=torch.zeros(hidden))
    weight = theirs.take("fc.0.module.1.weight", 2)  # (V, H)
    weight, bias = theirs.norm("fc.0.module.0", hidden).before(weight, weight.new_zeros(len(weight)))
    ours |= named("encoder.output", weight=weight, bias=bias)
    theirs.check_all_taken()
    config = ModelConfig(
        conv=tuple(convolutions),
        cell=cell,
        rnn_layers=layers,
        rnn_size=hidden,
        bidirectional="backward_rnn" in suffixes,
        lookahead=context,
        fc_layers=1 if context else 0,
        fc_size=hidden,
        batch_norm=False,
    )
    return config, ours
