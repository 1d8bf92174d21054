"""The training loop that one writes first: torch.stft, nn.Module, packed sequences, shuffled batches, no bucketing.

What benchmarks/train_throughput.py compares with. The net has the sizes of a recipe's ModelConfig; what PyTorch has no
module for (shared input weights, a lookahead, batch normalisation at each step) is left out, which favours this side.
"""

import random
import time
from collections.abc import Sequence

import soundfile
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.manifest import Utterance
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.text.alphabet import Alphabet
from training.learner import make_optimizer
from training.recipe import Recipe


class PlainSpeech(Dataset[tuple[Tensor, Tensor]]):
    """Normalised log spectrograms (T, F) and labels, computed by the workers."""

    def __init__(self, utterances: Sequence[Utterance], feature: FeatureConfig, alphabet: Alphabet) -> None:
        self.utterances, self.feature, self.alphabet = utterances, feature, alphabet

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        utterance, feature = self.utterances[index], self.feature
        audio = torch.from_numpy(soundfile.read(utterance.path, dtype="float32")[0])
        spectrum = torch.stft(
            audio,
            feature.dft_points,
            feature.hop_samples,
            feature.window_samples,
            torch.hann_window(feature.window_samples),
            center=False,
            return_complex=True,
        )
        log = spectrum.abs().square().clamp(min=1e-6).log()[: feature.bins]  # a mel bank's cost is left out
        return ((log - log.mean()) / log.std()).T, torch.tensor(self.alphabet.encode(utterance.text))


def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padded features (B, T, F), frames, concatenated labels, their numbers."""
    features, labels = zip(*items, strict=True)
    frames = torch.tensor([len(f) for f in features])
    padded, counts = pad_sequence(list(features), batch_first=True), torch.tensor([len(t) for t in labels])
    return padded, frames, torch.cat(labels), counts


class PlainNet(nn.Module):
    """Convolutions, recurrent layers on packed sequences, fully connected layers."""

    def __init__(self, config: ModelConfig, bins: int, labels: int) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = 1 if config.conv_dims == 2 else bins
        for c in config.conv:
            if config.conv_dims == 2:
                layers += [nn.Conv2d(channels, c.channels, c.kernel, c.stride, c.padding), nn.BatchNorm2d(c.channels)]
            else:
                time_only = c.kernel[1], c.stride[1], c.padding[1]
                layers += [nn.Conv1d(channels, c.channels, *time_only), nn.BatchNorm1d(c.channels)]
            layers.append(nn.Hardtanh(0, config.relu_clip))
            channels = c.channels
        self.conv = nn.Sequential(*layers)
        cell = {"gru": nn.GRU, "lstm": nn.LSTM}.get(config.cell, nn.RNN)
        size, directions = config.rnn_input_size(bins), 2 if config.bidirectional else 1
        self.norms, self.rnns = nn.ModuleList(), nn.ModuleList()
        for _ in range(config.rnn_layers):
            self.norms.append(nn.BatchNorm1d(size))
            self.rnns.append(cell(size, config.rnn_size, bidirectional=directions == 2))
            size = config.rnn_output_size
        hidden: list[nn.Module] = []
        for _ in range(config.fc_layers):
            hidden += [nn.Linear(size, config.fc_size), nn.Hardtanh(0, config.relu_clip)]
            size = config.fc_size
        self.output = nn.Sequential(*hidden, nn.Linear(size, labels))

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) -> log probabilities (T', B, V), lengths (B,)."""
        x = self.conv(x.transpose(1, 2)[:, None] if self.config.conv_dims == 2 else x.transpose(1, 2))
        x = x.flatten(1, -2) if x.dim() == 4 else x  # (B, C F', T')
        lengths = torch.tensor([self.config.output_frames(int(n)) for n in frames]).clamp(max=x.shape[2])
        packed = pack_padded_sequence(x.permute(2, 0, 1), lengths, enforce_sorted=False)
        for norm, rnn in zip(self.norms, self.rnns, strict=True):
            y = rnn(_with(packed, norm(packed.data)))[0]
            if self.config.bidirectional and self.config.directions == "sum":
                y = _with(y, y.data[:, : self.config.rnn_size] + y.data[:, self.config.rnn_size :])
            packed = y
        return self.output(pad_packed_sequence(packed)[0]).log_softmax(-1), lengths


def _with(packed: PackedSequence, data: Tensor) -> PackedSequence:
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)


def plain_epoch(recipe: Recipe, metadata: ModelMetadata, utterances: Sequence[Utterance]) -> float:
    """Seconds of one epoch, after a step that warms up."""
    torch.manual_seed(recipe.seed)
    random.seed(recipe.seed)
    net = PlainNet(metadata.model, metadata.feature.bins, len(metadata.alphabet))
    optimizer = make_optimizer(net, recipe.optimizer)
    speech = PlainSpeech(utterances, metadata.feature, metadata.alphabet)
    loader = DataLoader(
        speech, recipe.batch_size, shuffle=True, collate_fn=collate, num_workers=recipe.workers, persistent_workers=True
    )
    step(net, optimizer, next(iter(loader)), recipe.optimizer.clip_norm)
    started = time.perf_counter()
    for batch in loader:
        step(net, optimizer, batch, recipe.optimizer.clip_norm)
    return time.perf_counter() - started


def step(
    net: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor, Tensor], clip_norm: float
) -> None:
    features, frames, labels, label_counts = batch
    log_probs, lengths = net(features, frames)
    loss = nn.functional.ctc_loss(log_probs, labels, lengths, label_counts, zero_infinity=True)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
    optimizer.step()
