"""How cost grows: with the audio's length, with the batch; and what a command costs before it does anything.

    python benchmarks/growth.py [--rounds 5] [--hour] [--save]

length     one recording of 1 s to 10 min through `default` at once, and chunk by chunk through `streaming`
batch      1 to 32 recordings of 5 s through `default`
hour       --hour: an hour once by each of `ds2 transcribe` (cut at silences) and `ds2 transcribe --stream`
start-up   `ds2 --help`, and `ds2 transcribe` of a recording of 3 s, a process each

All on one thread with ONNX Runtime and sound of AN4 or the samples; medians of rounds in which all lengths take turns.
Growth is the exponent of a power law fitted to all lengths from 5 s, or all batches: 1 is linear. --save writes
benchmarks/results/growth.json.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import soundfile
import typer
from machine import SAMPLES, default_source, interleaved, machine, recordings, save_result

from ds2_deploy.audio.load import load_audio
from ds2_deploy.model_folder import open_model
from ds2_deploy.runtime import open_backend, open_stream_backend
from ds2_deploy.runtime.protocol import pad_batch

RATE = 16000
LENGTHS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600)
BATCHES = (1, 2, 4, 8, 16, 32)
BATCH_S = 5
FITTED_FROM_S = 5
Runs = dict[str, Callable[[], object]]


def sound(seconds: float) -> npt.NDArray[np.float32]:
    """Of the recordings, one after the other, again and again."""
    joined = np.concatenate([load_audio(path, RATE) for path in recordings(default_source())])
    return np.resize(joined, round(seconds * RATE))


def medians(runs: Runs, rounds: int) -> dict[str, float]:
    """Milliseconds of each, after a round that warms up."""
    seconds = interleaved(runs, rounds)
    return {name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()}


def exponent(sizes: list[float], costs: list[float]) -> float:
    return round(float(np.polyfit(np.log(sizes), np.log(costs), 1)[0]), 3)


def by_length(rounds: int) -> dict[str, Any]:
    whole = open_backend("onnxruntime", open_model("default"), device="cpu", threads=1)
    stream = open_stream_backend("onnxruntime", open_model("streaming"), device="cpu", threads=1)
    audio = sound(max(LENGTHS_S))

    def at_once(seconds: int) -> Callable[[], object]:
        batch = pad_batch([audio[: seconds * RATE]])
        return lambda: whole.run(*batch)

    def in_chunks(seconds: int) -> Callable[[], object]:
        whole_chunks = seconds * RATE // stream.chunk_samples * stream.chunk_samples
        pieces = audio[:whole_chunks].reshape(-1, 1, stream.chunk_samples)
        full = np.array([stream.chunk_samples])

        def run() -> None:
            state = stream.initial_state(1)
            for piece in pieces:
                state = stream.step(piece, full, state).state

        return run

    found: dict[str, Any] = {}
    for name, way in (("default", at_once), ("streaming", in_chunks)):
        costs = medians({str(seconds): way(seconds) for seconds in LENGTHS_S}, rounds)
        fitted = [seconds for seconds in LENGTHS_S if seconds >= FITTED_FROM_S]
        found[name] = {"ms": costs, "exponent": exponent(list(fitted), [costs[str(s)] for s in fitted])}
    return found


def by_batch(rounds: int) -> dict[str, Any]:
    backend = open_backend("onnxruntime", open_model("default"), device="cpu", threads=1)
    audio = sound(BATCH_S * max(BATCHES)).reshape(-1, BATCH_S * RATE)
    batches = {str(size): pad_batch(list(audio[:size])) for size in BATCHES}
    costs = medians({size: (lambda batch=batch: backend.run(*batch)) for size, batch in batches.items()}, rounds)
    return {"ms": costs, "exponent": exponent(list(BATCHES), list(costs.values()))}


def commands(rounds: int) -> dict[str, float]:
    """Seconds of whole processes."""
    sample = str(next(SAMPLES.glob("*.flac")))
    calls = {
        "ds2 --help": ["--help"],
        "ds2 transcribe": ["transcribe", sample, "--threads", "1"],
        "ds2 transcribe --stream": ["transcribe", "--stream", sample, "--threads", "1"],
        "ds2 transcribe --decoder beam": ["transcribe", sample, "--decoder", "beam", "--threads", "1"],
    }
    costs = medians({name: (lambda words=words: ds2(*words)) for name, words in calls.items()}, rounds)
    return {name: round(milliseconds / 1000, 3) for name, milliseconds in costs.items()}


def ds2(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "ds2_deploy", *words], check=True, capture_output=True)


def an_hour() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hour.flac"
        soundfile.write(path, sound(3600), RATE)
        found = {}
        for name, option in (("cut at silences", []), ("stream", ["--stream"])):
            start = time.perf_counter()
            ds2("transcribe", str(path), "--threads", "1", *option)
            found[name] = round(time.perf_counter() - start, 1)
    return found


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    hour: Annotated[bool, typer.Option("--hour")] = False,
    save: Annotated[bool, typer.Option("--save")] = False,
) -> None:
    result = {"length": by_length(rounds), "batch": by_batch(rounds), "commands_s": commands(rounds)}
    if hour:
        result["hour_s"] = an_hour()
    for name, part in result["length"].items():
        per_s = {seconds: f"{ms / float(seconds):.2f}" for seconds, ms in part["ms"].items()}
        print(f"{name}: ms per second of audio {per_s}, exponent {part['exponent']}")
    print(f"batch of {BATCH_S} s: {result['batch']['ms']}, exponent {result['batch']['exponent']}")
    print(result["commands_s"], result.get("hour_s", ""))
    if save:
        save_result("growth", {"machine": machine(), "rounds": rounds, **result})


if __name__ == "__main__":
    typer.run(main)
