"""Initial weights: every one drawn by its scheme, the recurrent ones gate by gate."""

import math

import pytest
import torch
from torch import nn

from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.initialize import initialize
from tests.tiny import tiny_metadata

CONV = (ConvLayer(channels=16, kernel=(5, 5), stride=(4, 2)),)


def network(cell="lstm", scheme="orthogonal", **changes):
    torch.manual_seed(0)
    config = ModelConfig(**{"conv": CONV, "cell": cell, "rnn_layers": 2, "rnn_size": 32, "fc_layers": 1, **changes})
    model = DeepSpeech2(tiny_metadata(config))
    drawn = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    initialize(model, scheme)
    return model, drawn


def gate_matrices(model, name):
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            yield from module.get_parameter(name).detach().split(module.hidden_size)


@pytest.mark.parametrize("cell", ["rnn", "rnn_relu", "gru", "lstm"])
def test_orthogonal_recurrent_weights(cell):
    model, _ = network(cell)
    matrices = list(gate_matrices(model, "weight_hh_l0"))
    assert len(matrices) == 4 * {"rnn": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}[cell]  # two layers, two directions
    for matrix in matrices:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(32), rtol=0, atol=1e-5)


def uniform_within(values, bound):
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.9 * bound
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.12)


@pytest.mark.parametrize("scheme", ["orthogonal", "xavier"])
def test_what_comes_from_below_is_xaviers(scheme):
    model, _ = network(scheme=scheme)
    for matrix in gate_matrices(model, "weight_ih_l0"):
        uniform_within(matrix, math.sqrt(6 / sum(matrix.shape)))
    if scheme == "xavier":
        for matrix in gate_matrices(model, "weight_hh_l0"):
            uniform_within(matrix, math.sqrt(6 / 64))
    linear = model.encoder.output.weight.detach()
    uniform_within(linear, math.sqrt(6 / sum(linear.shape)))
    kernel = model.encoder.conv[0].conv.weight.detach()
    fans = {"orthogonal": 25, "xavier": 25 + 16 * 25}[scheme]  # He counts inputs alone
    uniform_within(kernel, math.sqrt(6 / fans))


@pytest.mark.parametrize(("scheme", "forget"), [("orthogonal", 1.0), ("xavier", 0.0)])
def test_biases_are_zero_but_for_a_forget_gate(scheme, forget):
    model, _ = network(scheme=scheme, batch_norm=False)
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            expected = torch.zeros(128)
            expected[32:64] = forget
            assert torch.equal(module.bias_ih_l0, expected)
            assert not module.bias_hh_l0.any()
        elif isinstance(module, nn.Linear):
            assert not module.bias.any()
    if scheme == "xavier":
        assert not model.encoder.conv[0].conv.bias.any()


def test_pytorchs_own_draw_is_left_alone():
    model, drawn = network(scheme="pytorch")
    assert all(torch.equal(parameter, drawn[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("scheme", ["orthogonal", "xavier"])
def test_no_weight_is_forgotten(scheme):
    model, drawn = network(scheme=scheme, batch_norm=False)
    kept = [name for name, parameter in model.named_parameters() if torch.equal(parameter, drawn[name])]
    assert kept == (["encoder.conv.0.conv.bias"] if scheme == "orthogonal" else [])


@pytest.mark.parametrize("scheme", ["orthogonal", "xavier", "pytorch"])
def test_a_lookahead_starts_as_if_it_were_not_there(scheme):
    model, _ = network(scheme=scheme, bidirectional=False, lookahead=5)
    x, mask = torch.randn(9, 2, 32), torch.ones(9, 2, 1, dtype=torch.bool)
    assert torch.equal(model.encoder.lookahead(x, mask), x)


def test_the_seed_decides():
    one, other = (dict(network()[0].named_parameters()) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
