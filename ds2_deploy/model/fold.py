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
            weight = linear.weight.double()
            weight, bias = layer.norm.affine().after(weight, weight.new_zeros(len(weight)))  # no bias of its own
            linear.weight.copy_(weight)
            linear.bias = nn.Parameter(bias.to(linear.weight.dtype))
            layer.norm = None
        elif isinstance(layer, RecurrentLayer):
            _fold_recurrent(layer)


def _fold_recurrent(layer: RecurrentLayer) -> None:
    """New parameters for each direction, so that input weights which both share are scaled once in each."""
    if layer.norm is not None:
        affine = layer.norm.affine()
        for rnn in layer.directions:
            weight, bias = affine.before(rnn.weight_ih_l0.double(), rnn.bias_ih_l0.double())
            rnn.bias_ih_l0 = nn.Parameter(bias.to(rnn.weight_ih_l0.dtype))
            rnn.weight_ih_l0 = nn.Parameter(weight.to(rnn.weight_ih_l0.dtype))
        layer.norm = None
    if layer.step_norm is not None:
        for rnn, weights in zip(layer.directions, layer.step_norm.folded(layer.directions), strict=True):
            for name, tensor in weights.items():
                setattr(rnn, name, nn.Parameter(tensor))
        layer.step_norm = None
