"""How soon a training of a million utterances can start, and what it costs in memory, here and in each worker.

    python benchmarks/long/corpus_start.py [--utterances 1000000] [--save]

Writes a manifest of that many lines with texts as long as LibriSpeech's, all of one recording, in a temporary folder.
Then measures: reading and checking every line, the order of an epoch, and two workers that prepare batches. A worker's
memory is what it holds alone (USS), beside the same of a corpus of 5,000 utterances.
--save writes benchmarks/results/corpus_start.json.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import soundfile
import typer

sys.path.insert(0, str(Path(__file__).parent.parent))
from machine import machine, save_result

from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.text.alphabet import ENGLISH
from training.corpus import Corpus, ctc_fits, survey
from training.data import Speech, train_loader
from training.distributed import Processes
from training.recipe import Recipe
from training.sampler import BatchSampler

WORDS = "the of and to a in that he was it his with is for as had you not be on at by her which have from this but"
BATCHES = 50


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One size of corpus; megabytes are of a million bytes."""

    utterances: int
    manifest_mb: float
    survey_s: float
    """Reading and checking every line."""
    survey_mb: float
    """What the process has grown by."""
    epoch_s: float
    """Sorting, packing and shuffling an epoch's batches."""
    first_batch_s: float
    """From asking two fresh workers to their first batch."""
    worker_mb: dict[str, float]
    """What a worker holds alone after some batches, by how it was started."""


def write_manifest(folder: Path, utterances: int) -> Path:
    rng = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", 0.1 * rng.standard_normal(16000), 16000)
    words = WORDS.split()
    texts = [" ".join(rng.choice(words, 34)) for _ in range(1000)]  # 180 letters, as in LibriSpeech
    path = folder / f"{utterances}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(utterances):
            line = {"audio_filepath": "a.wav", "duration": 5 + i % 1000 / 100, "text": texts[i % 1000], "speaker": "1"}
            file.write(json.dumps(line) + "\n")
    return path


def measured(folder: Path, utterances: int) -> Start:
    manifest, metadata = write_manifest(folder, utterances), ModelMetadata()
    before, started = private_mb("self"), time.perf_counter()
    corpus = survey([manifest], "en", ENGLISH, ctc_fits(metadata.feature, metadata.model)).corpus
    surveyed, grown = time.perf_counter() - started, private_mb("self") - before
    recipe = Recipe(name="start", batch_size=32, batch_seconds=300.0)
    sampler = BatchSampler(corpus.durations_s, recipe, Processes())
    sampler.epoch, started = 2, time.perf_counter()
    sampler.batches()
    epoch_s = time.perf_counter() - started
    first, workers = zip(*(worker_mb(corpus, metadata, sampler, method) for method in ("fork", "spawn")), strict=True)
    return Start(
        utterances=utterances,
        manifest_mb=round(manifest.stat().st_size / 1e6, 1),
        survey_s=round(surveyed, 2),
        survey_mb=round(grown, 1),
        epoch_s=round(epoch_s, 2),
        first_batch_s=round(first[0], 2),
        worker_mb={"fork": round(workers[0], 1), "spawn": round(workers[1], 1)},
    )


def worker_mb(corpus: Corpus, metadata: ModelMetadata, sampler: BatchSampler, method: str) -> tuple[float, float]:
    """Seconds to the first batch, and what the larger of two workers holds after BATCHES of them."""
    loader = train_loader(Speech(corpus, metadata, None, 1), sampler, 2, method)
    started = time.perf_counter()
    batches: Iterator[Any] = iter(loader)
    next(batches)
    first_s = time.perf_counter() - started
    for _ in range(BATCHES):
        next(batches)
    held = [private_mb(str(worker.pid)) for worker in batches._workers]  # type: ignore[attr-defined]
    return first_s, max(held)


def private_mb(process: str) -> float:
    """Megabytes of pages that no other process shares (USS)."""
    lines = Path("/proc", process, "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def main(
    utterances: int = 1_000_000,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/corpus_start.json.")] = False,
) -> None:
    """Measure a small and a large corpus."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (5_000, utterances):
            rows.append(measured(Path(folder), size))
            print(msgspec.json.encode(rows[-1]).decode(), flush=True)
    if save:
        save_result("corpus_start", {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    typer.run(main)
