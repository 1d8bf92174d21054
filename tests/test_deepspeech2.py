"""The network: padding changes nothing, layers do what their definitions say."""

import numpy as np
import pytest
import torch
from torch import nn

from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.initialize import initialize
from ds2_deploy.model.layers import Lookahead, RecurrentLayer, TimeReversal, time_mask
from ds2_deploy.model.norm import SequenceBatchNorm
from tests.tiny import FEATURES, MODELS, first_to_differ, tiny_metadata, tiny_model

LENGTHS = (16000, 9001, 4000, 700, 321, 320, 319, 1, 0)


def ragged(rate_lengths=LENGTHS, dtype=torch.float32, fill=0.0):
    torch.manual_seed(1)
    lengths = torch.tensor(rate_lengths)
    audio = 0.1 * torch.randn(len(lengths), int(lengths.max()), dtype=dtype)
    return audio.masked_fill(~time_mask(lengths, audio.shape[1]), fill), lengths


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_a_batch_gives_each_utterance_what_it_gets_alone(config, feature, dtype, tolerance):
    model = tiny_model(tiny_metadata(config, feature)).to(dtype)
    audio, lengths = ragged(dtype=dtype)
    together, frames = model(audio, lengths)
    for row, length, count in zip(range(len(lengths)), lengths.tolist(), frames.tolist(), strict=True):
        assert count == model.metadata.output_frames(length)
        padded = nn.functional.pad(audio[row : row + 1, :length], (0, max(model.metadata.min_samples - length, 0)))
        alone, alone_frames = model(padded, lengths[row : row + 1])
        assert int(alone_frames) == count
        assert torch.allclose(alone[0, :count], together[row, :count], atol=tolerance, rtol=0)


@torch.no_grad()
def test_garbage_in_the_padding_changes_nothing():
    model = tiny_model(tiny_metadata(MODELS["gru, two directions, 2d"], FEATURES["log mel, global, centred, tail"]))
    clean, frames = model(*ragged())
    dirty, _ = model(*ragged(fill=0.7))
    for row, count in enumerate(frames.tolist()):
        assert torch.equal(clean[row, :count], dirty[row, :count])


@torch.no_grad()
def test_log_probs_are_normalised_float32():
    log_probs, _ = tiny_model(tiny_metadata(MODELS["lstm, lookahead, 1d, fc"]))(*ragged())
    assert log_probs.dtype == torch.float32
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]), atol=1e-5)


def test_batch_norm_equals_pytorch_on_the_valid_frames():
    torch.manual_seed(0)
    ours, theirs = SequenceBatchNorm(5, channel_dim=2), nn.BatchNorm1d(5)
    x, lengths = torch.randn(9, 4, 5, requires_grad=True), torch.tensor([9, 4, 1, 0])
    mask = time_mask(lengths, 9).T[:, :, None]  # (T, B, 1)
    valid = mask[:, :, 0]
    got, expected = ours(x, mask)[valid], theirs(x[valid])
    assert torch.allclose(got, expected, atol=1e-6)
    assert torch.allclose(ours.running_mean, theirs.running_mean, atol=1e-6)
    assert torch.allclose(ours.running_var, theirs.running_var, atol=1e-6)
    weights = torch.randn_like(got)
    gradients = [torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (got, expected)]
    assert torch.allclose(*gradients, atol=1e-5)


def test_batch_norm_of_images_equals_pytorch_without_padding():
    ours, theirs = SequenceBatchNorm(3, channel_dim=1), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 5)
    assert torch.allclose(ours(x, torch.ones(2, 1, 1, 5, dtype=torch.bool)), theirs(x), atol=1e-6)
    ours.eval(), theirs.eval()
    assert torch.allclose(ours(x, torch.ones(2, 1, 1, 5, dtype=torch.bool)), theirs(x), atol=1e-6)


def test_time_reversal():
    x = torch.arange(12.0).reshape(4, 3, 1)  # (T, B, 1)
    reversed_ = TimeReversal()(x, torch.tensor([4, 2, 0]))[:, :, 0]
    assert reversed_.T.tolist() == [[9, 6, 3, 0], [4, 1, 7, 10], [2, 5, 8, 11]]


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@torch.no_grad()
def test_two_directions_equal_a_packed_bidirectional_rnn(cell):
    layer = RecurrentLayer(5, ModelConfig(cell=cell, rnn_size=6, batch_norm=False)).eval()
    packed_rnn = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](5, 6, bidirectional=True)
    for name, parameter in packed_rnn.named_parameters():
        source = layer.backward_rnn if name.endswith("_reverse") else layer.forward_rnn
        parameter.copy_(source.get_parameter(name.removesuffix("_reverse")))
    x, lengths = torch.randn(7, 3, 5), torch.tensor([7, 4, 2])
    output, _ = packed_rnn(nn.utils.rnn.pack_padded_sequence(x, lengths))
    expected, _ = nn.utils.rnn.pad_packed_sequence(output)  # (T, B, 2 H)
    got = layer(x, lengths, time_mask(lengths, 7).T[:, :, None])
    valid = time_mask(lengths, 7).T
    assert torch.allclose(got[valid], (expected[..., :6] + expected[..., 6:])[valid], atol=1e-6)


@torch.no_grad()
def test_lookahead_by_its_definition():
    lookahead = Lookahead(2, context=3)
    x = torch.randn(5, 1, 2)
    weight = lookahead.conv.weight[:, 0].numpy()  # (H, context)
    got = lookahead(x, torch.tensor([True] * 4 + [False])[:, None, None])[:, 0].numpy()
    values = np.vstack([x[:4, 0].numpy(), np.zeros((3, 2))])  # the fifth frame is padding
    expected = [sum(weight[:, j] * values[t + j] for j in range(3)) for t in range(5)]
    assert np.allclose(got, expected, atol=1e-6)


def test_lookahead_models_see_no_further_than_their_context():
    """An output frame changes with the audio of its right context and with nothing later."""
    config = ModelConfig(
        conv=(ConvLayer(channels=3, kernel=(5, 3), stride=(2, 2)),), rnn_layers=1, rnn_size=8, bidirectional=False,
        lookahead=3,
    )  # fmt: skip
    model = tiny_model(tiny_metadata(config, FEATURES["log mel, none, 8 kHz"])).double()
    first, frames = first_to_differ(model, 8000, 4000), model.metadata.output_frames(8000)
    # frame t: conv reads feature frames 2u-1..2u+1 for u <= t + 2, a feature frame f reads samples 80f..80f+159
    expected = next(t for t in range(frames) if 80 * (2 * (t + 2) + 1) + 159 >= 4000)
    assert first == expected


def test_initial_recurrent_weights_are_orthogonal_and_forget_gates_open():
    model = DeepSpeech2(tiny_metadata(MODELS["lstm, lookahead, 1d, fc"]))
    initialize(model, "orthogonal")
    rnn = model.encoder.rnn[0].forward_rnn
    for gate in rnn.weight_hh_l0.split(rnn.hidden_size):
        assert torch.allclose(gate @ gate.T, torch.eye(rnn.hidden_size), atol=1e-5)
    assert rnn.bias_ih_l0.tolist() == [0.0] * 11 + [1.0] * 11 + [0.0] * 22
