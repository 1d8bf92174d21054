"""How many live streams this machine carries, and how late their answers come.

    python benchmarks/stream_latency.py [MANIFEST|FOLDER] [--model MODEL] [--seconds N] [--save]

Callers arrive at random (a Poisson process whose rate keeps N in the line on average), each plays a real recording at
its own speed, a chunk at a time, as a client would send it. Nobody waits for anybody: a chunk is due when its last
sample has been spoken, whatever the machine does meanwhile (open loop), and its latency runs from there to the moment
its frames are decoded. The chunks of recordings that begin in the first `--warmup` seconds are not counted.

dispatcher   ONNX Runtime, batches of all that is ready, one single-threaded worker per core
alone        the same network in PyTorch, one stream a step, one single-threaded worker per core

For each chunk length the number of streams grows until p98 breaks the deadline of 100 ms.

Then, with a few callers: how long after the beginning of speech the first letter is shown, how long after its end the
last letter, and how long after the end of the recording the final result, with the model's own delay in all of them.
"""

import heapq
import itertools
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import typer
from machine import default_source, machine, recordings, save_result

import ds2_deploy.streaming.dispatcher as dispatching
from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.audio.segments import judged
from ds2_deploy.decoding.greedy import GreedyDecoder, GreedyStream
from ds2_deploy.extras import require
from ds2_deploy.model_folder import ModelFolder, graph_file, open_model
from ds2_deploy.runtime.devices import cpu_cores
from ds2_deploy.runtime.ort_backend import OrtStreamBackend
from ds2_deploy.runtime.protocol import Step, StreamBackend
from ds2_deploy.streaming.dispatcher import Dispatcher
from ds2_deploy.streaming.stepping import step_streams
from ds2_deploy.streaming.stream import Stream, StreamResult

DEADLINE_MS = 100.0
STREAMS = (5, 10, 20, 40, 80, 120, 160, 200, 240, 280, 320, 360, 400)
CHUNKS_MS = (100, 200, 400)
PERCENTILES = (50, 90, 98, 99)


class Call(NamedTuple):
    """One recording on the line."""

    stream: Stream
    samples: Samples
    start: float
    """When it began, by time.perf_counter."""
    decoded: "Clocked"


class Clocked(GreedyStream):
    """Notes when each step's frames are decoded, and when the first and the last letter came."""

    def __init__(self, decoder: GreedyDecoder) -> None:
        super().__init__(decoder)
        self.times: list[float] = []
        self.letters: list[float] = []

    def accept(self, log_probs: npt.NDArray[np.float32]) -> None:
        before = self.spoken
        super().accept(log_probs)
        self.times.append(time.perf_counter())
        if self.spoken != before:
            self.letters.append(self.times[-1])


class ClockedDecoder(GreedyDecoder):
    def start(self) -> Clocked:
        return Clocked(self)


class Meter(NamedTuple):
    """A reading; differences of two are what happened in between."""

    steps: int
    rows: int
    model_s: float
    step_s: float
    wall_s: float
    cpu_s: float


class Metered:
    """A stream backend that adds up the time its thread spends in the model."""

    def __init__(self, backend: StreamBackend) -> None:
        self.backend = backend
        self.name, self.device, self.chunk_samples = backend.name, backend.device, backend.chunk_samples
        self.initial_state = backend.initial_state
        self._lock = threading.Lock()
        self.steps = self.rows = 0
        self.model_s = self.step_s = 0.0

    def read(self) -> Meter:
        """What has been added up so far, and the clocks."""
        with self._lock:
            sums = (self.steps, self.rows, self.model_s, self.step_s)
        return Meter(*sums, time.perf_counter(), time.process_time())

    def meter_steps(self, *arguments: Any) -> None:
        """In the place of the dispatcher's `step_streams`: the model and all that the host does around it."""
        start = time.perf_counter()
        step_streams(*arguments)
        with self._lock:
            self.step_s += time.perf_counter() - start

    def step(
        self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], state: npt.NDArray[np.float32]
    ) -> Step:
        start = time.perf_counter()
        step = self.backend.step(audio, lengths, state)
        with self._lock:
            self.model_s += time.perf_counter() - start
            self.steps += 1
            self.rows += len(audio)
        return step


def main(
    source: Annotated[
        Path | None, typer.Argument(help="Manifest or folder; without it AN4's test set in $DS2_DATA, or the samples.")
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled streaming model or model folder.")] = "streaming",
    seconds: Annotated[float, typer.Option(min=5, help="Of each measurement, after the warm-up.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0)] = 3.0,
    chunk_ms: Annotated[list[int] | None, typer.Option()] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/stream_latency.json.")] = False,
) -> None:
    """Measure latency against the number of streams."""
    folder = open_model(model)
    rate = folder.metadata.feature.sample_rate
    audio = [load_audio(path, rate) for path in recordings(source or default_source())]
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{len(audio)} recordings, {sum(map(len, audio)) / rate / len(audio):.2f} s each on average, model {model}")
    chunks = chunk_ms or list(CHUNKS_MS)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for milliseconds in chunks:
            for way, backend, max_batch in ways(folder, milliseconds, Path(work)):
                rows += ladder(way, Metered(backend), max_batch, folder, audio, seconds, warmup)
    answers = responses(folder, audio, warmup)
    if save:
        save_result(
            "stream_latency",
            {
                "model": model,
                "delay_ms": round((folder.metadata.delay_s or 0) * 1000, 1),
                "seconds": seconds,
                "deadline_ms": DEADLINE_MS,
                "rows": rows,
                "responses": answers,
                "machine": machine() | {"torch": str(require("torch").__version__)},
            },
        )


def ways(folder: ModelFolder, chunk_ms: int, work: Path) -> list[tuple[str, StreamBackend, int]]:
    """The stream backends to compare, with chunks of `chunk_ms`."""
    torch = require("torch")
    from ds2_deploy.model.checkpoint import load_weights
    from ds2_deploy.runtime.torch_backend import TorchStreamBackend
    from export.to_onnx import write_stream_onnx

    torch.set_num_threads(1)
    network = load_weights(folder).model()
    chunk = folder.metadata.stream_chunk_samples(chunk_ms)
    target = work / str(chunk_ms)
    target.mkdir()
    write_stream_onnx(network, target / graph_file("fp32", stream=True), "fp32", chunk)
    ort = OrtStreamBackend(ModelFolder(target, folder.metadata), device="cpu", threads=1)
    return [
        ("dispatcher", ort, dispatching.MAX_BATCH),
        ("alone", TorchStreamBackend.of(network, chunk), 1),
    ]


def ladder(
    way: str, backend: Metered, max_batch: int, folder: ModelFolder, audio: list[Samples], seconds: float, warmup: float
) -> list[dict[str, Any]]:
    """More and more streams, until the deadline breaks."""
    rows = []
    for streams in STREAMS:
        row = {"way": way, **measure(backend, max_batch, folder, audio, streams, seconds, warmup)}
        print_row(row)
        rows.append(row)
        if row["latency_ms"]["p98"] > DEADLINE_MS:
            break
    return rows


def measure(
    backend: Metered,
    max_batch: int,
    folder: ModelFolder,
    audio: list[Samples],
    streams: int,
    seconds: float,
    warmup: float,
) -> dict[str, Any]:
    """`streams` callers on average, for `seconds` after the warm-up."""
    rate = folder.metadata.feature.sample_rate
    decoder = ClockedDecoder(folder.metadata.alphabet)
    with Dispatcher(
        backend, folder.metadata, decoder, workers=cpu_cores(), max_batch=max_batch, max_streams=10 * max(STREAMS)
    ) as dispatcher:
        dispatching.step_streams = backend.meter_steps
        readings: list[Meter] = []
        for after in (warmup, warmup + seconds):
            threading.Timer(after, lambda: readings.append(backend.read())).start()
        calls = play(dispatcher, audio, streams, seconds + warmup)
    begin, end = readings
    within = Meter(*(after - before for before, after in zip(begin, end, strict=True)))
    chunk_s = backend.chunk_samples / rate
    latencies = [
        1000 * (decoded - due)
        for call in calls
        for number, decoded in enumerate(call.decoded.times[: len(call.samples) // backend.chunk_samples])
        if begin.wall_s < (due := call.start + (number + 1) * chunk_s) <= end.wall_s  # neither coming nor going
    ]
    return {
        "chunk_ms": round(1000 * chunk_s),
        "streams": streams,
        "chunks": len(latencies),
        "latency_ms": {f"p{p}": round(float(np.percentile(latencies, p)), 2) for p in PERCENTILES}
        | {"max": round(max(latencies), 2)},
        "mean_batch": round(within.rows / within.steps, 2),
        "cpu_share": round(within.cpu_s / within.wall_s / cpu_cores(), 3),
        "host_share": round(1 - within.model_s / within.step_s, 3),
    }


def play(dispatcher: Dispatcher, audio: list[Samples], streams: int, seconds: float) -> list[Call]:
    """Poisson arrivals at the rate that keeps `streams` on the line; returns when the last has its final result."""
    rng = np.random.default_rng(streams)
    rate, chunk = dispatcher.metadata.feature.sample_rate, dispatcher.backend.chunk_samples
    mean_s = sum(map(len, audio)) / len(audio) / rate
    counter = itertools.count()
    begin = time.perf_counter()
    calls: list[Call] = []
    # (due, number, call or None for an arrival, position in its samples)
    agenda: list[tuple[float, int, Call | None, int]] = []
    for _ in range(streams):  # those who are on the line already, at a random place of theirs
        heapq.heappush(agenda, (begin + rng.uniform(0, chunk / rate), next(counter), None, int(rng.integers(1, 10))))
    heapq.heappush(agenda, (begin + rng.exponential(mean_s / streams), next(counter), None, 0))
    while agenda:
        due, _, call, position = heapq.heappop(agenda)
        time.sleep(max(due - time.perf_counter(), 0))
        if call is None:
            samples = audio[rng.integers(len(audio))]
            if position:
                samples = samples[len(samples) * position // 10 :]
            elif due < begin + seconds:
                next_one = due + rng.exponential(mean_s / streams)
                heapq.heappush(agenda, (next_one, next(counter), None, 0))
            else:
                continue
            stream = dispatcher.create_stream()
            call = Call(stream, samples, due, stream._decoder)  # type: ignore[arg-type]
            calls.append(call)
            heapq.heappush(agenda, (due + min(chunk, len(samples)) / rate, next(counter), call, 0))
            continue
        call.stream.accept_waveform(call.samples[position : position + chunk], rate)
        position += chunk
        if position < len(call.samples):
            end = min(position + chunk, len(call.samples))
            heapq.heappush(agenda, (call.start + end / rate, next(counter), call, position))
        else:
            call.stream.input_finished()
    for call in calls:
        call.stream.wait()
    return calls


def responses(folder: ModelFolder, audio: list[Samples], warmup: float) -> dict[str, Any]:
    """Speech to text, in milliseconds, with five callers on the line, who are silent for a second in the end: what
    flushes a stream at the end of a recording would make its last letter too early."""
    rate = folder.metadata.feature.sample_rate
    audio = [np.pad(samples, (0, rate)) for samples in audio]
    backend = OrtStreamBackend(folder, device="cpu", threads=1)
    ends: dict[Stream, float] = {}

    with Dispatcher(
        backend, folder.metadata, ClockedDecoder(folder.metadata.alphabet), workers=cpu_cores()
    ) as dispatcher:
        create = dispatcher.create_stream

        def create_stream() -> Stream:
            finals: list[Stream] = []

            def told(result: StreamResult) -> None:
                if result.is_final:
                    ends[finals[0]] = time.perf_counter()

            finals.append(create(on_result=told))
            return finals[0]

        dispatcher.create_stream = create_stream  # type: ignore[method-assign, assignment]
        calls = play(dispatcher, audio, 5, 60.0 + warmup)
    first, last, final = [], [], []
    for call in calls:
        spoken = np.flatnonzero([speech for _, speech in judged([call.samples], rate)])
        if len(call.decoded.letters) < 2 or call.stream not in ends or not len(spoken):
            continue
        frame_s = 0.03  # the voice-activity detector's
        first.append(call.decoded.letters[0] - call.start - spoken[0] * frame_s)
        last.append(call.decoded.letters[-1] - call.start - (spoken[-1] + 1) * frame_s)
        final.append(ends[call.stream] - call.start - len(call.samples) / rate)
    answers = {
        name: {f"p{p}": round(1000 * float(np.percentile(values, p)), 1) for p in (50, 90)}
        for name, values in (
            ("first letter after speech begins", first),
            ("last letter after speech ends", last),
            ("final result after the recording ends", final),
        )
    }
    print(f"Five callers, {len(first)} recordings:")
    for name, values in answers.items():
        print(f"  {name}: median {values['p50']:.0f} ms, p90 {values['p90']:.0f} ms")
    return answers | {"recordings": len(first)}


def print_row(row: dict[str, Any]) -> None:
    latency = "  ".join(f"{name} {value:7.1f}" for name, value in row["latency_ms"].items())
    load = f"batch {row['mean_batch']:5.1f}  CPU {row['cpu_share']:4.0%}  host {row['host_share']:4.0%}"
    print(f"{row['way']:10}  {row['chunk_ms']:3d} ms  {row['streams']:3d} streams  {latency}  {load}", flush=True)


if __name__ == "__main__":
    typer.run(main)
