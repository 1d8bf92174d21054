"""Both directions within a bounded delay: the backward one begins anew for each window (Zhang et al. 2016, "Highway
long short-term memory RNNs for distant speech recognition", arXiv 1510.08983: latency-controlled).

    frames       0 1 | 2 3 | 4 5 | 6 7       windows of W = 2 frames, a context of R = 3 beyond each
    window 0     0 1 + 2 3 4                 its frames need nothing after frame 4,
    window 1           2 3 + 4 5 6           in all layers together

A window's context is heard for that window alone: what a layer makes of frame 2 in window 0 knows nothing of frame 5,
and in window 1 it does. So the forward direction goes from frame to frame as always, and from the end of each window on
through its context once more. Delays of layers do not add up, and a stream needs the forward states and the frames
below that are not heard for good.

Shapes: K windows, B batch, D input size, H hidden size. Frames are (K W + R K, B, D): the K W in their order, then
what windows hear beyond themselves, R for the first context frame of every window, then for the second.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
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

    def heard(
        self, layer: "RecurrentLayer", x: Tensor, hidden: Tensor | None = None, absent: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both directions of a layer, (K W + R K, B, H) each, and the forward one's state (1, B, H) after all windows.

        It goes on from `hidden` (1, B, H); `absent` (K W + R K, B, 1) is its one more input (model/streaming.py).
        """
        main, ahead = self._parts(x)
        below = x if absent is None else torch.cat([x, absent], dim=-1)
        forward, forward_ahead = self._parts(below)
        forward, last = layer.forward_rnn(forward, hidden)
        ends = self._by_window(forward)[-1:]  # (1, K B, H)
        forward_ahead, _ = layer.forward_rnn(forward_ahead, ends.contiguous())
        assert layer.backward_rnn is not None
        seen = torch.cat([self._by_window(main), ahead])  # (W + R, K B, D)
        backward, _ = layer.backward_rnn(layer.reversal(seen, self.lengths))
        backward = layer.reversal(backward, self.lengths)
        return self._joined(forward, forward_ahead), self._joined_windows(backward), last

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(K W + R K, B, D) -> (K W, B, D), (R, K B, D)."""
        _, batch, size = x.shape
        frames = self.count * self.size
        return x[:frames], x[frames:].reshape(self.context, self.count * batch, size)

    def _by_window(self, x: Tensor) -> Tensor:
        """(K W, B, D) -> (W, K B, D)."""
        _, batch, size = x.shape
        return x.reshape(self.count, self.size, batch, size).transpose(0, 1).reshape(self.size, -1, size)

    def _joined_windows(self, x: Tensor) -> Tensor:
        """(W + R, K B, H) -> (K W + R K, B, H)."""
        batch, size = x.shape[1] // self.count, x.shape[2]
        own = x[: self.size].reshape(self.size, self.count, batch, size).transpose(0, 1)
        return self._joined(own.reshape(self.count * self.size, batch, size), x[self.size :])

    def _joined(self, own: Tensor, ahead: Tensor) -> Tensor:
        """(K W, B, H), (R, K B, H) -> (K W + R K, B, H)."""
        return torch.cat([own, ahead.reshape(self.context * self.count, *own.shape[1:])])
