"""Narrower recurrent layers: a network loses nothing by units that nobody hears."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from ds2_deploy.errors import ModelError
from ds2_deploy.model.checkpoint import Checkpoint
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from tests.conftest import noise
from tests.tiny import tiny_metadata, tiny_model
from training.weights import load_into

NETWORKS: dict[str, dict[str, Any]] = {
    "gru, summed": {},
    "gru by windows": {"window": 2, "window_context": 3},
    "lstm, concatenated, hidden layer": {"cell": "lstm", "directions": "concat", "fc_layers": 1, "fc_size": 5},
    "rnn, lookahead": {"cell": "rnn", "bidirectional": False, "lookahead": 3},
    "rnn with clipped relu, hidden layer, lookahead": {
        "cell": "rnn_relu", "bidirectional": False, "lookahead": 2, "fc_layers": 1, "fc_size": 6,
    },
    "shared input weights, no batch norm": {"shared_input_weights": True, "batch_norm": False},
}  # fmt: skip
SIZE, KEPT = 9, 6


def config(**fields: Any) -> ModelConfig:
    fields = {"conv": (), "rnn_layers": 3, "rnn_size": SIZE, **fields}
    return ModelConfig(**fields)


@torch.no_grad()
def silence_units(model: DeepSpeech2, seed: int) -> None:
    """Takes away what is heard of some units in each layer."""
    choice = np.random.default_rng(seed)
    encoder = model.encoder
    for number, layer in enumerate(encoder.recurrent_layers):
        silent = choice.permutation(SIZE)[: SIZE - KEPT]
        for rnn in layer.directions:
            rnn.weight_hh_l0[:, silent] = 0
        last = number == len(encoder.rnn) - 1
        above = encoder.fc[0].linear if encoder.fc else encoder.output
        for heard in [above] if last else encoder.recurrent_layers[number + 1].directions:
            weight = heard.weight if last else heard.weight_ih_l0
            weight.unflatten(1, (-1, SIZE))[:, :, silent] = 0


def narrower(model: DeepSpeech2, size: int) -> DeepSpeech2:
    metadata = model.metadata
    small = DeepSpeech2(msgspec.structs.replace(metadata, model=msgspec.structs.replace(metadata.model, rnn_size=size)))
    load_into(small, Checkpoint(metadata=metadata, weights=model.state_dict()), None, resume=False)
    return small.eval()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_units_that_nobody_hears_are_left_out_and_nothing_changes(name: str) -> None:
    model = tiny_model(tiny_metadata(config(**NETWORKS[name])))
    silence_units(model, seed=3)
    small = narrower(model, KEPT)
    audio, lengths = torch.from_numpy(np.stack([noise(9000), noise(9000, seed=1)])), torch.tensor([9000, 6000])
    torch.testing.assert_close(small(audio, lengths), model(audio, lengths), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_is_heard_is_what_batch_norm_lets_through() -> None:
    """A unit with small weights above is kept where batch norm makes it loud."""
    model = tiny_model(tiny_metadata(config(rnn_layers=2)))
    above = model.encoder.recurrent_layers[1]
    for rnn in above.directions:
        rnn.weight_ih_l0[:, 4] *= 0.1
    for rnn in model.encoder.recurrent_layers[0].directions:
        rnn.weight_hh_l0[:, 4] *= 0.1

    def kept() -> bool:
        first, small = (one.encoder.recurrent_layers[0].forward_rnn for one in (model, narrower(model, SIZE - 1)))
        return bool((small.weight_ih_l0 == first.weight_ih_l0[4]).all(dim=1).any())  # its first gate

    assert not kept()
    assert above.norm is not None
    above.norm.weight[4] *= 100
    assert kept()


def test_a_wider_network_or_a_norm_at_every_step_is_refused() -> None:
    with pytest.raises(ModelError, match="rnn_size 9 there, 10 here"):
        narrower(tiny_model(tiny_metadata(config())), SIZE + 1)
    with pytest.raises(ModelError, match="rnn_size 9 there, 6 here"):
        narrower(tiny_model(tiny_metadata(config(recurrent_norm="step"))), KEPT)
