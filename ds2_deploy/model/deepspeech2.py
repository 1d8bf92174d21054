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


class Encoder(nn.Module):
    """`forward(features (B, F, T'), frames (B,)) -> logits (B, T, V), lengths (B,)`: all that is learned."""

    def __init__(self, config: ModelConfig, bins: int, labels: int) -> None:
        super().__init__()
        self.config = config
        norm, clip = config.batch_norm, config.relu_clip
        channels = [1 if config.conv_dims == 2 else bins, *(layer.channels for layer in config.conv)]
        self.conv = nn.ModuleList(
            MaskedConv(size, layer, config.conv_dims, batch_norm=norm, clip=clip)
            for size, layer in zip(channels, config.conv, strict=False)
        )
        sizes = [config.rnn_input_size(bins), *[config.rnn_size] * (config.rnn_layers - 1)]
        self.rnn = nn.ModuleList(
            RecurrentLayer(
                config.cell,
                size,
                config.rnn_size,
                bidirectional=config.bidirectional,
                batch_norm=norm,
                dropout=config.dropout,
            )
            for size in sizes
        )
        self.lookahead = Lookahead(config.rnn_size, config.lookahead) if config.lookahead else None
        sizes = [config.rnn_size, *[config.fc_size] * config.fc_layers]
        self.fc = nn.ModuleList(
            FullyConnected(size, config.fc_size, batch_norm=norm, clip=clip, dropout=config.dropout)
            for size in sizes[:-1]
        )
        self.output = nn.Linear(sizes[-1], labels)
        self.apply(_initialize)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = features.to(self.output.weight.dtype)
        x = x[:, None] if self.config.conv_dims == 2 else x  # (B, 1, F, T') or (B, F, T')
        lengths = frames
        for conv in self.conv:
            x, lengths = conv(x, lengths)
        x = x.flatten(1, -2).permute(2, 0, 1)  # (B, C, F', T) -> (T, B, C F')
        mask = time_mask(lengths, x.shape[0]).transpose(0, 1)[:, :, None]  # (T, B, 1)
        for rnn in self.rnn:
            x = rnn(x, lengths, mask)
        if self.lookahead is not None:
            x = self.lookahead(x, mask)
        for fc in self.fc:
            x = fc(x, mask)
        return self.output(x).transpose(0, 1), lengths  # (B, T, V)


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


def _initialize(module: nn.Module) -> None:
    """Every weight on purpose: Xavier for what comes from below, orthogonal for what comes from the past.

    Each gate is initialised by itself, since the gates' matrices are stacked in one tensor (Saxe et al. 2014 for the
    orthogonal ones); an LSTM's forget gate starts open (Jozefowicz et al. 2015). A lookahead starts as if it were not
    there: a random filter blurs the frames in time, and the longer it is, the more epochs pass before it is unlearnt.
    """
    if isinstance(module, nn.RNNBase):
        for name, parameter in module.named_parameters():
            for gate in torch.split(parameter.detach(), module.hidden_size):  # views: written in place
                if name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(gate)
                elif name.startswith("weight_hh"):
                    nn.init.orthogonal_(gate)
                else:
                    nn.init.zeros_(gate)
        if isinstance(module, nn.LSTM):
            _, forget, _, _ = torch.split(dict(module.named_parameters())["bias_ih_l0"].detach(), module.hidden_size)
            nn.init.ones_(forget)
    elif isinstance(module, Lookahead):  # after the convolution in it: children come first
        nn.init.zeros_(module.conv.weight)
        nn.init.ones_(module.conv.weight[:, :, 0])
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
