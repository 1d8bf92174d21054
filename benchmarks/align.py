"""How well `ds2 align` finds a text in a recording: recordings of AN4 one after the other, of which the ends are known.

    python benchmarks/align.py [MODEL] [--split valid] [--save]

Every tenth text is another recording's, which is to be dropped. Reported: of the right texts, the share that is kept
and lies within its own recording and the silences beside it, to a tenth of a second; of the wrong ones the share that
is dropped; for several limits of the score. The same where all of it is one text without punctuation, which is cut: a
piece with a word of a wrong text is wrong, and the others are to lie within the recordings of their words. --save
writes benchmarks/results/align.json.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import typer
from machine import data, machine, save_result

from ds2_deploy.audio.load import load_audio
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model_folder import open_model
from ds2_deploy.runtime import open_backend
from training.align import AlignedPassage, align, hear

SEED, SILENCE_S, TOLERANCE_S = 2026, (0.3, 1.5), 0.1
MAX_SECONDS = 20.0
LIMITS = (-0.5, -1.0, -1.5, -2.0, -3.0, -4.0)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """In sentences, or unbroken and cut."""
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
    sound = hear(backend, folder.metadata, [samples])
    ends = [place[1] for place in places[1:]] + [now]
    rows = []
    for kind, text in (("sentences", told), ("unbroken", [" ".join(told)])):
        placed = align(sound, text, folder.metadata.alphabet, MAX_SECONDS)
        found = [*judged(placed, told, wrong, [place[0] for place in places], ends)]
        rows += [count(kind, limit, found) for limit in LIMITS]
    for row in rows:
        print(msgspec.json.encode(row).decode())
    if save:
        save_result("align", {"machine": machine(), "model": model, "split": split, "audio_s": now, "rows": rows})


class Piece(NamedTuple):
    score: float
    right: bool
    in_place: bool
    """Between the end of the recording before its first word's and the begin of the one after its last word's."""


def judged(
    placed: Sequence[AlignedPassage],
    told: Sequence[str],
    wrong: set[int],
    earliest_s: Sequence[float],
    latest_s: Sequence[float],
) -> Iterator[Piece]:
    """Which of the recordings a passage's words are of decides what it should be."""
    words = iter([i for i, text in enumerate(told) for _ in text.split()])
    for passage in placed:
        own = [next(words) for _ in passage.text.split()]
        begins = earliest_s[own[0]] - TOLERANCE_S <= passage.start_s
        ends = passage.end_s <= latest_s[own[-1]] + TOLERANCE_S
        yield Piece(passage.score, wrong.isdisjoint(own), begins and ends)


def count(kind: str, limit: float, found: Sequence[Piece]) -> Row:
    kept = [piece for piece in found if piece.score >= limit and piece.right]
    wrong = [piece for piece in found if not piece.right]
    return Row(
        text=kind,
        min_score=limit,
        right=len(found) - len(wrong),
        right_kept=len(kept),
        right_in_place=sum(piece.in_place for piece in kept),
        wrong=len(wrong),
        wrong_dropped=sum(piece.score < limit for piece in wrong),
    )


if __name__ == "__main__":
    typer.run(main)
