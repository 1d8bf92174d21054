"""The weights a training begins with: another training's, a model's, or its own from before it was stopped."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.errors import ConfigError, ModelError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import Checkpoint
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from training.labels import alphabet_changes, transfer_output
from training.recipe import Recipe, differences

LOOKAHEAD = "encoder.lookahead.conv.weight"
"""(H, 1, frames), the present frame first."""


def check_norm(recipe: Recipe) -> None:
    """Where weights begin at random, batch norm needs statistics from somewhere."""
    if recipe.model.batch_norm and recipe.norm_frozen_from * recipe.epochs < 1:
        raise ConfigError(
            f"norm_frozen_from is {recipe.norm_frozen_from:g} and the weights are random, so batch norm would never "
            "learn its statistics: begin with a model (--init-from), or raise norm_frozen_from."
        )


def check_alike(
    checkpoint: Checkpoint, model: ModelConfig, feature: FeatureConfig, path: Path | None, resume: bool
) -> None:
    """ModelError where it is of another architecture, or other features, than may differ."""
    old = checkpoint.metadata
    _check_alike("model", *((old.model, model) if resume else _alike_networks(old.model, model)), path)
    _check_alike("feature", old.feature if resume else _alike_features(old.feature, feature), feature, path)


def load_into(model: DeepSpeech2, checkpoint: Checkpoint, path: Path | None, resume: bool) -> None:
    """Another architecture is an error; what may differ where a training is not resumed is made to fit."""
    old, new, weights = checkpoint.metadata, model.metadata, checkpoint.weights
    if not resume:
        checkpoint.model()  # what is made to fit below must fit its own metadata
    check_alike(checkpoint, new.model, new.feature, path, resume)
    if resume:
        _check_alike("alphabet", old.alphabet, new.alphabet, path)
    if new.model.rnn_size < old.model.rnn_size:
        weights = _narrowed(weights, old.model, new.model.rnn_size)
    weights = _with_lookahead(weights, model.state_dict())
    if old.alphabet != new.alphabet:
        weights = transfer_output(old.alphabet, new.alphabet, weights, model.state_dict())
    checkpoint.fill(model, weights)


def changes(old: ModelMetadata, new: ModelMetadata, begins: object) -> Iterator[str]:
    """In sentences: what a network that goes on from `begins`, the `old` one, has otherwise."""
    changed = [
        f"{table}.{name} {before} -> {now}"
        for table in ("feature", "model")
        for name, before, now in differences(*(msgspec.to_builtins(getattr(one, table)) for one in (old, new)))
        if name != "conv"  # of which strides in time may differ, and so the frame
    ]
    if old.frame_s != new.frame_s:
        changed.append(f"frame {1000 * old.frame_s:g} ms -> {1000 * new.frame_s:g} ms")
    if changed:
        yield f"Different from {begins}: {', '.join(changed)}."
    if new.streaming_obstacles and not old.streaming_obstacles:
        yield f"{begins} can stream, this model will not: {'; '.join(new.streaming_obstacles)}."
    if labels := alphabet_changes(old.alphabet, new.alphabet):
        yield f"Labels of {begins}: {labels}."


def _check_alike(name: str, old: msgspec.Struct, new: msgspec.Struct, path: Path | None) -> None:
    if old != new:
        before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
        different = [f"{key} {before[key]!r} there, {after[key]!r} here" for key in after if before[key] != after[key]]
        raise ModelError(f"{path} was trained with another {name} than the recipe's: {', '.join(different)}.")


def _alike_networks(old: ModelConfig, new: ModelConfig) -> tuple[ModelConfig, ModelConfig]:
    """Both without what may differ, for it has no weights or they can be made to fit: dropout, the lookahead of a
    unidirectional net, the windows of a bidirectional one, a smaller number of recurrent units, and the
    strides in time.

    Strides say how long a frame is; but a residual layer's decide whether it has a projection, so they stay.
    """
    conv = list(old.conv)
    for i, layer in enumerate(new.conv[: len(conv)]):
        if not conv[i].residual:
            conv[i] = msgspec.structs.replace(conv[i], stride=(conv[i].stride[0], layer.stride[1]))
    old = msgspec.structs.replace(old, conv=tuple(conv), dropout=new.dropout, locked_dropout=new.locked_dropout)
    if old.rnn_size > new.rnn_size and new.recurrent_norm != "step":
        old = msgspec.structs.replace(old, rnn_size=new.rnn_size)
    if not old.bidirectional and not new.bidirectional:
        old = msgspec.structs.replace(old, lookahead=new.lookahead)
    if old.bidirectional and new.bidirectional:
        old, new = (msgspec.structs.replace(one, window=0, window_context=0) for one in (old, new))
    return old, new


def _alike_features(old: FeatureConfig, new: FeatureConfig) -> FeatureConfig:
    """`old` normalised like `new`, with its tail: what is subtracted and divided by is no weight, except where it
    whitens."""
    if old.reflect == new.reflect:  # nothing can follow a mirrored end
        old = msgspec.structs.replace(old, tail_ms=new.tail_ms)
    if "whitening" in (old.normalization, new.normalization):
        return old
    return msgspec.structs.replace(old, normalization=new.normalization, running_s=new.running_s, prior_s=new.prior_s)


def _with_lookahead(weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A shorter lookahead keeps the nearest frames, a longer one has zeros, a new one is the `fresh` network's."""
    known = {name: tensor for name, tensor in weights.items() if name != LOOKAHEAD}
    if LOOKAHEAD not in fresh:
        return known
    taps = fresh[LOOKAHEAD].clone()
    if LOOKAHEAD in weights:
        old = weights[LOOKAHEAD][..., : taps.shape[-1]]
        taps = taps.zero_()
        taps[..., : old.shape[-1]] = old
    return {**known, LOOKAHEAD: taps}


def _narrowed(weights: Mapping[str, Tensor], model: ModelConfig, size: int) -> dict[str, Tensor]:
    """Weights of `model` with the first `size` units of every recurrent layer.

    Which ones stay does not matter: a network that has learnt with dropout has spread what it knows over all of them.
    """
    above = "encoder.fc.0.linear.weight" if model.fc_layers else "encoder.output.weight"
    result = dict(weights)
    for name in weights:
        layer = name.removeprefix("encoder.rnn.") if name.startswith("encoder.rnn.") else ""
        heard = layer and not layer.startswith("0.")  # the first layer hears what is not recurrent
        norm = ".norm." in layer  # of what the layer hears
        if (heard if norm else layer) or name.startswith("encoder.lookahead."):
            result[name] = _first(result[name], model.rnn_size, size, 0)
        if "weight_hh" in layer or (heard and "weight_ih" in layer) or name == above:
            result[name] = _first(result[name], model.rnn_size, size, 1)
    return result


def _first(tensor: Tensor, units: int, kept: int, dim: int) -> Tensor:
    """The first `kept` of `units` along `dim`, where gates or directions lie one after the other, so many each."""
    groups = torch.arange(0, tensor.shape[dim], units)[:, None]
    return tensor.index_select(dim, (groups + torch.arange(kept)).flatten())
