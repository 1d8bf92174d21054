"""Recurrent layers against loops written out by the definitions: one utterance, one frame, one gate at a time."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from ds2_deploy.model.checkpoint import Checkpoint, load_model, save_weights
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.model.fold import fold_batch_norm
from ds2_deploy.model.layers import LockedDropout, MaskedConv, RecurrentLayer, set_dropout, time_mask
from ds2_deploy.model_folder import METADATA_FILE, WEIGHTS_FILE
from tests.tiny import tiny_metadata, tiny_model

CELLS = ["rnn", "rnn_relu", "gru", "lstm"]
LENGTHS = torch.tensor([7, 9, 4, 1])
D, H, CLIP = 5, 6, 0.8


def layer_of(**changes):
    """In float64, with weights large enough for the clip to matter and statistics that are not the defaults."""
    torch.manual_seed(3)
    config = ModelConfig(**{"conv": (), "rnn_layers": 1, "rnn_size": H, "relu_clip": CLIP, **changes})
    layer = RecurrentLayer(D, config).double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.9, 0.9)
    for name, buffer in layer.named_buffers():
        nn.init.uniform_(buffer, 0.5, 1.5) if name.endswith("var") else nn.init.uniform_(buffer, -0.5, 0.5)
    return layer


def inputs():
    torch.manual_seed(4)
    x = torch.randn(9, 4, D, dtype=torch.float64)
    mask = time_mask(LENGTHS, 9).T[:, :, None]
    return x, mask


def run(layer, x, mask):
    return layer(x, LENGTHS, mask).masked_fill(~mask, 0.0)


def gates(cell, below, above, state, norm):
    """One step by the cell's equations: W x + b and U h + b (n, G H), state -> state; `norm(i, a)` of gate i (n, H)."""
    b, a = below.split(H, -1), above.split(H, -1)
    h = state[0]
    if cell in ("rnn", "rnn_relu"):
        total = norm(0, b[0] + a[0])
        return (torch.tanh(total) if cell == "rnn" else total.clamp(0, CLIP), state[1])
    if cell == "gru":
        reset, update = (torch.sigmoid(norm(i, b[i] + a[i])) for i in (0, 1))
        candidate = torch.tanh(norm(2, b[2] + reset * a[2]))
        return ((1 - update) * candidate + update * h, state[1])
    take, keep, candidate, give = (norm(i, b[i] + a[i]) for i in range(4))
    memory = torch.sigmoid(keep) * state[1] + torch.sigmoid(take) * torch.tanh(candidate)
    return torch.sigmoid(give) * torch.tanh(memory), memory


def one_direction(cell, rnn, x, norm, *, backward):
    """(T, B, D) -> (T, B, H), frame after frame over the utterances that have one."""
    w, u, wb, ub = (rnn.get_parameter(f"{n}_l0") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    out = torch.zeros(9, 4, H, dtype=x.dtype)
    states = torch.zeros(2, 4, H, dtype=x.dtype)
    for t in range(9):
        alive = (t < LENGTHS).nonzero()[:, 0]
        place = LENGTHS[alive] - 1 - t if backward else torch.full_like(alive, t)
        state = states[:, alive]
        new = torch.stack(gates(cell, x[place, alive] @ w.T + wb, state[0] @ u.T + ub, state, norm))
        states = states.index_copy(1, alive, new)
        out = out.index_put((place, alive), new[0])
    return out


def step_norm(norm, direction, seen):
    """Batch norm of a gate over the utterances at one time step, if there are two; `seen` collects what it had."""
    size = len(norm.weight) // 2
    values = norm.weight, norm.bias, norm.running_mean.clone(), norm.running_var.clone()
    scale, shift, mean, var = (v[direction * size : (direction + 1) * size].split(H) for v in values)

    def normalised(gate, value):
        m, v = mean[gate], var[gate]
        if len(value) > 1:
            m, v = value.mean(0), value.var(0, unbiased=False)
            seen.setdefault((direction, gate), []).append(value.detach())
        return (value - m) / (v + 1e-5).sqrt() * scale[gate] + shift[gate]

    return normalised


def by_loops(layer, cell, x):
    """Both directions of a layer, summed; and what each gate's batch norm had, (frames, 2 G H)."""
    total, seen = 0.0, {}
    for direction, rnn in enumerate(layer.directions):
        norm = step_norm(layer.step_norm, direction, seen) if layer.step_norm else lambda gate, value: value
        total = total + one_direction(cell, rnn, x, norm, backward=direction == 1)
    return total, [torch.cat(seen[key]) for key in sorted(seen)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("norm", ["none", "step"])
def test_layers_in_training_are_their_equations(cell, norm):
    layer = layer_of(cell=cell, batch_norm=norm == "step", recurrent_norm="step").train()
    x, mask = inputs()
    other = copy.deepcopy(layer)
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    theirs, seen = by_loops(other, cell, x_theirs)
    ours = run(layer, x_ours, mask)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(x_ours.grad.masked_fill(~mask, 0), x_theirs.grad, rtol=0, atol=1e-8)
    for (name, one), (_, two) in zip(layer.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=0, atol=1e-8, msg=name)
    if norm == "step":  # the running statistics move a tenth of the way to those of all normalised frames
        before, seen = other.step_norm, torch.cat(seen, dim=1)
        for new, old, found in (
            (layer.step_norm.running_mean, before.running_mean, seen.mean(0)),
            (layer.step_norm.running_var, before.running_var, seen.var(0)),
        ):
            torch.testing.assert_close(new, 0.9 * old + 0.1 * found, rtol=0, atol=1e-9)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("norm", ["vertical", "step"])
@pytest.mark.parametrize("shared", [False, True])
def test_frozen_norms_fold_into_the_weights(cell, norm, shared):
    layer = layer_of(cell=cell, recurrent_norm=norm, shared_input_weights=shared).eval()
    x, mask = inputs()
    with torch.no_grad():
        before = run(layer, x, mask)
        fold_batch_norm(layer)
        assert layer.norm is None
        assert layer.step_norm is None
        torch.testing.assert_close(run(layer, x, mask), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_a_frozen_step_norm_is_an_affine_map_of_what_enters_the_non_linearity(cell):
    layer = layer_of(cell=cell, recurrent_norm="step", bidirectional=False).eval()
    x, mask = inputs()
    scale, shift = (v.split(H) for v in layer.step_norm.affine())
    (rnn,) = layer.directions
    expected = one_direction(cell, rnn, x, lambda gate, value: value * scale[gate] + shift[gate], backward=False)
    with torch.no_grad():
        torch.testing.assert_close(run(layer, x, mask), expected.detach(), rtol=0, atol=1e-9)


def test_threads_that_fold_a_step_norm_do_not_fold_it_twice():
    layer = layer_of(cell="lstm", recurrent_norm="step").eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x, mask = inputs()

    def heard(_=None):
        with torch.no_grad():
            return run(layer, x, mask)

    expected, interval = heard(), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as threads:
            for found in threads.map(heard, range(40)):
                torch.testing.assert_close(found, expected, rtol=0, atol=0)
    finally:
        sys.setswitchinterval(interval)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_side_by_side_directions_are_pytorchs_packed_lstm():
    layer = layer_of(cell="lstm", directions="concat", batch_norm=False).eval()
    x, mask = inputs()
    reference = nn.LSTM(D, H, bidirectional=True).double()
    for suffix, rnn in zip(("", "_reverse"), layer.directions, strict=True):
        for name, parameter in rnn.named_parameters():
            reference.get_parameter(name + suffix).data.copy_(parameter.data)
    packed = nn.utils.rnn.pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0])
    torch.testing.assert_close(run(layer, x, mask), expected, rtol=0, atol=1e-12)
    summed = layer_of(cell="lstm", batch_norm=False).eval()
    torch.testing.assert_close(run(summed, x, mask), expected[..., :H] + expected[..., H:], rtol=0, atol=1e-12)


def test_shared_input_weights_are_one_parameter_of_both_directions(tmp_path):
    separate, shared = (layer_of(cell="gru", batch_norm=False, shared_input_weights=s).train() for s in (False, True))
    for name in ("weight_ih_l0", "bias_ih_l0"):
        value = shared.forward_rnn.get_parameter(name).data
        for rnn in separate.directions:
            rnn.get_parameter(name).data.copy_(value)
    for one, other in zip(separate.directions, shared.directions, strict=True):
        for name in ("weight_hh_l0", "bias_hh_l0"):
            one.get_parameter(name).data.copy_(other.get_parameter(name).data)
    x, mask = inputs()
    for layer in (separate, shared):
        run(layer, x, mask).square().sum().backward()
    both = sum(rnn.weight_ih_l0.grad for rnn in separate.directions)
    torch.testing.assert_close(shared.forward_rnn.weight_ih_l0.grad, both, rtol=0, atol=1e-10)
    assert shared.forward_rnn.weight_ih_l0 is shared.backward_rnn.weight_ih_l0
    fewer = separate.forward_rnn.weight_ih_l0.numel() + separate.forward_rnn.bias_ih_l0.numel()
    assert count(shared) == count(separate) - fewer

    model = tiny_model(tiny_metadata(ModelConfig(conv=(), rnn_layers=1, rnn_size=4, shared_input_weights=True)))
    Checkpoint(metadata=model.metadata, weights=model.state_dict()).save(tmp_path / "model.pt")
    save_weights(model, tmp_path / WEIGHTS_FILE)
    (tmp_path / METADATA_FILE).write_text(model.metadata.to_json())
    for source in (tmp_path / "model.pt", tmp_path):
        loaded = load_model(source).encoder.rnn[0]
        assert loaded.forward_rnn.weight_ih_l0 is loaded.backward_rnn.weight_ih_l0
        assert torch.equal(loaded.forward_rnn.weight_ih_l0, model.encoder.rnn[0].forward_rnn.weight_ih_l0)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_locked_dropout_drops_the_same_values_of_all_frames():
    torch.manual_seed(0)
    x = torch.rand(50, 3, 1000) + 1
    dropped = LockedDropout(0.3).train()(x)
    kept = dropped != 0
    assert (kept == kept[0]).all()
    assert not torch.equal(kept[0, 0], kept[0, 1])
    assert 0.65 < kept.float().mean() < 0.75
    torch.testing.assert_close(dropped[kept], x[kept] / 0.7)
    assert LockedDropout(0.3).eval()(x) is x
    plain = layer_of(dropout=0.3, locked_dropout=False).dropout.train()(x) != 0
    assert not (plain == plain[0]).all()


def test_dropout_can_be_changed_everywhere():
    model = tiny_model(tiny_metadata(ModelConfig(conv=(), rnn_layers=2, rnn_size=4, fc_layers=1, fc_size=4)))
    set_dropout(model, 0.4)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.4] * 3


@pytest.mark.parametrize(
    ("channels", "stride", "projected"), [(4, (1, 1), False), (6, (1, 1), True), (4, (2, 2), True)]
)
@pytest.mark.parametrize("dims", [1, 2])
def test_a_residual_convolution_adds_its_input(channels, stride, projected, dims):
    torch.manual_seed(1)
    kernel, stride = ((1, 5), (1, stride[1])) if dims == 1 else ((3, 5), stride)
    layer = ConvLayer(channels=channels, kernel=kernel, stride=stride, residual=True)
    conv = MaskedConv(4, layer, ModelConfig(conv_dims=dims, conv=(layer,), batch_norm=False))
    x = torch.randn(2, 4, 20) if dims == 1 else torch.randn(2, 4, 8, 20)
    y, lengths = conv(x, torch.tensor([20, 9]))
    assert conv.shortcut is not None
    assert isinstance(conv.shortcut, nn.Identity) != projected
    plain = conv.conv(x).clamp(0, 20)
    expected = plain + (conv.shortcut(x) if projected else x)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(y[row, ..., :length], expected[row, ..., :length])
        assert not y[row, ..., length:].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"recurrent_norm": "step", "cell": "gru"},
        {"cell": "rnn_relu", "directions": "concat", "shared_input_weights": True},
        {"conv": (), "fc_layers": 1, "fc_size": 6},
        {"conv": (ConvLayer(channels=3, kernel=(3, 3), residual=True),), "locked_dropout": True, "dropout": 0.5},
    ],
)
def test_an_utterance_alone_is_what_it_is_in_a_batch(changes):
    config = ModelConfig(**{"conv": (), "rnn_layers": 2, "rnn_size": 6, **changes})
    model = tiny_model(tiny_metadata(config))
    torch.manual_seed(5)
    audio, lengths = 0.1 * torch.randn(3, 9000), torch.tensor([9000, 5000, 2345])
    with torch.no_grad():
        together, counts = model(audio, lengths)
        for row, (samples, frames) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
            alone, _ = model(audio[row : row + 1, :samples], lengths[row : row + 1])
            torch.testing.assert_close(together[row, :frames], alone[0, :frames], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("bins", "kernel", "stride"), [(24, 27, 2), (40, 43, 2), (32, 41, 3), (40, 41, 2), (12, 13, 1)]
)
def test_kernels_taller_than_what_they_see_have_right_gradients(bins, kernel, stride):
    """PyTorch 2.13 has wrong ones on processors with AVX-512, or ends, where it puts zeros around them itself."""
    layer = ConvLayer(channels=16, kernel=(kernel, 5), stride=(stride, 1))
    conv = MaskedConv(1, layer, ModelConfig(conv=(layer,), batch_norm=False))
    x, lengths = torch.randn(2, 1, bins, 20), torch.tensor([20, 15])
    exact = copy.deepcopy(conv).double()
    for network, heard in ((conv, x), (exact, x.double())):
        y, _ = network(heard, lengths)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    torch.testing.assert_close(conv.conv.weight.grad.double(), exact.conv.weight.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(conv(x, lengths)[0], conv.eval()(x, lengths)[0], rtol=1e-4, atol=1e-5)
