"""The weights a training begins with: another training's, a model's, or its own from before it was stopped."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from torch import Tensor

from ds2_deploy.errors import ModelError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import Checkpoint, load_model
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from training.labels import transfer_output

LOOKAHEAD = "encoder.lookahead.conv.weight"
"""(H, 1, frames), the present frame first."""


def weights_of(source: Path) -> Checkpoint:
    """Of a checkpoint file, a model folder or a bundled model."""
    model = load_model(source)
    return Checkpoint(metadata=model.metadata, weights=model.state_dict())


def load_into(model: DeepSpeech2, checkpoint: Checkpoint, path: Path | None, resume: bool) -> None:
    """Another architecture is an error; what may differ where a training is not resumed is made to fit."""
    old, new, weights = checkpoint.metadata, model.metadata, checkpoint.weights
    if not resume:
        old = _made_to_fit(old, new)
    for name in ("model", "feature", *(("alphabet",) if resume else ())):
        if getattr(old, name) != getattr(new, name):
            raise ModelError(
                f"{path} was trained with another {name} than the recipe's: {_difference(old, new, name)}."
            )
    weights = _with_lookahead(weights, model.state_dict())
    if old.alphabet != new.alphabet:
        weights = transfer_output(old.alphabet, new.alphabet, weights, model.state_dict())
    model.load_state_dict(weights)


def _made_to_fit(old: ModelMetadata, new: ModelMetadata) -> ModelMetadata:
    """`old` with what may differ from `new`, for it has no weights: how features are normalised, unless they are
    whitened, and parts of the network."""
    old = msgspec.structs.replace(old, model=_network_made_to_fit(old.model, new.model))
    if "whitening" in (old.feature.normalization, new.feature.normalization):
        return old
    feature = msgspec.structs.replace(old.feature, normalization=new.feature.normalization)
    return msgspec.structs.replace(old, feature=feature, statistics=new.statistics)


def _network_made_to_fit(old: ModelConfig, new: ModelConfig) -> ModelConfig:
    """`old` with what may differ from `new`: dropout, the lookahead of a unidirectional net, the windows of a
    bidirectional one, and the strides in time.

    Strides say how long a frame is; but a residual layer's decide whether it has a projection, so they stay.
    """
    conv = list(old.conv)
    for i, layer in enumerate(new.conv[: len(conv)]):
        if not conv[i].residual:
            conv[i] = msgspec.structs.replace(conv[i], stride=(conv[i].stride[0], layer.stride[1]))
    changed = {"dropout": new.dropout, "locked_dropout": new.locked_dropout}
    if not old.bidirectional:
        changed["lookahead"] = new.lookahead
    elif new.bidirectional:
        changed |= {"window": new.window, "window_context": new.window_context}
    return msgspec.structs.replace(old, conv=tuple(conv), **changed)


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


def _difference(old: ModelMetadata, new: ModelMetadata, name: str) -> str:
    before, after = msgspec.to_builtins(getattr(old, name)), msgspec.to_builtins(getattr(new, name))
    return ", ".join(f"{key} {before[key]!r} there, {after[key]!r} here" for key in after if before[key] != after[key])
