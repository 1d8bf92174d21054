"""How well `ds2 align` finds a text in a recording: recordings of AN4 one after the other, of which the ends are known.

    python benchmarks/align.py [MODEL] [--split valid] [--save]

Every tenth text is another recording's, which is to be dropped. Reported: of the right texts, the share that is kept
and lies within its own recording and the silences beside it, to a tenth of a second; of the wrong ones the share that
is dropped; for several limits of the score. --save writes benchmarks/results/align.json.
"""

import random
from typing import Annotated

import msgspec
import numpy as np
import typer
from machine import data, machine, save_result

from ds2_deploy.audio.load import load_audio
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model_folder import open_model
from ds2_deploy.runtime import open_backend
from training.align import Passage, align, hear

SEED, SILENCE_S, TOLERANCE_S = 2026, (0.3, 1.5), 0.1
LIMITS = (-0.5, -1.0, -1.5, -2.0, -3.0, -4.0)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    min_score: float
    right: int
    right_kept: int
    right_in_place: int
    """Of those kept."""
    wrong: int
    wrong_dropped: int


def main(
    model: Annotated[str, typer.Argument(help="A bundled model or a folder.")] = "default",
    split: Annotated[str, typer.Option(help="Of AN4; limits are chosen on valid.")] = "valid",
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/align.json.")] = False,
) -> None:
    """Align and count."""
    folder = open_model(model)
    rate = folder.metadata.feature.sample_rate
    draw, rng = random.Random(SEED), np.random.default_rng(SEED)
    utterances = read_manifest(data() / "an4" / f"{split}.jsonl")
    draw.shuffle(utterances)
    pieces, places, now = [], [], 0.0
    for utterance in utterances:
        audio = load_audio(utterance.path, rate)
        silence = draw.uniform(*SILENCE_S)
        pieces += [np.zeros(int(silence * rate), np.float32), audio]
        places.append((now, now + silence, now + silence + len(audio) / rate))  # silence, begin, end
        now += silence + len(audio) / rate
    samples = np.concatenate(pieces)
    samples += 1e-4 * rng.standard_normal(len(samples)).astype(np.float32)
    texts = [utterance.text for utterance in utterances]
    wrong = set(range(5, len(texts), 10))
    told = [texts[(i + 3) % len(texts)] if i in wrong else text for i, text in enumerate(texts)]
    backend = open_backend("auto", folder, device="cpu", precision="fp32", threads=1)
    placed = align(hear(backend, folder.metadata, [samples]), told, folder.metadata.alphabet)
    ends = [place[1] for place in places[1:]] + [now]
    rows = []
    for limit in LIMITS:
        kept = [i for i, passage in enumerate(placed) if passage.score >= limit]
        right = [i for i in kept if i not in wrong]
        rows.append(
            Row(
                min_score=limit,
                right=len(texts) - len(wrong),
                right_kept=len(right),
                right_in_place=sum(in_place(placed[i], places[i][0], ends[i]) for i in right),
                wrong=len(wrong),
                wrong_dropped=len(wrong) - (len(kept) - len(right)),
            )
        )
        print(msgspec.json.encode(rows[-1]).decode())
    if save:
        save_result("align", {"machine": machine(), "model": model, "split": split, "audio_s": now, "rows": rows})


def in_place(passage: Passage, earliest_s: float, latest_s: float) -> bool:
    """Between the end of the recording before and the begin of the one after."""
    return earliest_s - TOLERANCE_S <= passage.start_s and passage.end_s <= latest_s + TOLERANCE_S


if __name__ == "__main__":
    typer.run(main)
