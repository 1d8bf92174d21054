"""Both directions within a bounded delay: the backward one begins anew for each window (Zhang et al. 2016, "Highway
long short-term memory RNNs for distant speech recognition", arXiv 1510.08983: latency-controlled).

    frames       0 1 | 2 3 | 4 5 | 6 7       windows of W = 2 frames, a context of R = 3 beyond each
    window 0     0 1 + 2 3 4                 its frames need nothing after frame 4,
    window 1           2 3 + 4 5 6           in all layers together

A window's context is heard for that window alone: what a layer makes of frame 2 in window 0 knows nothing of frame 5,
and in window 1 it does. So the forward direction goes from frame to frame as always, and from the end of each window on
through its context once more; but the first layer reads the same frames both times, and nobody reads what the last one
makes of a context. Delays of layers do not add up, and a stream needs the forward states and the frames below that are
not heard for good.

Shapes: K windows, B batch, D input size, H hidden size. Frames are (K W + R K, B, D): the K W in their order, then
what windows hear beyond themselves, R for the first context frame of every window, then for the second.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ds2_deploy.model.layers import RecurrentLayer


class Windows:
    """Where the windows of a batch lie."""

    def __init__(self, size: int, context: int, count: int, left: Tensor) -> None:
        """`left` (B,) frames from the first window's beginning to the utterance's end; negative where it has passed."""
        self.size, self.context, self.count = size, context, count
        starts = torch.arange(count, device=left.device)[:, None] * size
        self.lengths = (left - starts).clamp(0, size + context).flatten()
        """(K B,) frames that a window hears before the utterance ends, context included."""

    def spread(self, x: Tensor) -> Tensor:
        """(at least K W + R, B, D) -> (K W + R K, B, D)."""
        windows = torch.arange(1, self.count + 1, device=x.device) * self.size
        ahead = windows + torch.arange(self.context, device=x.device)[:, None]  # (R, K)
        return torch.cat([x[: self.count * self.size], x[ahead.flatten()]])

    def through(
        self,
        layers: Sequence[RecurrentLayer],
        x: Tensor,
        mask: Tensor | None = None,
        states: Sequence[Tensor | None] | None = None,
        absent: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """All recurrent layers, (K W + R K, B, D) -> (K W, B, H), and the forward ones' states (1, B, H) afterwards.

        `mask` (K W + R K, B, 1) is what batch norm needs. A stream goes on from `states` (1, B, H), a layer each, and
        `absent` (K W + R K, B, 1) is the forward layers' one more input (model/streaming.py); the backward direction,
        which has none, is set to zero there.
        """
        before, after = states or [None] * len(layers), []
        for number, layer in enumerate(layers):
            x = x if layer.norm is None else layer.norm(x, mask)
            last = number == len(layers) - 1
            forward, state = self._forward(layer, x, before[number], absent, first=number == 0, last=last)
            x = layer.together(forward, self._backward(layer, x, last=last))
            x = x if absent is None or last else x * (1 - absent)
            after.append(state)
        return x, after

    def _forward(
        self,
        layer: RecurrentLayer,
        x: Tensor,
        state: Tensor | None,
        absent: Tensor | None,
        *,
        first: bool,
        last: bool,
    ) -> tuple[Tensor, Tensor]:
        own, ahead = self._parts(x if absent is None else torch.cat([x, absent], dim=-1))
        y, state = layer.forward_rnn(own, state)
        if last:
            return y, state
        if first:
            last_window = ahead[:, (self.count - 1) * own.shape[1] :]
            beyond, _ = layer.forward_rnn(last_window, state)
            return self.spread(torch.cat([y, beyond])), state
        ends = self._by_window(y)[-1:].contiguous()  # (1, K B, H)
        return torch.cat([y, self._flat(layer.forward_rnn(ahead, ends)[0])]), state

    def _backward(self, layer: RecurrentLayer, x: Tensor, *, last: bool) -> Tensor:
        own, ahead = self._parts(x)
        heard = torch.cat([self._by_window(own), ahead])  # (W + R, K B, D)
        assert layer.backward_rnn is not None
        y = layer.reversal(layer.backward_rnn(layer.reversal(heard, self.lengths))[0], self.lengths)
        own = self._in_order(y[: self.size])
        return own if last else torch.cat([own, self._flat(y[self.size :])])

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(K W + R K, B, D) -> (K W, B, D), (R, K B, D)."""
        _, batch, size = x.shape
        frames = self.count * self.size
        return x[:frames], x[frames:].reshape(self.context, self.count * batch, size)

    def _by_window(self, x: Tensor) -> Tensor:
        """(K W, B, D) -> (W, K B, D)."""
        _, batch, size = x.shape
        return x.reshape(self.count, self.size, batch, size).transpose(0, 1).reshape(self.size, -1, size)

    def _in_order(self, x: Tensor) -> Tensor:
        """(W, K B, H) -> (K W, B, H)."""
        x = x.reshape(self.size, self.count, x.shape[1] // self.count, x.shape[2])
        return x.transpose(0, 1).flatten(0, 1)

    def _flat(self, ahead: Tensor) -> Tensor:
        """(R, K B, H) -> (R K, B, H)."""
        return ahead.reshape(self.context * self.count, ahead.shape[1] // self.count, ahead.shape[2])
