"""What makes ONNX Runtime faster on a CPU, and what does not: session options, threads, int8 recurrent weights.

    python benchmarks/cpu_variants.py [--net NAME]... [--batch N]... [--save]

The networks of cpu_offline.py, and a bundled model with its own weights, on 3 s of speech; all variants take turns,
five times; medians, and the median of each turn's ratios to one thread with the options that the backend uses. int8:
weights by onnxruntime.quantization.quantize_dynamic, of LSTM nodes; for GRU, which has no such node, the recurrent ones
of `--recurrence loop` (with the mel bank's among them every sixth label changes). How far random networks'
log-probabilities are from fp32's says little.

--save writes benchmarks/results/cpu_variants.json.
"""

import logging
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
import typer
from cpu_offline import NETS, SEED, TURNS, metadata_of
from growth import sound
from machine import interleaved, machine, save_result

from ds2_deploy.extras import require
from ds2_deploy.model.checkpoint import load_model
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from export.to_onnx import write_onnx

SECONDS = 3.0
OPTIONS: dict[str, dict[str, Any]] = {
    "one thread": {},
    "no memory arena": {"enable_cpu_mem_arena": False},
    "no graph optimisation": {"graph_optimization_level": 0},
    "two threads": {"intra_op_num_threads": 2},
    "both directions at once": {"execution_mode": 1, "inter_op_num_threads": 2},
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    net: str
    batch: int
    variant: str
    milliseconds: float
    faster: float
    """Than one thread."""
    max_abs: float
    """Greatest difference of a log-probability from it."""
    equal_labels: float
    """Share of the frames whose most probable label is the same."""


def session(path: Path, options: dict[str, Any]) -> Any:
    ort = require("onnxruntime")
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads, chosen.log_severity_level = 1, 4
    for name, value in options.items():
        kinds = {"graph_optimization_level": ort.GraphOptimizationLevel, "execution_mode": ort.ExecutionMode}
        setattr(chosen, name, kinds[name](value) if name in kinds else value)
    return ort.InferenceSession(path, chosen, providers=["CPUExecutionProvider"])


def sessions(name: str, folder: Path) -> dict[str, Any]:
    """A session for each variant of a network."""
    metadata = metadata_of(name)
    network = DeepSpeech2(metadata) if name in NETS else load_model(name)
    write_onnx(network.eval(), folder / "model.onnx", "fp32")
    found = {variant: session(folder / "model.onnx", options) for variant, options in OPTIONS.items()}
    logging.disable(logging.WARNING)  # the quantiser's advice on preprocessing
    quantize = require("onnxruntime.quantization").quantize_dynamic
    if metadata.model.cell == "lstm":
        quantize(folder / "model.onnx", folder / "int8.onnx", op_types_to_quantize=["LSTM"])
    else:
        write_onnx(network, folder / "loop.onnx", "fp32", recurrence="loop")
        found["loop"] = session(folder / "loop.onnx", {})
        quantize(
            folder / "loop.onnx",
            folder / "int8.onnx",
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[
                n.name for n in require("onnx").load(folder / "loop.onnx").graph.node
            ],  # not those in loops
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": False},
        )
    found["int8"] = session(folder / "int8.onnx", {})
    found["int8, both directions at once"] = session(folder / "int8.onnx", OPTIONS["both directions at once"])
    return found


def rows(name: str, variants: dict[str, Any], batch: int) -> list[Row]:
    samples = round(SECONDS * metadata_of(name).feature.sample_rate)
    audio = np.resize(sound(SECONDS * batch), (batch, samples))
    feeds = {"audio": audio, "audio_lengths": np.full(batch, samples, np.int64)}
    outputs = {variant: one.run(None, feeds)[0] for variant, one in variants.items()}
    ways = {variant: partial(one.run, None, feeds) for variant, one in variants.items()}
    times = interleaved(ways, TURNS)
    first = next(iter(variants))
    return [
        Row(
            net=name,
            batch=batch,
            variant=variant,
            milliseconds=round(1000 * statistics.median(times[variant]), 2),
            faster=round(statistics.median(a / b for a, b in zip(times[first], times[variant], strict=True)), 3),
            max_abs=float(f"{np.abs(outputs[variant] - outputs[first]).max():.2g}"),
            equal_labels=round(float((outputs[variant].argmax(-1) == outputs[first].argmax(-1)).mean()), 4),
        )
        for variant in variants
    ]


def main(
    net: Annotated[list[str] | None, typer.Option()] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1)] = None,
    save: Annotated[bool, typer.Option("--save")] = False,
) -> None:
    torch.manual_seed(SEED)
    print("| network | batch | variant | ms | faster | max abs | equal labels |\n|---|---|---|---|---|---|---|")
    found: list[Row] = []
    for name in net or [*NETS, "default"]:
        with tempfile.TemporaryDirectory() as folder:
            variants = sessions(name, Path(folder))
        for size in batch or [1, 8]:
            for row in rows(name, variants, size):
                found.append(row)
                print(
                    f"| {name} | {size} | {row.variant} | {row.milliseconds} | {row.faster:.2f} | {row.max_abs} | "
                    f"{row.equal_labels:.2%} |",
                    flush=True,
                )
    if save:
        save_result("cpu_variants", {"machine": machine(), "seconds": SECONDS, "rows": found})


if __name__ == "__main__":
    typer.run(main)
