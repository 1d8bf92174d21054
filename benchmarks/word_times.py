"""How well words are placed and how much their confidences are worth.

    python benchmarks/word_times.py [MODEL...] [--save]

Times: recordings of single digits (DS2_DATA/digits/test.jsonl) one after the other, with silences between them, so
that each word's begin and end are known; the decoder's are compared with them where it heard the right word.
Confidences: of the words of DS2_DATA/an4/valid.jsonl, how often a right one is surer than a wrong one (the area under
the ROC curve: 0.5 is chance), and how sure right and wrong ones are. --save writes benchmarks/results/word_times.json.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from machine import by_speaker, data, machine, save_result

from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.decoding.search import BeamConfig
from ds2_deploy.manifest import Utterance, read_manifest
from ds2_deploy.metrics import align_tokens
from ds2_deploy.recognizer import Recognizer

SEED, DIGITS_EACH, RECORDINGS = 2026, 5, 60
SILENCE_S = (0.15, 0.5)
FLOOR = 1e-4
"""Standard deviation of the noise between words: a telephone's silence is not digital."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from a word's own begin or end to the decoder's: above zero is late."""

    decoder: str
    words: int
    heard: int
    begin_p10: float
    begin_median: float
    begin_p90: float
    end_p10: float
    end_median: float
    end_p90: float


class Confidences(msgspec.Struct, frozen=True, kw_only=True):
    decoder: str
    right: int
    wrong: int
    right_median: float
    wrong_median: float
    roc_area: float


def sequences(utterances: Sequence[Utterance], rate: int) -> list[tuple[Samples, list[tuple[str, float, float]]]]:
    """Recordings of several digits of a speaker: samples, and word, begin and end in seconds of each."""
    draw, rng = random.Random(SEED), np.random.default_rng(SEED)
    speakers = by_speaker(utterances)
    made = []
    for number in range(RECORDINGS):
        spoken = draw.sample(speakers[sorted(speakers)[number % len(speakers)]], DIGITS_EACH)
        pieces, words, now = [], [], 0
        for utterance in spoken:
            silence = int(draw.uniform(*SILENCE_S) * rate)
            audio = load_audio(utterance.path, rate)
            pieces += [np.zeros(silence, np.float32), audio]
            words.append((utterance.text, (now + silence) / rate, (now + silence + len(audio)) / rate))
            now += silence + len(audio)
        samples = np.concatenate([*pieces, np.zeros(int(SILENCE_S[1] * rate), np.float32)])
        samples += FLOOR * rng.standard_normal(len(samples)).astype(np.float32)
        made.append((samples, words))
    return made


def times(recognizer: Recognizer, name: str, corpora: Path) -> Times:
    rate = recognizer.metadata.feature.sample_rate
    made = sequences(read_manifest(corpora / "digits" / "test.jsonl"), rate)
    begins: list[float] = []
    ends: list[float] = []
    for result, (_, words) in zip(recognizer.transcribe([samples for samples, _ in made]), made, strict=True):
        spoken, heard = [word for word, _, _ in words], [word.word for word in result.words]
        for i, j in align_tokens(spoken, heard):
            if i is not None and j is not None and spoken[i] == heard[j]:
                begins.append(1000 * (result.words[j].start_s - words[i][1]))
                ends.append(1000 * (result.words[j].end_s - words[i][2]))
    begin, end = ([round(float(v)) for v in np.percentile(x, (10, 50, 90))] for x in (begins, ends))
    return Times(
        decoder=name,
        words=sum(len(words) for _, words in made),
        heard=len(begins),
        begin_p10=begin[0],
        begin_median=begin[1],
        begin_p90=begin[2],
        end_p10=end[0],
        end_median=end[1],
        end_p90=end[2],
    )


def confidences(recognizer: Recognizer, name: str, corpora: Path) -> Confidences:
    utterances = read_manifest(corpora / "an4" / "valid.jsonl")
    right: list[float] = []
    wrong: list[float] = []
    for result, utterance in zip(recognizer.transcribe([u.path for u in utterances]), utterances, strict=True):
        spoken, heard = utterance.text.split(), [word.word for word in result.words]
        for i, j in align_tokens(spoken, heard):
            if j is not None:
                is_right = i is not None and spoken[i] == heard[j]
                (right if is_right else wrong).append(result.words[j].confidence)
    surer = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    return Confidences(
        decoder=name,
        right=len(right),
        wrong=len(wrong),
        right_median=round(float(np.median(right)), 3),
        wrong_median=round(float(np.median(wrong)), 3),
        roc_area=round(float(np.mean(surer)), 3),
    )


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Bundled models or folders.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/word_times.json.")] = False,
) -> None:
    """Measure word times and confidences."""
    corpora = data()
    rows: list[Times | Confidences] = []
    for model in models or ["default", "streaming"]:
        for decoder in ("greedy", BeamConfig()):
            recognizer = Recognizer.open(model, decoder=decoder)
            name = f"{model}, {'greedy' if decoder == 'greedy' else 'beam'}"
            for measure in (times, confidences):
                rows.append(measure(recognizer, name, corpora))
                print(msgspec.json.encode(rows[-1]).decode(), flush=True)
    if save:
        save_result("word_times", {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    typer.run(main)
