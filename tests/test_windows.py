"""Both directions by windows: what the definition says, and nothing of what comes later."""

import pytest
import torch
from torch import Tensor

from ds2_deploy.model.config import Cell, ConvLayer, ModelConfig
from ds2_deploy.model.deepspeech2 import Encoder
from tests.tiny import FEATURES, first_to_differ, tiny_metadata, tiny_model

FRAMES, BINS = 11, 6


def encoder(*, cell: Cell = "gru", directions: str = "sum", window: int, window_context: int) -> Encoder:
    torch.manual_seed(0)
    config = ModelConfig(
        conv=(), cell=cell, rnn_layers=3, rnn_size=5, batch_norm=False, directions=directions,  # type: ignore[arg-type]
        window=window, window_context=window_context,
    )  # fmt: skip
    return Encoder(config, BINS, 4).eval()


def by_definition(net: Encoder, frames: Tensor) -> Tensor:
    """One utterance (T, F) -> (T, V), window after window, with nothing kept but the forward states."""
    config = net.config
    states: list[Tensor | None] = [None] * config.rnn_layers
    logits = []
    for start in range(0, len(frames), config.window):
        x = frames[start : start + config.window + config.window_context][:, None]  # (W + R, 1, D) at most
        for number, layer in enumerate(net.rnn):
            forward, _ = layer.forward_rnn(x, states[number])
            states[number] = layer.forward_rnn(x[: config.window], states[number])[1]
            backward = layer.backward_rnn(x.flip(0))[0].flip(0)
            x = torch.cat([forward, backward], -1) if config.directions == "concat" else forward + backward
        logits.append(net.output(x[: config.window, 0]))
    return torch.cat(logits)


@torch.no_grad()
@pytest.mark.parametrize(("window", "context"), [(1, 1), (1, 4), (2, 3), (3, 1), (4, 9), (11, 2), (20, 20)])
@pytest.mark.parametrize("directions", ["sum", "concat"])
@pytest.mark.parametrize("cell", ["rnn", "rnn_relu", "gru"])
def test_windows_by_their_definition(cell: Cell, directions: str, window: int, context: int) -> None:
    net = encoder(cell=cell, directions=directions, window=window, window_context=context)
    features, lengths = torch.randn(4, BINS, FRAMES), torch.tensor([FRAMES, 7, 1, 0])
    logits, frames = net(features, lengths)
    assert torch.equal(frames, lengths)
    assert logits.shape == (4, FRAMES, 4)
    for row, length in zip(range(3), lengths.tolist(), strict=False):
        expected = by_definition(net, features[row, :, :length].T)
        assert torch.allclose(logits[row, :length], expected, atol=1e-6)


@torch.no_grad()
def test_a_window_of_everything_is_both_directions() -> None:
    features, lengths = torch.randn(2, BINS, FRAMES), torch.tensor([FRAMES, 6])
    whole = encoder(window=0, window_context=0)(features, lengths)[0]
    one = encoder(window=FRAMES, window_context=1)(features, lengths)[0]
    for row, length in enumerate(lengths.tolist()):
        assert torch.allclose(one[row, :length], whole[row, :length], atol=1e-6)


@pytest.mark.parametrize("layers", [1, 3])
def test_frames_see_their_window_and_its_context_in_all_layers_together(layers: int) -> None:
    """An output frame changes with the audio that its window hears and with nothing later, as the delay says."""
    config = ModelConfig(
        conv=(ConvLayer(channels=3, kernel=(5, 3), stride=(2, 2)),), rnn_layers=layers, rnn_size=8, window=3,
        window_context=4,
    )  # fmt: skip
    model = tiny_model(tiny_metadata(config, FEATURES["log mel, none, 8 kHz"])).double()
    first, frames = first_to_differ(model, 8000, 4000), model.metadata.output_frames(8000)
    # frame u is made of feature frames 2u-1..2u+1, and feature frame f of samples 80f..80f+159
    latest = [3 * (t // 3) + 2 + 4 for t in range(frames)]  # what frame t hears
    assert first == next(t for t, u in enumerate(latest) if 80 * (2 * u + 1) + 159 >= 4000)
    assert first % 3 == 0
    assert model.metadata.delay is not None
    assert model.metadata.delay.lookahead_s == pytest.approx((3 - 1 + 4) * 0.02)


def test_gradients_reach_what_windows_hear() -> None:
    net = encoder(window=2, window_context=3).train()
    features = torch.randn(1, BINS, FRAMES, requires_grad=True)
    net(features, torch.tensor([FRAMES]))[0][0, 4].sum().backward()  # the window of frames 4 and 5 hears 8 at last
    assert features.grad is not None
    reached = features.grad[0].abs().amax(0) > 0
    assert reached.tolist() == [True] * 9 + [False] * 2
