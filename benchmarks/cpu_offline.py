"""ONNX Runtime against PyTorch eager on a CPU, and both against what the machine's matrix products alone would take.

    python benchmarks/cpu_offline.py [--net NAME]... [--batch N]... [--seconds S]... [--threads N] [--save]

Networks of the reports' sizes with random weights, exported as `ds2 export` does. Both sides take turns, five times;
medians, and the median of each turn's ratios:

onnxruntime   the exported graph
torch         the network as one writes it: nn.Conv2d, nn.GRU or nn.LSTM over packed sequences (plain_loop.py)

The floor is counted, and priced by what this machine reaches in the same run: two operations for each multiplication
and addition of convolutions and layers, at the rate of a large matrix product; for the recurrence, whose weights every
frame reads anew, the time of reading them from wherever they fit, where that is more.

--save writes benchmarks/results/cpu_offline-THREADS.json.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import torch
import typer
from machine import interleaved, save_result
from machine import machine as this_machine
from plain_loop import PlainNet

from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model_folder import ModelFolder, graph_file, open_model
from ds2_deploy.runtime.ort_backend import OrtBackend
from export.to_onnx import write_onnx

TURNS = 5
SEED = 2026
NETS = {
    "gru 5 × 800 bidirectional": ModelConfig(cell="gru"),
    "lstm 5 × 800 bidirectional": ModelConfig(cell="lstm"),
    "gru 5 × 512 unidirectional": ModelConfig(cell="gru", rnn_size=512, bidirectional=False),
}
GATES = {"gru": 3, "lstm": 4}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of one batch."""

    net: str
    batch: int
    seconds: float
    gflop: float
    gbyte: float
    """Of recurrent weights, read once per frame."""
    gflops: float
    gbytes: float
    """Per second, what the machine reached beside this row."""
    onnxruntime: float
    torch: float
    floor: float
    ratio: float
    """torch by onnxruntime."""
    from_floor: float
    """onnxruntime by floor."""
    torch_from_floor: float


def metadata_of(name: str) -> ModelMetadata:
    if name in NETS:
        return msgspec.structs.replace(ModelMetadata(), model=NETS[name])
    metadata = open_model(name).metadata
    if metadata.model.window:
        raise typer.BadParameter(f"{name} hears its backward direction by windows, which nn.GRU cannot: leave it out.")
    return metadata


class Machine(NamedTuple):
    """What its matrix products reach."""

    gflops: float
    """Of a large product."""
    gbytes: float
    """Read per second where vectors meet a matrix of the recurrent weights' size, again and again."""


class Work(NamedTuple):
    """Of a batch, in 10^9."""

    flop: float
    """Convolutions and the products of all frames with the input weights and the labels."""
    recurrent_flop: float
    recurrent_byte: float
    """The recurrent weights, once per frame."""

    def floor_ms(self, machine: Machine) -> float:
        recurrent = max(self.recurrent_flop / machine.gflops, self.recurrent_byte / machine.gbytes)
        return 1000 * (self.flop / machine.gflops + recurrent)


def counted(config: ModelConfig, bins: int, labels: int, batch: int, frames: int) -> Work:
    """Of a batch whose feature frames are `frames`."""
    flop = recurrent = byte = 0.0
    channels, height, width = 1, bins, frames
    for conv in config.conv:
        height, width = (
            (size + 2 * pad - kernel) // stride + 1
            for size, pad, kernel, stride in zip((height, width), conv.padding, conv.kernel, conv.stride, strict=True)
        )
        flop += 2.0 * batch * height * width * conv.channels * channels * conv.kernel[0] * conv.kernel[1]
        channels = conv.channels
    gates, directions, size = GATES[config.cell] * config.rnn_size, 2 if config.bidirectional else 1, channels * height
    for _ in range(config.rnn_layers):
        flop += 2.0 * batch * width * directions * gates * size
        recurrent += 2.0 * batch * width * directions * gates * config.rnn_size
        byte += 4.0 * width * directions * gates * config.rnn_size
        size = config.rnn_output_size
    flop += 2.0 * batch * width * size * labels
    return Work(flop / 1e9, recurrent / 1e9, byte / 1e9)


def reach(rows: int, columns: int) -> Machine:
    """Measured: the best of several, for a floor is what can be reached at all."""
    large, best_flops, best_bytes = torch.rand(1536, 1536), 0.0, 0.0
    matrix, vector, frames = torch.rand(rows, columns), torch.rand(columns), 50
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(large, large)
        best_flops = max(best_flops, 2 * 1536**3 / (time.perf_counter() - start))
        start = time.perf_counter()
        for _ in range(frames):
            torch.mv(matrix, vector)
        best_bytes = max(best_bytes, 4 * rows * columns * frames / (time.perf_counter() - start))
    return Machine(best_flops / 1e9, best_bytes / 1e9)


@torch.inference_mode()
def measure(name: str, session: OrtBackend, network: DeepSpeech2, plain: PlainNet, batch: int, seconds: float) -> Row:
    rate = network.metadata.feature.sample_rate
    samples = round(seconds * rate)
    audio = np.random.default_rng(SEED).normal(0, 0.05, (batch, samples)).astype(np.float32)
    lengths = np.full(batch, samples, np.int64)
    frames = network.frontend(torch.from_numpy(audio), torch.from_numpy(lengths))[1]

    def eager() -> None:
        heard, counts = network.frontend(torch.from_numpy(audio), torch.from_numpy(lengths))
        plain(heard.transpose(1, 2), counts)

    sides: dict[str, Callable[[], object]] = {
        "onnxruntime": lambda: session.run(audio, lengths),
        "torch": eager,
    }
    times = interleaved(sides, TURNS)
    config, bins, labels = network.metadata.model, network.metadata.feature.bins, len(network.metadata.alphabet)
    work = counted(config, bins, labels, batch, int(frames[0]))
    machine = reach(GATES[config.cell] * config.rnn_size, config.rnn_size)
    floor_ms = work.floor_ms(machine)
    median = {side: round(1000 * statistics.median(values), 2) for side, values in times.items()}
    return Row(
        net=name,
        batch=batch,
        seconds=seconds,
        gflop=round(work.flop + work.recurrent_flop, 2),
        gbyte=round(work.recurrent_byte, 2),
        gflops=round(machine.gflops, 1),
        gbytes=round(machine.gbytes, 1),
        **median,
        floor=round(floor_ms, 2),
        ratio=_ratio(times["torch"], times["onnxruntime"]),
        from_floor=round(median["onnxruntime"] / floor_ms, 3),
        torch_from_floor=round(median["torch"] / floor_ms, 3),
    )


def _ratio(above: list[float], below: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


def main(
    net: Annotated[list[str] | None, typer.Option(help="One of the report's sizes, or a bundled model.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1)] = None,
    seconds: Annotated[list[float] | None, typer.Option(min=0.5)] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    save: Annotated[bool, typer.Option("--save")] = False,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    print("| network | batch | s | GFLOP (/s) | GB (/s) | ONNX Runtime | PyTorch | floor ms | ratio | from the floor |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for name, metadata in {name: metadata_of(name) for name in net or [*NETS, "default"]}.items():
        network = DeepSpeech2(metadata).eval()
        plain = PlainNet(metadata.model, metadata.feature.bins, len(metadata.alphabet)).eval()
        with tempfile.TemporaryDirectory() as folder:
            write_onnx(network, Path(folder) / graph_file("fp32"), "fp32")
            session = OrtBackend(ModelFolder(Path(folder), metadata), device="cpu", threads=threads)
        for size in batch or [1, 8, 32]:
            for length in seconds or [3.0, 10.0]:
                row = measure(name, session, network, plain, size, length)
                rows.append(row)
                print(
                    f"| {name} | {row.batch} | {row.seconds:g} | {row.gflop} ({row.gflops}) | "
                    f"{row.gbyte} ({row.gbytes}) | {row.onnxruntime} | {row.torch} | {row.floor} | {row.ratio:.2f} | "
                    f"{row.from_floor:.2f}, {row.torch_from_floor:.2f} |",
                    flush=True,
                )
    if save:
        about = this_machine() | {"torch": str(torch.__version__)}
        save_result(f"cpu_offline-{threads}", {"machine": about, "threads": threads, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
