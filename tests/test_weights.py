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
    "shared input weights, concatenated": {"shared_input_weights": True, "directions": "concat"},
    "shared input weights, no batch norm": {"shared_input_weights": True, "batch_norm": False},
}  # fmt: skip
SIZE, KEPT = 9, 6


def config(**fields: Any) -> ModelConfig:
    fields = {"conv": (), "rnn_layers": 3, "rnn_size": SIZE, **fields}
    return ModelConfig(**fields)


@torch.no_grad()
def silence_units(model: DeepSpeech2) -> None:
    """Takes away what is heard of the last units in each layer."""
    encoder = model.encoder
    above = encoder.fc[0].linear if encoder.fc else encoder.output
    matrices = [above.weight]
    for number, layer in enumerate(encoder.recurrent_layers):
        for rnn in layer.directions:
            matrices += [rnn.weight_hh_l0, *([rnn.weight_ih_l0] if number else [])]
    for weight in matrices:
        weight.unflatten(1, (-1, SIZE))[:, :, KEPT:] = 0


def narrower(model: DeepSpeech2, size: int) -> DeepSpeech2:
    metadata = model.metadata
    small = DeepSpeech2(msgspec.structs.replace(metadata, model=msgspec.structs.replace(metadata.model, rnn_size=size)))
    load_into(small, Checkpoint(metadata=metadata, weights=model.state_dict()), None, resume=False)
    return small.eval()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_units_that_nobody_hears_are_left_out_and_nothing_changes(name: str) -> None:
    model = tiny_model(tiny_metadata(config(**NETWORKS[name])))
    silence_units(model)
    small = narrower(model, KEPT)
    audio, lengths = torch.from_numpy(np.stack([noise(9000), noise(9000, seed=1)])), torch.tensor([9000, 6000])
    torch.testing.assert_close(small(audio, lengths), model(audio, lengths), rtol=1e-5, atol=1e-5)


def test_a_wider_network_or_a_norm_at_every_step_is_refused() -> None:
    with pytest.raises(ModelError, match="rnn_size 9 there, 10 here"):
        narrower(tiny_model(tiny_metadata(config())), SIZE + 1)
    with pytest.raises(ModelError, match="rnn_size 9 there, 6 here"):
        narrower(tiny_model(tiny_metadata(config(recurrent_norm="step"))), KEPT)
