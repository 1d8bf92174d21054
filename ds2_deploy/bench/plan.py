"""What is measured, and on which sound."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds2_deploy.audio.find import recording_files
from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.bench.report import Workload
from ds2_deploy.bench.worker import Inputs
from ds2_deploy.errors import BenchError
from ds2_deploy.manifest import Entry, lines
from ds2_deploy.text.languages import spelling

BATCHES, SECONDS = (1, 8, 32), (2.0, 5.0, 15.0)
STREAMS = (1, 4, 16, 64)
LOAD_S = 15.0
LOADS = (0.5, 0.8)
"""Arrivals, as shares of what the reference alone could serve one by one."""
MOST_TOGETHER = 16
STREAM_S = 6.0
"""Of sound that streams go through again and again."""
GENERATED_S = (1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0)
SEED = 2026


class Plan(NamedTuple):
    """The cells of a report."""

    workloads: tuple[Workload, ...] = ("batch", "utterance", "stream", "load")
    batches: tuple[int, ...] = BATCHES
    seconds: tuple[float, ...] = SECONDS
    streams: tuple[int, ...] = STREAMS
    loads: tuple[float, ...] = LOADS
    rate: float | None = None
    """Arrivals per second of the load test, in the place of `loads`."""
    cell_s: float = 3.0
    """Of timed runs of each backend in each cell."""
    rounds: int = 5
    """Turns in which the backends follow each other within a cell."""
    load_s: float = LOAD_S

    def longest_s(self, recordings_s: Sequence[float]) -> float:
        """The longest sound that goes through a backend in one piece."""
        cut = self.seconds if "batch" in self.workloads else ()
        whole = recordings_s if {"utterance", "load"} & set(self.workloads) else ()
        return max([*cut, *whole], default=0.0)


class Sound(NamedTuple):
    """Recordings to measure with."""

    source: str
    paths: list[Path]
    """Empty where they are generated."""
    texts: list[str | None]
    """What is said in them in the language's spelling, where somebody wrote it down."""
    samples: list[Samples]


def real_sound(source: Path, sample_rate: int, most: int, language: str) -> Sound:
    """Recordings of a manifest, a folder or a file: at most `most`, evenly spread over it."""
    texts: list[str | None]
    if source.suffix == ".jsonl":
        entries = [entry for _, entry in lines(source, Entry)]
        paths = [entry.path(source) for entry in entries]
        texts = [None if entry.text is None else spelling(entry.text, language) for entry in entries]
    else:
        paths = recording_files(source)
        texts = [None] * len(paths)
    chosen = [round(i) for i in np.linspace(0, len(paths) - 1, min(most, len(paths)))]
    samples = [load_audio(paths[i], sample_rate) for i in chosen]
    if not any(map(len, samples)):
        raise BenchError(f"{source} holds no sound to measure with.")
    return Sound(os.fspath(source), [paths[i] for i in chosen], [texts[i] for i in chosen], samples)


def generated_sound(sample_rate: int) -> Sound:
    """Shaped like speech: a voice of harmonics that glides, in syllables, with pauses and a little noise."""
    rng = np.random.default_rng(SEED)
    samples = [_syllables(round(seconds * sample_rate), sample_rate, rng) for seconds in GENERATED_S]
    return Sound("generated", [], [None] * len(samples), samples)


def _syllables(count: int, sample_rate: int, rng: np.random.Generator) -> Samples:
    time = np.arange(count) / sample_rate
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.4 * time + rng.uniform(0, 6)) + 8 * np.sin(2 * np.pi * 2.3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    formant = 700 + 400 * np.sin(2 * np.pi * 1.7 * time + rng.uniform(0, 6))
    voice = sum(
        np.exp(-(((n * pitch - formant) / 500) ** 2)) * np.sin(n * phase) / n**0.5 for n in range(1, 30)
    )  # harmonics, louder near the formant
    loudness = np.clip(np.sin(2 * np.pi * 2 * time + rng.uniform(0, 6)) + 0.4, 0, None) ** 0.5
    sound: Samples = (0.1 * voice * loudness + rng.normal(0, 1e-3, count)).astype(np.float32)
    return sound


def cut(samples: Sequence[Samples], batch: int, length: int) -> Inputs:
    """`batch` recordings of `length` samples each, out of the sound read round and round: (B, S) without padding."""
    joined = np.concatenate(samples)
    repeated = np.resize(joined, batch * length).reshape(batch, length)
    return Inputs(repeated, np.full(batch, length, np.int64))


def chunks(samples: Sequence[Samples], streams: int, chunk: int, sample_rate: int) -> Inputs:
    """(n, B, C) whole chunks of B streams, each somewhere else in the sound."""
    count = max(round(STREAM_S * sample_rate / chunk), 1)
    rows = cut(samples, streams, count * chunk).audio  # (B, n C)
    return Inputs(
        np.ascontiguousarray(rows.reshape(streams, count, chunk).swapaxes(0, 1)), np.full(streams, chunk, np.int64)
    )


def in_turns(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """An order for each round, so that no backend is always the first."""
    for number in range(rounds):
        shift = number % len(names)
        order = [*names[shift:], *names[:shift]]
        yield order if number // len(names) % 2 == 0 else order[::-1]
