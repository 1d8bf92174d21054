"""How much of the bare ONNX Runtime session's speed the whole pipeline keeps.

    python benchmarks/transcribe_speed.py [MANIFEST|FOLDER] [--model MODEL] [--save]

Three ways through the same recordings, in turn within each round, so that all see the same machine:

bare      an `onnxruntime.InferenceSession` with its default options, fed one after the other with the padded
          batches that the pipeline forms, ready in memory
parallel  the same with as many single-threaded runs at once as the pipeline has workers: what it could reach at best
pipeline  `Recognizer.transcribe` from files to text: headers, decoding, resampling, batching, the model, greedy

RTFx is seconds of audio per second of work. The goal is at least 0.85 of the bare session's.
"""

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from machine import default_source, interleaved, machine, recordings, save_result

from ds2_deploy.audio.load import load_audio
from ds2_deploy.batching import plan_batches
from ds2_deploy.extras import require
from ds2_deploy.model_folder import open_model
from ds2_deploy.recognizer import BATCH_SECONDS, HEADERS_AHEAD, Recognizer
from ds2_deploy.runtime.protocol import pad_batch

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""audio (B, S) and lengths (B,)."""


def main(
    source: Annotated[
        Path | None, typer.Argument(help="Manifest or folder; without it AN4's test set in $DS2_DATA, or the samples.")
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled name or model folder.")] = "default",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    batch_seconds: Annotated[float, typer.Option(min=1)] = BATCH_SECONDS,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/transcribe_speed.json.")] = False,
) -> None:
    """Compare the pipeline with the bare session."""
    paths = recordings(source or default_source())
    recognizer = Recognizer.open(model, backend="onnxruntime", device="cpu", batch_seconds=batch_seconds)
    batches, audio_s = ready_batches(paths, recognizer)
    ways = {
        "bare": bare_session(model, batches),
        "parallel": parallel_session(model, batches, recognizer.workers),
        "pipeline": lambda: pipeline(recognizer, paths),
    }
    seconds = interleaved(ways, rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        "recordings": len(paths),
        "audio_s": round(audio_s, 1),
        "model": model,
        "batch_seconds": batch_seconds,
        "batches": len(batches),
        "workers": recognizer.workers,
        "rounds": rounds,
        "rtfx": {name: round(audio_s / median, 1) for name, median in medians.items()},
        "pipeline_to": {name: round(median / medians["pipeline"], 3) for name, median in medians.items()},
        "seconds": {name: [round(t, 3) for t in times] for name, times in seconds.items()},
        "machine": machine(),
    }
    report(result)
    if save:
        save_result("transcribe_speed", result)


def ready_batches(paths: list[Path], recognizer: Recognizer) -> tuple[list[Batch], float]:
    """The padded batches that the pipeline forms of these files, and the seconds of audio in them."""
    rate = recognizer.metadata.feature.sample_rate
    audio = [load_audio(path, rate) for path in paths]
    batches = []
    for ahead in (audio[start : start + HEADERS_AHEAD] for start in range(0, len(audio), HEADERS_AHEAD)):
        durations_s = [len(samples) / rate for samples in ahead]
        for batch in plan_batches(enumerate(durations_s), recognizer.batch_seconds, recognizer.workers):
            batches.append(pad_batch([ahead[i] for i in batch]))
    return batches, sum(map(len, audio)) / rate


def bare_session(model: str, batches: list[Batch]) -> Callable[[], None]:
    run = session_run(model, threads=0)  # ONNX Runtime's own choice

    def way() -> None:
        for batch in batches:
            run(batch)

    return way


def parallel_session(model: str, batches: list[Batch], workers: int) -> Callable[[], None]:
    run = session_run(model, threads=1)

    def way() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, batches))

    return way


def session_run(model: str, threads: int) -> Callable[[Batch], object]:
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    path = open_model(model).graph("fp32")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"audio": batch[0], "audio_lengths": batch[1]})


def pipeline(recognizer: Recognizer, paths: list[Path]) -> None:
    for result in recognizer.transcribe(paths):
        if result.error:
            raise result.error


def report(result: dict[str, Any]) -> None:
    print(
        f"{result['recordings']} recordings, {result['audio_s']} s, model {result['model']}, {result['rounds']} rounds"
    )
    print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    for name, rtfx in result["rtfx"].items():
        print(f"{name:10}{rtfx:8.1f} x real time, of which the pipeline keeps {result['pipeline_to'][name]:.0%}")


if __name__ == "__main__":
    typer.run(main)
