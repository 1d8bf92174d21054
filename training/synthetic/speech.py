"""Texts spoken by synthesizers, as a corpus: Opus files and a manifest."""

import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from ds2_deploy.audio.load import load_audio
from ds2_deploy.manifest import read_texts
from ds2_deploy.runtime.devices import cpu_cores
from training.corpora.build import write_manifest
from training.corpora.check import ManifestLine
from training.synthetic.texts import Texts, spoken
from training.synthetic.voices import SHARES, Task, check_installed, speak

RATE = 16_000
BATCH = 40
"""Recordings per call of festival, which takes a second to start."""
PEAK = 0.5
OPUS = 0.93
"""soundfile's compression level: about 24 kbit/s."""


def an4_texts(count: int, seed: int, transcripts: Path | None = None) -> list[str]:
    """`count` texts in the manner of AN4: three in ten are transcripts of its training set, in other voices."""
    drawn, draw = Texts(seed), random.Random(seed)
    known = read_texts(transcripts) if transcripts else []
    return [draw.choice(known) if known and draw.random() < 0.3 else drawn.draw() for _ in range(count)]


def write_speech(folder: Path, texts: Sequence[str], seed: int, *, spelled: bool) -> None:
    """`folder`/audio and `folder`/manifest.jsonl; `spelled` texts hold single letters, said by their names."""
    check_installed()
    audio = folder / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    engines = draw.choices(list(SHARES), list(SHARES.values()), k=len(texts))
    jobs: list[tuple[str, list[int]]] = []
    for engine in SHARES:
        mine = [index for index, other in enumerate(engines) if other == engine]
        jobs += [(engine, mine[start : start + BATCH]) for start in range(0, len(mine), BATCH)]

    def work(job: tuple[str, list[int]]) -> list[ManifestLine]:
        engine, indices = job
        with tempfile.TemporaryDirectory() as scratch:
            tasks = [
                Task(spoken(texts[i]) if spelled else texts[i], Path(scratch) / f"{i}.wav", seed * 1_000_003 + i)
                for i in indices
            ]
            speak(engine, tasks)
            return [
                _written(task, texts[i], audio / f"{i:05}.opus", engine) for i, task in zip(indices, tasks, strict=True)
            ]

    with ThreadPoolExecutor(cpu_cores()) as pool:
        made = [utterance for found in pool.map(work, jobs) for utterance in found]
    write_manifest(folder / "manifest.jsonl", sorted(made, key=lambda utterance: utterance.audio))


def _written(task: Task, text: str, path: Path, engine: str) -> ManifestLine:
    speech = prepared(load_audio(task.path, RATE), np.random.default_rng(task.seed))
    soundfile.write(path, speech, RATE, format="OGG", subtype="OPUS", compression_level=OPUS)
    return ManifestLine(audio=str(path.absolute()), duration_s=round(len(speech) / RATE, 3), text=text, speaker=engine)


def prepared(speech: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Without the synthesizer's own silence, at one peak, with drawn pauses of near-silence around it."""
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max(initial=1e-9))
    speech = speech[loud[0] : loud[-1] + 1] if len(loud) else speech
    before, after = (int(RATE * rng.uniform(0.05, 0.4)) for _ in range(2))
    padded = np.pad(speech / max(float(np.abs(speech).max(initial=0)), 1e-9) * PEAK, (before, after))
    hiss = rng.standard_normal(len(padded)) * 10 ** rng.uniform(-4.5, -2.5)  # no room is as silent as a program
    result: npt.NDArray[np.float32] = (padded + hiss).astype(np.float32)
    return result
