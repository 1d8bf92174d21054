"""What a recorded result says about where it was measured; and which recordings are measured on."""

import itertools
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import typer

from ds2_deploy.audio.find import recording_files
from ds2_deploy.extras import require
from ds2_deploy.files import atomic_path
from ds2_deploy.manifest import Utterance, read_manifest
from ds2_deploy.runtime.bench_choice import processor_name
from ds2_deploy.runtime.devices import cpu_cores

RESULTS = Path(__file__).parent / "results"
SAMPLES = Path(__file__).parent.parent / "samples"

T = TypeVar("T")


def machine() -> dict[str, Any]:
    return {
        "cpu": processor_name(),
        "cores": cpu_cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "onnxruntime": require("onnxruntime").__version__,
    }


def data() -> Path:
    """The folder of the corpora, which DS2_DATA names; without one the call ends with a sentence."""
    named = os.environ.get("DS2_DATA")
    if not named or not Path(named).is_dir():
        raise typer.BadParameter("The environment variable DS2_DATA must name the folder of the corpora.")
    return Path(named).absolute()


def default_source() -> Path:
    """AN4's test set where DS2_DATA names it, else the samples."""
    return data() / "an4" / "test.jsonl" if os.environ.get("DS2_DATA") else SAMPLES


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many of `items`, evenly spread over them; all, each once, where they are no more."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def part_of(manifest: Path, count: int, path: Path) -> Path:
    """Write to `path` the manifest of so many utterances of `manifest`, evenly spread."""
    lines = [line for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    chosen = [json.loads(line) for line in spread(lines, count)]
    entries = [json.dumps(e | {"audio_filepath": str(manifest.parent / e["audio_filepath"])}) + "\n" for e in chosen]
    with atomic_path(path) as temporary:  # others may be reading it
        temporary.write_text("".join(entries), encoding="utf-8")
    return path


def by_speaker(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """What each speaker says, both in the order of the manifest."""
    speakers: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        speakers[utterance.speaker].append(utterance)
    return speakers


def recordings(source: Path) -> list[Path]:
    """The audio files that a manifest names, or that lie anywhere below a folder; or the file itself."""
    return [u.path for u in read_manifest(source)] if source.suffix == ".jsonl" else recording_files(source)


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after a round that warms caches up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number, (name, way) in itertools.product(range(rounds + 1), ways.items()):
        start = time.perf_counter()
        way()
        if number:
            seconds[name].append(time.perf_counter() - start)
    return seconds


def save_result(name: str, result: Any, folder: Path = RESULTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
