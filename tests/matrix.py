"""The family of networks as a table of choices, and a few of its rows that hold every pair of choices.

A builder's faults come from two choices that do not go together (a half-precision clipped RNN, a stream without
convolutions) far oftener than from three, so a dozen rows stand for all of them in the tests; `make bench` takes all.
"""

import itertools
from pathlib import Path
from typing import NamedTuple, cast

from ds2_deploy.audio.features import FeatureConfig, Normalization
from ds2_deploy.model.config import Cell, ConvLayer, ModelConfig
from ds2_deploy.model_folder import METADATA_FILE, Precision, graph_file

CONVOLUTIONS = {
    "2d": (2, (ConvLayer(channels=3, kernel=(11, 5), stride=(3, 2)), ConvLayer(channels=4, kernel=(4, 6)))),
    "1d": (1, (ConvLayer(channels=9, kernel=(1, 5), stride=(1, 3)),)),
    "none": (2, ()),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "cell": ("rnn", "rnn_relu", "gru", "lstm"),
    "direction": ("both", "forward", "windows"),
    "graph": ("model", "stream"),
    "precision": ("fp32", "fp16"),
    "convolution": tuple(CONVOLUTIONS),
}


class Case(NamedTuple):
    """One choice of each."""

    cell: str
    direction: str
    graph: str
    precision: str
    convolution: str

    def write(self, folder: Path) -> None:
        """A model folder of a tiny network of this kind, with the one graph."""
        from export.to_onnx import write_onnx, write_stream_onnx
        from tests.tiny import tiny_metadata, tiny_model

        dims, layers = CONVOLUTIONS[self.convolution]
        forward, windows = self.direction == "forward", self.direction == "windows"
        config = ModelConfig(
            conv_dims=1 if dims == 1 else 2, conv=layers, cell=cast(Cell, self.cell), rnn_layers=2, rnn_size=8,
            bidirectional=not forward, lookahead=3 if forward else 0, window=2 if windows else 0,
            window_context=3 if windows else 0, fc_layers=1, fc_size=6,
        )  # fmt: skip
        normalizations: dict[str, Normalization] = {"both": "utterance", "windows": "running", "forward": "global"}
        normalization = normalizations[self.direction]
        feature = FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512, normalization=normalization)
        metadata, precision = tiny_metadata(config, feature), cast(Precision, self.precision)
        (folder / METADATA_FILE).write_text(metadata.to_json())
        path = folder / graph_file(precision, stream=self.graph == "stream")
        if self.graph == "stream":
            write_stream_onnx(tiny_model(metadata), path, precision, metadata.stream_chunk_samples())
        else:
            write_onnx(tiny_model(metadata), path, precision)


def every_case() -> list[Case]:
    """All that there can be: a network that reads backwards from the end cannot stream, and an LSTM has no windows."""
    cases = itertools.starmap(Case, itertools.product(*CHOICES.values()))
    impossible = {("stream", "both"), ("lstm", "windows")}
    return [case for case in cases if not {(case.graph, case.direction), (case.cell, case.direction)} & impossible]


def pairs(case: Case) -> set[tuple[tuple[int, str], ...]]:
    """Each two of its choices."""
    return set(itertools.combinations(enumerate(case), 2))


def pairwise(cases: list[Case]) -> list[Case]:
    """Few of `cases` that have every pair of choices which any of them has: always the one with most new pairs."""
    missing, chosen = set().union(*map(pairs, cases)), []
    while missing:
        best = max(cases, key=lambda case: len(pairs(case) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen
