"""What processes of their own bring a search, and what it costs to send them the log-probabilities.

    python benchmarks/decoding_pool.py [--model default] [--manifest $DS2_DATA/an4/test.jsonl] [--rounds 3] [--save]

First the whole of `Recognizer.transcribe`: reading, network and search, with the search in 0, 1, 2 ... processes that
have begun already. Then the search alone on the network's frames, in batches of ten: what it is worth where the network
costs the processor nothing, as on a GPU. One setting after the other in each round; medians.

--save writes benchmarks/results/decoding_pool.json.
"""

import pickle
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from machine import default_source, machine, recordings, save_result

from ds2_deploy.audio.load import load_audio
from ds2_deploy.decoding.outcome import decode_row
from ds2_deploy.decoding.pool import DecodingPool
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.runtime.devices import cpu_cores
from ds2_deploy.runtime.protocol import run_alone


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One decoder with so many processes."""

    decoder: str
    work: Literal["all", "search alone"]
    processes: int
    seconds: float
    """Median of the rounds."""
    rtfx: float
    ratio: float
    """Seconds without processes by seconds with them: the median of each round's."""


class Transport(msgspec.Struct, frozen=True, kw_only=True):
    """Of one recording's log-probabilities and its hypothesis, there and back; medians in milliseconds."""

    decoder: str
    pickling_ms: float
    decoding_ms: float


def timed(recognizer: Recognizer, paths: list[Path], processes: int) -> tuple[float, list[str]]:
    """Seconds of a second pass, when the processes have begun, and what it heard."""
    with_pool = replace(recognizer, decoding_processes=processes)
    if pool := with_pool._pool:
        pool.begin()
    for _ in range(2):
        start = time.perf_counter()
        texts = [result.hypothesis.text if result.hypothesis else "" for result in with_pool.transcribe(paths)]
        seconds = time.perf_counter() - start
    return seconds, texts


def speeds(model: str, decoder: str, paths: list[Path], counts: list[int], rounds: int) -> list[Speed]:
    recognizer = Recognizer.open(model, decoder=decoder)
    found: dict[int, list[float]] = {count: [] for count in counts}
    texts: list[list[str]] = []
    for _ in range(rounds):
        for count in counts:
            seconds, heard = timed(recognizer, paths, count)
            found[count].append(seconds)
            texts.append(heard)
    if any(heard != texts[0] for heard in texts):
        raise SystemExit(f"{decoder}: the processes heard something else")
    rate = recognizer.metadata.feature.sample_rate
    audio_s = sum(len(load_audio(path, rate)) for path in paths) / rate
    return table(decoder, "all", found, audio_s)


def table(
    decoder: str, work: Literal["all", "search alone"], found: dict[int, list[float]], audio_s: float
) -> list[Speed]:
    none = found[0]
    return [
        Speed(
            decoder=decoder,
            work=work,
            processes=count,
            seconds=round(statistics.median(seconds), 3),
            rtfx=round(audio_s / statistics.median(seconds), 1),
            ratio=round(statistics.median(a / b for a, b in zip(none, seconds, strict=True)), 3),
        )
        for count, seconds in found.items()
    ]


def alone(model: str, decoder: str, paths: list[Path], counts: list[int], rounds: int) -> list[Speed]:
    recognizer = Recognizer.open(model, decoder=decoder)
    rate = recognizer.metadata.feature.sample_rate
    sounds = [load_audio(path, rate) for path in paths]
    rows = [run_alone(recognizer.backend, samples).copy() for samples in sounds]
    pools = {count: DecodingPool(recognizer.decoder, count) for count in counts if count}
    for pool in pools.values():
        pool.begin()
        while not pool.is_ready:
            time.sleep(0.1)
        pool.decode(rows)  # until all of them are there
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            start = time.perf_counter()
            for begin in range(0, len(rows), 10):
                if count:
                    pools[count].decode(rows[begin : begin + 10])
                else:
                    [decode_row(recognizer.decoder, row) for row in rows[begin : begin + 10]]
            found[count].append(time.perf_counter() - start)
    return table(decoder, "search alone", found, sum(map(len, sounds)) / rate)


def transport(model: str, decoder: str, paths: list[Path]) -> Transport:
    recognizer = Recognizer.open(model, decoder=decoder)
    pickling, decoding = [], []
    for path in paths:
        audio = load_audio(path, recognizer.metadata.feature.sample_rate)
        log_probs = run_alone(recognizer.backend, audio)
        start = time.perf_counter()
        sent = pickle.loads(pickle.dumps(log_probs, protocol=pickle.HIGHEST_PROTOCOL))
        middle = time.perf_counter()
        heard = recognizer.decoder.decode(sent)
        end = time.perf_counter()
        pickle.loads(pickle.dumps(heard, protocol=pickle.HIGHEST_PROTOCOL))
        pickling.append(middle - start + time.perf_counter() - end)
        decoding.append(end - middle)
    return Transport(
        decoder=decoder,
        pickling_ms=round(1e3 * statistics.median(pickling), 4),
        decoding_ms=round(1e3 * statistics.median(decoding), 3),
    )


def main(
    model: Annotated[str, typer.Option()] = "default",
    manifest: Annotated[Path | None, typer.Option(help="Without it, AN4's test set, or the samples.")] = None,
    decoders: Annotated[str, typer.Option()] = "beam,flashlight",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    save: Annotated[bool, typer.Option("--save")] = False,
) -> None:
    paths = recordings(manifest or default_source())
    counts = sorted({0, 1, 2, cpu_cores()})
    found = [
        speed
        for measure in (speeds, alone)
        for name in decoders.split(",")
        for speed in measure(model, name, paths, counts, rounds)
    ]
    sent = [transport(model, name, paths) for name in decoders.split(",")]
    rows = ["| what | decoder | processes | seconds | × real time | faster than none |", "|---|---|---|---|---|---|"]
    rows += [
        f"| {s.work} | {s.decoder} | {s.processes} | {s.seconds:.2f} | {s.rtfx:.0f} | {s.ratio:.2f} × |" for s in found
    ]
    rows += ["", "| decoder | sending a recording's frames and text | decoding them |", "|---|---|---|"]
    rows += [f"| {t.decoder} | {t.pickling_ms:.3f} ms | {t.decoding_ms:.1f} ms |" for t in sent]
    print("\n".join(rows))
    if save:
        save_result("decoding_pool", {"machine": machine(), "model": model, "speeds": found, "transport": sent})


if __name__ == "__main__":
    typer.run(main)
