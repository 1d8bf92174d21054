"""Batch normalisation multiplied into the weights beside it: an affine map each, so the network stays the same."""

import torch
from torch import Tensor, nn

from ds2_deploy.model.layers import FullyConnected, MaskedConv, RecurrentLayer, SequenceBatchNorm


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> None:
    """Fold every frozen batch norm of `network` in place, in float64."""
    for layer in network.modules():
        if isinstance(layer, (MaskedConv, FullyConnected)) and layer.norm is not None:
            linear = layer.conv if isinstance(layer, MaskedConv) else layer.linear
            scale, shift = _affine(layer.norm)
            weight = linear.weight.double()
            linear.weight.copy_(weight * scale.view(-1, *[1] * (weight.dim() - 1)))
            linear.bias = nn.Parameter(shift.to(linear.weight.dtype))
            layer.norm = None
        elif isinstance(layer, RecurrentLayer) and layer.norm is not None:
            scale, shift = _affine(layer.norm)
            for rnn in (layer.forward_rnn, layer.backward_rnn):
                if isinstance(rnn, nn.RNNBase):  # W (s x + t) + b = (W s) x + (W t + b)
                    parameters = dict(rnn.named_parameters())
                    weight, bias = parameters["weight_ih_l0"], parameters["bias_ih_l0"]
                    bias.copy_(bias.double() + weight.double() @ shift)
                    weight.copy_(weight.double() * scale)
            layer.norm = None


def _affine(norm: SequenceBatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of batch norm in evaluation, in float64."""
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale
