"""What one backend does with some sizes, in a process of its own, for gpu_check.py: a JSON line each, written at once.

    python benchmarks/gpu_rows.py about DEVICE
    python benchmarks/gpu_rows.py recognition MODEL BACKEND PRECISION DEVICE MANIFEST [--least-s S]
    python benchmarks/gpu_rows.py throughput|streams MODEL BACKEND PRECISION DEVICE --size N... [--seconds S]

Whoever reads the lines has those before a crash or a hang.
"""

import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from ds2_deploy.audio.load import load_audio
from ds2_deploy.bench.environment import changing
from ds2_deploy.bench.stats import Latency
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model_folder import open_model
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.runtime import open_backend, open_stream_backend

RUNS = 150
"""At most; as many as a 98th percentile takes."""
BATCH_LIMIT_S, STEP_LIMIT_S = 4, 8
"""For the runs of one size; a step of thousands of streams takes some 50 ms."""
STAGED_RUNS = 5
WARM_UP_S = 1
SIDE = 8192
"""Of the square matrices whose products warm a GPU up."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)  # the last line says it
Row = dict[str, Any]
Sizes = Annotated[list[int], typer.Option(min=1)]


@app.command()
def about(device: str) -> None:
    """Versions, and the rate of products in half precision that this device reaches."""
    row: Row = {}
    try:
        import torch

        row = {
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        }
    except ImportError as error:
        row = {"torch": f"does not load: {error}"}
    if rate := warm_up(device):
        row["fp16_tflops"] = round(rate / 1e12, 1)
    tell(row | clocks(device))


@app.command()
def throughput(
    model: str, backend: str, precision: str, device: str, size: Sizes, seconds: Annotated[float, typer.Option()] = 10
) -> None:
    """Whole batches, from samples to log-probabilities, copies included; and the parts of such a run."""
    folder = open_model(model)
    opened = open_backend(backend, folder, device=device, precision=precision)  # type: ignore[arg-type]
    warm_up(device)
    samples = round(seconds * folder.metadata.feature.sample_rate)
    for batch in size:
        inputs = noise(batch, samples), np.full(batch, samples, np.int64)
        row = timed(partial(opened.run, *inputs), batch * seconds, BATCH_LIMIT_S)
        if "reason" not in row:
            row |= parts_of(opened, *inputs)
        tell({"batch": batch, "seconds": seconds} | row | clocks(device))


@app.command()
def recognition(
    model: str, backend: str, precision: str, device: str, manifest: Path, least_s: Annotated[float, typer.Option()] = 0
) -> None:
    """The recordings of a manifest as arrays, from samples to words with their times, until they last `least_s`."""
    recognizer = Recognizer.open(model, backend=backend, device=device, precision=precision)  # type: ignore[arg-type]
    rate = recognizer.metadata.feature.sample_rate
    once = [load_audio(utterance.path, rate) for utterance in read_manifest(manifest)]
    times = max(1, math.ceil(least_s * rate / sum(map(len, once))))
    recordings = sorted(once * times, key=len)
    audio_s = sum(map(len, recordings)) / rate
    warm_up(device)
    row = timed(lambda: recognizer.recognize(recordings), audio_s, BATCH_LIMIT_S)
    tell({"recordings": len(recordings), "seconds": audio_s} | row | clocks(device))


@app.command()
def streams(model: str, backend: str, precision: str, device: str, size: Sizes) -> None:
    """A step of N streams: a chunk of each, from samples to log-probabilities, the state there and back."""
    folder = open_model(model)
    opened = open_stream_backend(backend, folder, device=device, precision=precision)  # type: ignore[arg-type]
    warm_up(device)
    seconds = opened.chunk_samples / folder.metadata.feature.sample_rate
    for several in size:
        audio, lengths = noise(several, opened.chunk_samples), np.full(several, opened.chunk_samples, np.int64)
        step = partial(opened.step, audio, lengths, opened.initial_state(several))
        tell(
            {"streams": several, "seconds": seconds}
            | timed(step, several * seconds, STEP_LIMIT_S)
            | clocks(device)
        )  # fmt: skip


def tell(row: Row) -> None:
    print(json.dumps(row, default=float), flush=True)


def clocks(device: str) -> Row:
    """Driver, clocks, power and temperature just after what was measured."""
    return {} if device == "cpu" else {"gpus": changing()["gpus"]}


def noise(rows: int, samples: int) -> npt.NDArray[np.float32]:
    return 0.1 * np.random.default_rng(0).standard_normal((rows, samples), dtype=np.float32)


def warm_up(device: str) -> float | None:
    """A second of products, in which a GPU's clocks rise; operations in a second of the fastest. None on a CPU."""
    try:
        import torch
    except ImportError:
        return None
    if device == "cpu" or not torch.cuda.is_available():
        return None
    square = torch.randn(SIDE, SIDE, device=device, dtype=torch.float16)
    shortest, end = math.inf, time.monotonic() + WARM_UP_S
    while time.monotonic() < end:
        start = time.perf_counter()
        square @ square
        torch.cuda.synchronize(device)
        shortest = min(shortest, time.perf_counter() - start)
    del square
    torch.cuda.empty_cache()
    return 2.0 * SIDE**3 / shortest


def timed(run: Callable[[], Any], audio_s: float, limit_s: float) -> Row:
    """Latency of RUNS calls after two that warm up, or of fewer where they are slow; a reason where one fails."""
    times_ms: list[float] = []
    try:
        for _ in range(2):
            run()
        end = time.monotonic() + limit_s
        while len(times_ms) < RUNS and (not times_ms or time.monotonic() < end):
            start = time.perf_counter()
            run()
            times_ms.append(1000 * (time.perf_counter() - start))
    except Exception as error:  # such as a GPU's memory that is full: smaller ones have been measured
        return {"reason": reason(error)}
    latency = Latency.of([times_ms])
    found = {name: getattr(latency, name) for name in ("p50", "p50_low", "p50_high", "p98", "max")}
    return found | {"runs": len(times_ms), "rtfx": 1000 * audio_s / latency.p50}


def parts_of(backend: Any, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Row:
    """On a GPU, median milliseconds of copying there, computing and copying back, of separate runs; `features` of
    PyTorch is within computing."""
    if backend.device == "cpu" or not hasattr(backend, "run_in_stages"):
        return {}
    try:
        runs = [backend.run_in_stages(audio, lengths)[1] for _ in range(STAGED_RUNS)]
        parts = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        if backend.name == "torch":
            parts["features"] = statistics.median(features_ms(backend, audio, lengths) for _ in range(STAGED_RUNS))
    except Exception as error:  # what was timed before counts all the same
        return {"no_parts": reason(error)}
    return {"parts_ms": parts}


def features_ms(backend: Any, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> float:
    """Of PyTorch's front end on a GPU, by CUDA events."""
    import torch

    with torch.inference_mode(), torch.cuda.device(backend.device):
        inputs = [torch.from_numpy(array).to(backend.device) for array in (audio, lengths)]
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        backend.module.frontend(*inputs)
        after.record()
        after.synchronize()
    return float(before.elapsed_time(after))


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


if __name__ == "__main__":
    app()
