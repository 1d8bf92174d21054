"""Batch normalisation multiplied into the weights beside it: an affine map each, so the network stays the same."""

import torch
from torch import nn

from ds2_deploy.model.layers import FullyConnected, MaskedConv, RecurrentLayer


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> None:
    """Fold every frozen batch norm of `network` in place, in float64."""
    for layer in network.modules():
        if isinstance(layer, (MaskedConv, FullyConnected)) and layer.norm is not None:
            linear = layer.conv if isinstance(layer, MaskedConv) else layer.linear
            scale, shift = layer.norm.affine()
            weight = linear.weight.double()
            linear.weight.copy_(weight * scale.view(-1, *[1] * (weight.dim() - 1)))
            linear.bias = nn.Parameter(shift.to(linear.weight.dtype))
            layer.norm = None
        elif isinstance(layer, RecurrentLayer):
            _fold_recurrent(layer)


def _fold_recurrent(layer: RecurrentLayer) -> None:
    """New parameters for each direction, so that input weights which both share are scaled once in each."""
    if layer.norm is not None:
        scale, shift = layer.norm.affine()
        for rnn in layer.directions:  # W (s x + t) + b = (W s) x + (W t + b)
            weight, bias = rnn.weight_ih_l0.double(), rnn.bias_ih_l0.double()
            rnn.bias_ih_l0 = nn.Parameter((bias + weight @ shift).to(rnn.weight_ih_l0.dtype))
            rnn.weight_ih_l0 = nn.Parameter((weight * scale).to(rnn.weight_ih_l0.dtype))
        layer.norm = None
    if layer.step_norm is not None:
        for rnn, weights in zip(layer.directions, layer.step_norm.folded(layer.directions), strict=True):
            for name, tensor in weights.items():
                setattr(rnn, name, nn.Parameter(tensor))
        layer.step_norm = None
