"""The weights a training starts from: every one on purpose, the recurrent ones included."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ds2_deploy.model.layers import Lookahead


def initialize(model: nn.Module, scheme: Literal["orthogonal", "xavier", "pytorch"]) -> None:
    """Draw the weights of a new `model`.

    `orthogonal`: Xavier for what comes from below, orthogonal for what comes from the past (Saxe et al. 2014), He for
    convolutions, and an LSTM's forget gate starts open (Jozefowicz et al. 2015). `xavier`: Xavier's uniform numbers
    for every matrix and kernel (Glorot and Bengio 2010) and zero for every bias, a forget gate's too. `pytorch`: what
    PyTorch has drawn. With each of them a lookahead starts as if it were not there: a random filter blurs the frames
    in time, and the longer it is, the more epochs pass before it is unlearnt.
    """
    if scheme != "pytorch":
        model.apply({"orthogonal": _orthogonal, "xavier": _xavier}[scheme])
    for module in model.modules():
        if isinstance(module, Lookahead):
            nn.init.zeros_(module.conv.weight)
            nn.init.ones_(module.conv.weight[:, :, 0])


def _orthogonal(module: nn.Module) -> None:
    if isinstance(module, nn.RNNBase):
        _by_gates(module, nn.init.orthogonal_)
        if isinstance(module, nn.LSTM):
            _, forget, _, _ = torch.split(module.get_parameter("bias_ih_l0").detach(), module.hidden_size)
            nn.init.ones_(forget)
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
    else:
        _xavier(module)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.RNNBase):
        _by_gates(module, nn.init.xavier_uniform_)
    elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _by_gates(rnn: nn.RNNBase, recurrent: Callable[[Tensor], Tensor]) -> None:
    """Each gate by itself, since the gates' matrices are stacked in one tensor."""
    for name, parameter in rnn.named_parameters():
        for gate in torch.split(parameter.detach(), rnn.hidden_size):  # views: written in place
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(gate)
            elif name.startswith("weight_hh"):
                recurrent(gate)
            else:
                nn.init.zeros_(gate)
