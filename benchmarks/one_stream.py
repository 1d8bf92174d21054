"""Whether a stream hears its tenth utterance as well as its first.

    python benchmarks/one_stream.py [streaming | MODEL] [--split test] [--save]

The recordings of each speaker of AN4 (DS2_DATA) one after the other in one stream, so many a stream, with pauses of
noise as loud as the quietest of the recording before. Word errors of all that the stream makes final, with its usual
endpoints. --save writes benchmarks/results/one_stream.json.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from machine import by_speaker, data, machine, save_result

from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.manifest import Utterance, read_manifest
from ds2_deploy.metrics import Errors
from ds2_deploy.recognizer import Recognizer
from training.augment import one_after_the_other

RATE, SEED = 16000, 2026
CASES = ((1, 0.0), (2, 0.7), (4, 0.2), (4, 0.7), (4, 3.0), (20, 0.7))
"""Recordings in a stream, and the seconds between them; a speaker of AN4 has 13 or less."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    recordings: int
    """In a stream, at most."""
    pause_s: float
    seconds: float
    """Of the longest stream."""
    word_errors: int
    words: int
    wer: float


def streams(utterances: Sequence[Utterance], most: int) -> list[list[Utterance]]:
    """What is said in each stream, a speaker each."""
    speakers = by_speaker(utterances).values()
    return [said[begin : begin + most] for said in speakers for begin in range(0, len(said), most)]


def heard(recognizer: Recognizer, samples: Samples) -> str:
    stream = recognizer.create_stream()
    stream.accept_waveform(samples, RATE)
    stream.input_finished()
    finals = stream.take_finals()
    stream.close()
    return " ".join(final.text for final in finals)


def row(recognizer: Recognizer, utterances: Sequence[Utterance], most: int, pause_s: float) -> Row:
    errors, longest = [], 0
    for number, said in enumerate(streams(utterances, most)):
        recordings = [load_audio(utterance.path, RATE) for utterance in said]
        samples = one_after_the_other(recordings, [pause_s] * (len(said) - 1), RATE, (SEED, most, number))
        longest = max(longest, len(samples))
        text = " ".join(utterance.text.lower() for utterance in said)
        errors.append(Errors.between(text, heard(recognizer, samples)))
    total = Errors.total(errors)
    return Row(
        recordings=most, pause_s=pause_s, seconds=round(longest / RATE, 1),
        word_errors=total.word_errors, words=total.words, wer=round(total.wer, 4),
    )  # fmt: skip


def main(
    model: Annotated[str, typer.Argument()] = "streaming",
    split: Annotated[str, typer.Option()] = "test",
    save: Annotated[bool, typer.Option("--save")] = False,
) -> None:
    utterances = read_manifest(data() / "an4" / f"{split}.jsonl")
    recognizer = Recognizer.open(model)
    print("| recordings in a stream | pause | longest stream | words wrong | WER |\n|---|---|---|---|---|")
    rows = []
    for most, pause_s in CASES:
        rows.append(r := row(recognizer, utterances, most, pause_s))
        wrong = f"{r.word_errors} of {r.words}"
        print(f"| {most} | {pause_s:g} s | {r.seconds:.0f} s | {wrong} | {r.wer:.1%} |", flush=True)
    if save:
        save_result("one_stream", {"machine": machine(), "model": model, "split": split, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
