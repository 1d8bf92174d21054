"""How a call's channels, each of which is silent while the other speaks, are best cut.

    python benchmarks/calls.py [--split valid] [--save]

Calls of eight turns by two speakers of AN4 (DS2_DATA), who pause for 0.2 to 1.5 s; where one speaks the other's channel
has noise at -80 dB. Word errors of the bundled `default` against the longest piece that goes through it at once
(`--max-segment-seconds`). --save writes benchmarks/results/calls.json.
"""

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import typer
from machine import by_speaker, data, machine, save_result

from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.manifest import Utterance, read_manifest
from ds2_deploy.metrics import Errors
from ds2_deploy.recognizer import Recognizer

RATE, TURNS, SEED = 16000, 8, 2026
LONGEST_S = (5.0, 10.0, 20.0, 30.0, 60.0)


class Spoken(NamedTuple):
    """One channel of a call."""

    samples: Samples
    text: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    longest_s: float
    word_errors: int
    words: int
    wer: float


def calls(utterances: list[Utterance], rng: np.random.Generator) -> list[Spoken]:
    """The channels of calls between each two speakers."""
    speakers = by_speaker(utterances)
    names = sorted(speakers)
    found: list[Spoken] = []
    for pair in zip(names[::2], names[1::2], strict=False):
        turns = [(channel, utterance) for channel, name in enumerate(pair) for utterance in speakers[name]]
        order = rng.permutation(len(turns))
        for begin in range(0, len(turns), TURNS):
            found += call([turns[i] for i in order[begin : begin + TURNS]], rng)
    return found


def call(turns: list[tuple[int, Utterance]], rng: np.random.Generator) -> list[Spoken]:
    sound: list[list[Samples]] = [[], []]
    texts: list[list[str]] = [[], []]
    for channel, utterance in turns:
        speech = load_audio(utterance.path, RATE)
        pause = round(RATE * rng.uniform(0.2, 1.5))
        for own in (0, 1):
            noise = rng.normal(0, 1e-4, len(speech) + pause).astype(np.float32)
            noise[: len(speech)] += speech if own == channel else 0.0
            sound[own].append(noise)
        texts[channel].append(utterance.text.lower())
    return [Spoken(np.concatenate(sound[own]), " ".join(texts[own])) for own in (0, 1)]


def row(channels: list[Spoken], longest_s: float) -> Row:
    recognizer = Recognizer.open("default", max_segment_s=longest_s)
    heard = recognizer.recognize([spoken.samples for spoken in channels])
    found = zip(channels, heard, strict=True)
    errors = Errors.total(Errors.between(spoken.text, hypothesis.text) for spoken, hypothesis in found)
    return Row(longest_s=longest_s, word_errors=errors.word_errors, words=errors.words, wer=round(errors.wer, 4))


def main(
    split: Annotated[str, typer.Option()] = "valid", save: Annotated[bool, typer.Option("--save")] = False
) -> None:
    utterances = read_manifest(data() / "an4" / f"{split}.jsonl")
    channels = calls(utterances, np.random.default_rng(SEED))
    seconds = sum(len(spoken.samples) for spoken in channels) / RATE / len(channels)
    print(f"{len(channels)} channels of {seconds:.0f} s each\n\n| longest piece | words wrong | WER |\n|---|---|---|")
    rows = [row(channels, longest_s) for longest_s in LONGEST_S]
    for r in rows:
        print(f"| {r.longest_s:g} s | {r.word_errors} of {r.words} | {r.wer:.1%} |")
    if save:
        save_result("calls", {"machine": machine(), "split": split, "seconds": round(seconds, 1), "rows": rows})


if __name__ == "__main__":
    typer.run(main)
