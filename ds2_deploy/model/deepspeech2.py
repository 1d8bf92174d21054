"""DeepSpeech2 (Amodei et al. 2015, arXiv 1512.02595): front end, convolutions, recurrent layers, labels.

audio (B, S) -> features (B, F, T') -> convolutions (B, C, F', T) -> recurrent layers (T, B, H)
             -> lookahead -> hidden layers -> log-probabilities (B, T, V)
"""

import torch
from torch import Tensor, nn

from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.model.frontend import Frontend
from ds2_deploy.model.layers import FullyConnected, Lookahead, MaskedConv, RecurrentLayer, time_mask
from ds2_deploy.model.windows import Windows


class Encoder(nn.Module):
    """`forward(features (B, F, T'), frames (B,), windows) -> logits (B, T, V), lengths (B,)`: all that is learned.

    Without `windows`, for inference, the backward direction has those of the configuration; others have no weights
    either. They are a pair: their frames and the context beyond them, or (0, 0) for the whole recording.
    """

    def __init__(self, config: ModelConfig, bins: int, labels: int) -> None:
        super().__init__()
        self.config = config
        channels = [1 if config.conv_dims == 2 else bins, *(layer.channels for layer in config.conv)]
        self.conv = nn.ModuleList(
            MaskedConv(size, layer, config) for size, layer in zip(channels, config.conv, strict=False)
        )
        sizes = [config.rnn_input_size(bins), *[config.rnn_output_size] * (config.rnn_layers - 1)]
        self.rnn = nn.ModuleList(RecurrentLayer(size, config) for size in sizes)
        self.lookahead = Lookahead(config.rnn_size, config.lookahead) if config.lookahead else None
        sizes = [config.rnn_output_size, *[config.fc_size] * config.fc_layers]
        self.fc = nn.ModuleList(FullyConnected(size, config) for size in sizes[:-1])
        self.output = nn.Linear(sizes[-1], labels)

    def forward(
        self, features: Tensor, frames: Tensor, windows: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        x = features.to(self.output.weight.dtype)
        x = x[:, None] if self.config.conv_dims == 2 else x  # (B, 1, F, T') or (B, F, T')
        lengths = frames
        for conv in self.conv:
            x, lengths = conv(x, lengths)
        x = x.flatten(1, -2).permute(2, 0, 1)  # (B, C, F', T) -> (T, B, C F')
        mask = time_mask(lengths, x.shape[0]).transpose(0, 1)[:, :, None]  # (T, B, 1)
        x = self._recurrent(x, lengths, mask, *(windows or self.config.windows))
        if self.lookahead is not None:
            x = self.lookahead(x, mask)
        for fc in self.fc:
            x = fc(x, mask)
        return self.output(x).transpose(0, 1), lengths  # (B, T, V)

    def _recurrent(self, x: Tensor, lengths: Tensor, mask: Tensor, size: int, context: int) -> Tensor:
        """(T, B, C F') -> (T, B, H), by windows unless they have no frames."""
        if not size:
            for rnn in self.rnn:
                x = rnn(x, lengths, mask)
            return x
        frames = x.shape[0]
        windows = Windows(size, context, (frames + size - 1) // size, lengths)
        beyond = size - 1 + context  # frames that the last window may lack
        x = windows.spread(torch.cat([x, x.new_zeros(beyond, *x.shape[1:])]))
        mask = windows.spread(torch.cat([mask, mask.new_zeros(beyond, *mask.shape[1:])]))
        return windows.through(self.recurrent_layers, x, mask)[0][:frames]

    @property
    def recurrent_layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.rnn if isinstance(layer, RecurrentLayer)]


class DeepSpeech2(nn.Module):
    """`forward(audio (B, S), lengths (B,)) -> log_probs (B, T, V) float32, lengths (B,)`."""

    def __init__(self, metadata: ModelMetadata) -> None:
        super().__init__()
        self.metadata = metadata
        self.frontend = Frontend(metadata.feature, metadata.statistics)
        self.encoder = Encoder(metadata.model, metadata.feature.bins, len(metadata.alphabet))

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features, frames = self.frontend(audio, lengths)
        logits, lengths = self.encoder(features, frames)
        return log_softmax(logits), lengths


def log_softmax(logits: Tensor) -> Tensor:
    """Over labels, in float32 at least: half precision cannot hold small probabilities."""
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=-1)
