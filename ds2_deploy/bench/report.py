"""What a bench report holds. Its JSON schema is schema.json beside this file."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace

from ds2_deploy.bench.stats import Latency
from ds2_deploy.errors import BenchError
from ds2_deploy.files import read_bytes
from ds2_deploy.structs import INFINITE, as_finite, parse_struct, struct_json

SCHEMA = 1
"""Raised with every change that a reader of older reports would misunderstand."""
Workload = Literal["batch", "utterance", "stream", "load"]


ERROR_RATE = "A fraction, by the language's own metric: of words, of phonemes, or, of Chinese, of characters."
MAX_ABS = (
    "Greatest difference of a log-probability from the reference's, in nats; infinite where one is no number, which "
    f"JSON has as {INFINITE}; null for the reference itself, and for utterances and requests, whose texts are compared."
)


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A backend that is ready to run, in a process of its own."""

    backend: str
    precision: str
    device: str
    runtime: str
    """Its library and version."""
    stream: bool
    chunk_samples: int | None
    """What a step takes of each stream."""
    max_samples: int | None = None
    """Of the longest recording that it takes in one piece; None: of any."""
    file_mb: float
    """Of the graph, the engine or the weights."""
    load_s: float
    build_s: float | None
    """Of an engine, where it says so."""
    host_mb: float
    """Peak of the process while it loaded."""

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One backend at one workload: the columns of the report. Times in milliseconds, memory in megabytes (10^6)."""

    workload: Workload
    backend: str
    precision: str
    device: str
    batch: int
    """Recordings or streams at once; of a load test the most that go together."""
    audio_s: float
    """Of each recording, on average; of a stream's step the chunk."""
    offered: float | None = None
    """Arrivals per second, of a load test."""
    share: float | None = None
    """Of what the reference could serve one by one, that is; None where the caller chose the rate."""
    padding: float
    """Share of the samples that are padding."""
    warm_up: int
    settled: bool = True
    """Whether the warm-up's runs took as long as each other in the end."""
    runs: int
    latency: Latency
    """Of a run: a batch, an utterance from file to text, a step, a request from its arrival to its text."""
    runs_ms: list[list[float]]
    """By turn; of a load test by busy period, from one moment without work to the next."""
    stages: dict[str, float]
    """Mean milliseconds of each part of a run: `audio`, `model`, `text`; on a GPU, of separate runs, `h2d`, `compute`,
    `d2h` and, within computing, `enqueue`, while the host was busy launching; `wait`."""
    utterances_per_s: float
    rtfx: float
    """Seconds of audio per second."""
    wall_s: float
    """All runs together."""
    in_system: float | None = None
    """Requests waiting or under way, on average over the time of a load test, counted as it went."""
    lost: int = 0
    """Of the runs, requests that were not done long after the last one had come: they count with what they had waited
    by then, so that no latency of such a row is less than it says; throughput and stages are of what was done."""
    host_mb: float
    """Peak of the process."""
    device_mb: float | None = None
    max_abs: Annotated[float | None, msgspec.Meta(description=MAX_ABS)] = None
    wer: Annotated[float | None, msgspec.Meta(description=ERROR_RATE)] = None
    wer_difference: float | None = None
    """From the reference's, where the texts are known."""
    wrong_outputs: int = 0
    """Timed runs whose labels, or texts, were not those of the first."""

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"

    @property
    def cell(self) -> str:
        """What was asked, in words."""
        if self.workload == "batch":
            return f"{self.batch} × {self.audio_s:g} s"
        if self.workload == "stream":
            return f"{self.batch} streams, chunks of {self.audio_s * 1000:.0f} ms"
        if self.workload == "load":
            return f"{self.offered:.3g} arrivals/s, batches up to {self.batch}"
        return f"utterances of {self.audio_s:.1f} s"

    @property
    def key(self) -> tuple[object, ...]:
        """What rows of two reports must share to be compared."""
        device = self.device.split(":")[0]
        size = (self.share or self.offered) if self.workload == "load" else self.audio_s
        return self.workload, self.backend, self.precision, device, self.batch, size


class _Versioned(msgspec.Struct, frozen=True):
    """What can be read of a report of any schema."""

    schema: Any


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run of `ds2 bench`. `machine` and `fastest` are what `--backend auto` reads of MODEL/bench.json."""

    schema: int = SCHEMA
    machine: str
    fastest: dict[str, list[str]]
    """Work (`offline`, `stream`) -> backends, the fastest first; empty where the report cannot tell."""
    model: str
    command: str
    started: str
    """ISO 8601, UTC."""
    seconds: float
    partial: bool
    """Ended before its time: what was measured so far."""
    audio: str
    """Where the recordings come from."""
    reference: str
    """What the outputs are compared with."""
    environment: dict[str, Any]
    """At the start; `during` has what changes, after each cell."""
    loaded: list[Loaded]
    not_run: dict[str, str]
    """Backends that cannot run here, and why."""
    rows: list[Row]
    weaknesses: list[str]
    """What a reader should know before believing the figures."""
    failed_checks: list[str]
    """Figures that contradict each other; the report is not to be trusted."""

    def to_json(self) -> bytes:
        rows = [row if row.max_abs is None else replace(row, max_abs=as_finite(row.max_abs)) for row in self.rows]
        return struct_json(replace(self, rows=rows), indent=1).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> "Report":
        """BenchError where it is no report, or one of another schema."""
        content, other = read_bytes(path, BenchError), f"{path} is no bench report"
        schema = parse_struct(content, _Versioned, BenchError, other).schema
        if schema != SCHEMA:
            raise BenchError(f"{path} has schema {schema}, and this ds2 reads {SCHEMA}: measure again.")
        report = parse_struct(content, cls, BenchError, other)
        if not all(row.runs_ms and all(row.runs_ms) for row in report.rows):
            raise BenchError(f"{path} is no bench report: a row of it has no runs.")
        return report
