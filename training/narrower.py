"""Recurrent layers of fewer units, made of a trained network's: the units that are heard least are left out.

A unit is heard by the next layer, through its columns there times what batch norm scales it by, and by its own layer a
frame later; no data is needed, for batch norm's statistics say how much it varies. Structured pruning by the size of
what is connected (Li et al. 2017, "Pruning filters for efficient ConvNets"), here of what a unit is connected to.

Shapes: H units, D directions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ds2_deploy.model.config import ModelConfig

NORM = ("weight", "bias", "running_mean", "running_var")
DIRECTIONS = ("forward_rnn", "backward_rnn")
LOOKAHEAD = "encoder.lookahead.conv.weight"
"""(H, 1, frames), the present frame first."""


def narrowed(weights: Mapping[str, Tensor], model: ModelConfig, size: int) -> dict[str, Tensor]:
    """The state dict of `model` with `size` units in every recurrent layer instead of more."""
    result = dict(weights)
    for layer in range(model.rnn_layers):
        kept = torch.topk(_loudness(weights, model, layer), size).indices.sort().values
        recurrent = [name for name in _own(weights, layer) if "weight_hh" in name]
        above = [name for name in (LOOKAHEAD,) if name in weights and layer == model.rnn_layers - 1]
        for dim, names in (
            (0, [*_own(weights, layer), *_norm_above(weights, layer), *above]),
            (1, [*recurrent, *_heard_by(weights, model, layer)]),
        ):
            for name in names:
                result[name] = _of_units(result[name], kept, model.rnn_size, dim)
    return result


def _loudness(weights: Mapping[str, Tensor], model: ModelConfig, layer: int) -> Tensor:
    """(H,) how much is heard of each unit: by the next layer and by its own, each as a share of the mean."""
    ahead = torch.stack([_energy(weights[name]) for name in _heard_by(weights, model, layer)]).sum(dim=0)  # (D H,)
    again = torch.stack([_energy(weights[name]) for name in _own(weights, layer) if "weight_hh" in name])  # (D, H)
    if norm := _norm_above(weights, layer):
        scale, _, _, variance = (weights[name].double() for name in norm)
        ahead = ahead * scale.square()
        again = again * variance.reshape(-1, model.rnn_size)
    if layer == model.rnn_layers - 1 and LOOKAHEAD in weights:
        ahead = ahead * _energy(weights[LOOKAHEAD].flatten(1).T)
    ahead, again = ahead.reshape(-1, model.rnn_size).sum(dim=0), again.sum(dim=0)
    return ahead / ahead.mean() + again / again.mean()


def _energy(weight: Tensor) -> Tensor:
    """(outputs, inputs) -> (inputs,)."""
    return weight.double().square().sum(dim=0)


def _own(weights: Mapping[str, Tensor], layer: int) -> list[str]:
    """The names of a recurrent layer's weights and biases."""
    return [name for name in weights if name.startswith(tuple(f"encoder.rnn.{layer}.{d}." for d in DIRECTIONS))]


def _norm_above(weights: Mapping[str, Tensor], layer: int) -> list[str]:
    """Those of the batch norm between a layer and the recurrent one above it, if there is one."""
    return [name for part in NORM if (name := f"encoder.rnn.{layer + 1}.norm.{part}") in weights]


def _heard_by(weights: Mapping[str, Tensor], model: ModelConfig, layer: int) -> list[str]:
    """Those of the matrices that multiply what a layer gives."""
    if layer < model.rnn_layers - 1:
        return [name for d in DIRECTIONS if (name := f"encoder.rnn.{layer + 1}.{d}.weight_ih_l0") in weights]
    return ["encoder.fc.0.linear.weight" if model.fc_layers else "encoder.output.weight"]


def _of_units(tensor: Tensor, kept: Tensor, units: int, dim: int) -> Tensor:
    """Those of the `kept` units along `dim`, which holds gates or directions one after the other."""
    groups = tensor.shape[dim] // units
    return tensor.index_select(dim, torch.cat([kept + group * units for group in range(groups)]))
