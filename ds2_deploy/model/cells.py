"""Recurrent cells one time step after the other, where PyTorch has no kernel that does it all at once.

That is the Elman cell with a clipped ReLU, and in training every cell that is normalised inside.

T frames, N directions side by side, B batch, D input size, H hidden size, G gates stacked as PyTorch stacks them.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Lock

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ds2_deploy.model.config import Cell
from ds2_deploy.model.norm import EPS, BatchNorm, all_reduce_max, all_reduce_sum

State = tuple[Tensor, ...]
"""The hidden state (N, B, H), and after it an LSTM's cell state."""
Norm = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor, State, Sequence[Norm]], State]
"""W x (N, B, G H), U h (N, B, G H), state, the norm of each group of gates -> next state."""


class ClippedRNN(nn.RNN):
    """The Elman cell of the paper (section 3.1): h = min(max(W x + U h + b, 0), clip)."""

    def __init__(self, input_size: int, hidden_size: int, clip: float) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="relu")
        self.clip = clip

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(T, B, D) -> (T, B, H), last hidden state (1, B, H)."""
        y, state = run_steps([self], [x], () if hidden is None else (hidden,))
        return y[:, 0], state[0]


RNN: dict[Cell, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def new_rnn(cell: Cell, size: int, hidden: int, clip: float) -> nn.RNNBase:
    """One direction of one layer, called as (T, B, D) -> (T, B, H), last state."""
    return ClippedRNN(size, hidden, clip) if cell == "rnn_relu" else RNN[cell](size, hidden)


def _elman(activation: Norm, x: Tensor, u: Tensor, state: State, norms: Sequence[Norm]) -> State:
    return (activation(norms[0](x + u)),)


def _gru(x: Tensor, u: Tensor, state: State, norms: Sequence[Norm]) -> State:
    """The reset gate is applied to U h, as in PyTorch, so that one scale serves all of the candidate."""
    sizes = [2 * state[0].shape[-1], state[0].shape[-1]]
    (x_gates, x_candidate), (u_gates, u_candidate) = torch.split(x, sizes, -1), torch.split(u, sizes, -1)
    reset, update = norms[0](x_gates + u_gates).sigmoid().chunk(2, -1)
    candidate = norms[1](x_candidate + reset * u_candidate).tanh()
    return (torch.lerp(candidate, state[0], update),)


def _lstm(x: Tensor, u: Tensor, state: State, norms: Sequence[Norm]) -> State:
    take, keep, candidate, give = norms[0](x + u).chunk(4, -1)
    cell = keep.sigmoid() * state[1] + take.sigmoid() * candidate.tanh()
    return give.sigmoid() * cell.tanh(), cell


# How a cell takes a step, and how many of its stacked gates are normalised together.
STEPS: dict[type[nn.RNNBase], tuple[Step, tuple[int, ...]]] = {
    nn.RNN: (partial(_elman, torch.tanh), (1,)),
    nn.GRU: (_gru, (2, 1)),
    nn.LSTM: (_lstm, (4,)),
}


def _steps(rnn: nn.RNNBase) -> tuple[Step, tuple[int, ...]]:
    if isinstance(rnn, ClippedRNN):
        return partial(_elman, partial(torch.clamp, min=0.0, max=rnn.clip)), (1,)
    return STEPS[type(rnn)]


def plain_step(rnn: nn.RNNBase) -> Callable[[Tensor, Tensor, State], State]:
    """How the cell takes a step without a norm inside: W x (N, B, G H), U h (N, B, G H), state -> next state."""
    step, norms = _steps(rnn)[0], (_not_normalized, _not_normalized)
    return lambda x, u, state: step(x, u, state, norms)


def _not_normalized(x: Tensor) -> Tensor:
    return x


def run_steps(
    rnns: Sequence[nn.RNNBase],
    inputs: Sequence[Tensor],
    state: State = (),
    norms: Sequence[Norm] = (_not_normalized, _not_normalized),
) -> tuple[Tensor, State]:
    """Directions of one layer side by side, each with its own input (T, B, D) -> (T, N, B, H), last state.

    In float32 also under AMP: a step is too small for half precision to save time.
    """
    step, _ = _steps(rnns[0])
    weights = [dict(rnn.named_parameters()) for rnn in rnns]
    with torch.autocast(inputs[0].device.type, enabled=False):
        below = [
            nn.functional.linear(x.to(w["weight_ih_l0"].dtype), w["weight_ih_l0"], w["bias_ih_l0"])
            for x, w in zip(inputs, weights, strict=True)
        ]  # of all frames at once
        recurrent = torch.stack([w["weight_hh_l0"].t() for w in weights])  # (N, H, G H)
        bias = torch.stack([w["bias_hh_l0"][None] for w in weights])  # (N, 1, G H)
        zeros = below[0].new_zeros(len(rnns), below[0].shape[1], rnns[0].hidden_size)
        state = state or (zeros, zeros)
        outputs = []
        for x in torch.stack(below, dim=1).unbind():  # (N, B, G H) of one frame
            state = step(x, torch.baddbmm(bias, state[0], recurrent), state, norms)
            outputs.append(state[0])
        return torch.stack(outputs), state


_FOLDED = Lock()
"""`functional_call` puts the folded weights into the cell while it runs: another thread would fold them once more."""


class StepNorm(BatchNorm):
    """Batch norm before every non-linearity of a layer, at each time step over the utterances that have it.

    The channels are directions x gates x units. The running statistics pool all time steps, so in evaluation it is an
    affine map, which goes into the weights of PyTorch's own cells.
    """

    def __init__(self, rnns: Sequence[nn.RNNBase]) -> None:
        super().__init__(sum(len(rnn.get_parameter("weight_hh_l0")) for rnn in rnns))
        self.directions = len(rnns)

    def forward(self, rnns: Sequence[nn.RNNBase], inputs: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Each direction's input (T, B, D) -> its output (T, B, H); `mask` (T, B, 1)."""
        if not self.training:
            with _FOLDED:
                folded = zip(rnns, self.folded(rnns), inputs, strict=True)
                return [functional_call(rnn, weights, (x,))[0] for rnn, weights, x in folded]
        frames = len(mask)
        missing = all_reduce_max(frames, mask.device) - frames  # all processes take all steps together
        mask, *inputs = (nn.functional.pad(x, (0, 0, 0, 0, 0, missing)) for x in (mask, *inputs))
        valid = mask.transpose(1, 2).to(self.weight.dtype)  # (T, 1, B)
        counts = all_reduce_sum(valid.sum(dim=(1, 2)))  # (T,), falling
        counts = counts[: int((counts > 1).sum())]
        shares = (valid[: len(counts)] / counts[:, None, None]).unbind()
        sizes = [gates * rnns[0].hidden_size for gates in _steps(rnns[0])[1]]
        values = (self.weight, self.bias, self.running_mean, self.running_var)
        grouped = zip(*(torch.split(value.view(self.directions, 1, -1), sizes, -1) for value in values), strict=True)
        norms = [_GatesNorm(*group, shares=shares) for group in grouped]
        y, _ = run_steps(rnns, inputs, norms=norms)
        if len(counts):
            self._learn_pooled(norms, counts[:, None])
        return list(y[:frames].unbind(1))

    @torch.no_grad()
    def _learn_pooled(self, norms: "Sequence[_GatesNorm]", counts: Tensor) -> None:
        """All frames' mean, and their variance: within the time steps and between them."""
        means = torch.cat([torch.stack(norm.means) for norm in norms], dim=-1).flatten(1)  # (T, C)
        variances = torch.cat([torch.stack(norm.variances) for norm in norms], dim=-1).flatten(1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        self.learn(mean, (counts * (variances + (means - mean).square())).sum(0) / count, count)

    def folded(self, rnns: Sequence[nn.RNNBase]) -> list[dict[str, Tensor]]:
        """The weights with which PyTorch's cells are normalised as in evaluation, computed in float64."""
        weights = []
        for rnn, scale, shift in zip(rnns, *(x.chunk(self.directions) for x in self.affine()), strict=True):
            scaled = {
                name: parameter.double() * scale.view(-1, *[1] * (parameter.dim() - 1))
                for name, parameter in rnn.named_parameters()
            }  # a = W x + U h + b, also where a reset gate stands before U h
            scaled["bias_ih_l0"] = scaled["bias_ih_l0"] + shift
            weights.append({name: tensor.to(self.weight.dtype) for name, tensor in scaled.items()})
        return weights


class _GatesNorm:
    """Normalises the stacked values (N, B, C) of some gates, at one time step after the other.

    `shares` (1, B) of a step average over its valid frames. Where a single utterance, the longest, goes on alone it
    would be normalised to nothing, so the steps that have no shares use the running statistics, as evaluation does.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, shares: Iterable[Tensor]
    ) -> None:
        self.weight, self.bias = weight, bias
        self.running = mean.clone(), variance.clone()
        self.shares = iter(shares)
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        share = next(self.shares, None)
        if share is None:
            mean, variance = self.running
            centred = x - mean
        else:
            mean = all_reduce_sum(share @ x)  # (N, 1, C)
            centred = x - mean
            variance = all_reduce_sum(share @ centred.square())
            self.means.append(mean.detach())
            self.variances.append(variance.detach())
        return torch.addcmul(self.bias, centred, self.weight * (variance + EPS).rsqrt())
