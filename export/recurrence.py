"""Other forms of a recurrent layer than ONNX's own nodes, for runtimes that make loops of those.

A layer takes T steps, each of which needs the one before it, so their number is fixed; what can change is what stands
in them. ONNX's node leaves that to the runtime, and TensorRT puts everything into its loop. Here

    P = X W'          all frames, both directions: one matrix product of (T B, D) by (D, N G H), outside
    for t in 0..T-1:  both directions side by side (N of them)
        U = h R' + b      (N, B, H) by (N, H, G H): all that has to wait for h
        h = gates(P[t], U, h)

docs/engines.md counts the bytes and operations of both. `unrolled` writes the steps out one after the other, which
takes a number of frames that is known: a stream's.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ds2_deploy.model.cells import State, plain_step
from ds2_deploy.model.layers import RecurrentLayer

Recurrence = Literal["node", "loop", "unrolled"]


class HoistedRNN(nn.Module):
    """One or two directions of a layer with their input products outside the loop.

    Shapes: T frames, N directions, B batch, D input size, G gates, H hidden size.
    """

    def __init__(self, rnns: Sequence[nn.RNNBase], *, unrolled: bool) -> None:
        super().__init__()
        self.step, self.unrolled = plain_step(rnns[0]), unrolled
        self.directions, self.hidden_size = len(rnns), rnns[0].hidden_size
        self.states = 1 + isinstance(rnns[0], nn.LSTM)
        weights = [{name: parameter.detach() for name, parameter in rnn.named_parameters()} for rnn in rnns]
        self.w = nn.Parameter(torch.cat([w["weight_ih_l0"] for w in weights]).t().contiguous())  # (D, N G H)
        self.b = nn.Parameter(torch.cat([w["bias_ih_l0"] for w in weights]))  # (N G H,)
        self.r = nn.Parameter(torch.stack([w["weight_hh_l0"].t() for w in weights]))  # (N, H, G H)
        self.c = nn.Parameter(torch.stack([w["bias_hh_l0"][None] for w in weights]))  # (N, 1, G H)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """(T, B, D) -> what every frame gives each direction's gates: N of (T, B, G H)."""
        return (x @ self.w + self.b).chunk(self.directions, -1)

    def loop(self, below: Sequence[Tensor], state: State) -> tuple[Tensor, State]:
        """Projected frames and the state (N, B, H), or two of them for an LSTM -> (T, N, B, H), last state."""

        def step(state: State, x: Tensor) -> tuple[State, Tensor]:
            state = self.step(x, torch.baddbmm(self.c, state[0], self.r), state)
            state = tuple(after.contiguous() for after in state)  # as the first one is, which scan insists on
            return state, state[0].clone()

        frames = torch.stack(list(below), dim=1)  # (T, N, B, G H)
        if self.unrolled:
            outputs = []
            for x in frames.unbind():
                state, y = step(state, x)
                outputs.append(y)
            return torch.stack(outputs), state
        from torch._higher_order_ops.scan import scan  # which the exporter writes as ONNX's Scan

        last, y = scan(step, state, frames)
        return y, tuple(last)

    def forward(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """One direction, called like an nn.RNNBase: (T, B, D), state (1, B, H) -> (T, B, H), last state."""
        y, state = self.loop(self.project(x), self.initial(x, hidden))
        return y[:, 0], state if len(state) > 1 else state[0]

    def initial(self, x: Tensor, hidden: Any = None) -> State:
        """`hidden` as PyTorch's cells take it, or zeros for the batch of `x` (T, B, D)."""
        if hidden is not None:
            return tuple(before.contiguous() for before in (hidden if isinstance(hidden, tuple) else (hidden,)))
        zeros = x.new_zeros(self.directions, x.shape[1], self.hidden_size)
        return (zeros,) * self.states


class BothDirections(nn.Module):
    """A bidirectional RecurrentLayer whose batch norm is folded, both of its directions in one loop."""

    def __init__(self, layer: RecurrentLayer, reversal: nn.Module) -> None:
        super().__init__()
        self.rnn = HoistedRNN(layer.directions, unrolled=False)
        self.reversal, self.concatenated = reversal, layer.concatenated

    def forward(self, x: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        """(T, B, D) -> (T, B, H), concatenated (T, B, 2 H)."""
        forward, backward = self.rnn.project(x)  # reversed after the product, so that it is one
        y, _ = self.rnn.loop([forward, self.reversal(backward, lengths)], self.rnn.initial(x))
        first, second = y[:, 0], self.reversal(y[:, 1], lengths)
        return torch.cat([first, second], dim=-1) if self.concatenated else first + second
