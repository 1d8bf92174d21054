"""What a model hears, under which conditions: the tables and the picture of a model card.

    python benchmarks/model_report.py MODEL --manifest an4=M.jsonl [--manifest digits=D.jsonl] [--babble B.jsonl]
        [--decoder greedy]... [--run RUN]... [--save]

Every manifest is read clean, in noise of 20, 10 and 5 dB (white, pink and, of the recordings of --babble, several
people at once, in turn), through a telephone, as MP3 of 32 kbit/s, slower, faster, 30 dB quieter and with 1.5 s of
silence before and after, in FP32, greedily or by each --decoder (`beam` takes the language model that MODEL has).
Where MODEL has an FP16 graph, its frames and words are compared.
--run draws the curves of the trainings, one after the other, as curve.svg. --save writes
benchmarks/results/model-NAME.json and model-NAME.md.
"""

import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import soundfile
import typer
from machine import RESULTS, machine, save_result

from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.extras import require
from ds2_deploy.manifest import read_manifest
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.metrics import Errors, bootstrap_interval
from ds2_deploy.model.checkpoint import Checkpoint
from ds2_deploy.model_folder import open_model
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.runtime import open_backend
from ds2_deploy.runtime.protocol import run_alone
from ds2_deploy.runtime.torch_backend import TorchBackend
from ds2_deploy.text.languages import language_named
from training.augment import by_telephone, change_level, change_speed, mixed
from training.run_folder import read_log
from training.synthetic.noise import RATE, SECONDS, babble, coloured

SEED = 7
"""Of the noise; those that trainings hear have others."""
MP3_32 = 1 - (32 - 8) / (160 - 8)
"""soundfile's compression level for 32 kbit/s of the 8 to 160 that MPEG-2 layer III has."""
NOISES_EACH = 4
SILENCE_S = 1.5
"""Digital silence, before and again after."""
Condition = Callable[[Samples, int], Samples]
"""(recording (S,), its number) -> the same recording under other conditions."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest under one condition; rates are fractions."""

    corpus: str
    decoder: str
    condition: str
    wer: float
    wer_low: float
    wer_high: float
    word_errors: int
    words: int
    cer: float


class Halves(msgspec.Struct, frozen=True, kw_only=True):
    """FP16 beside FP32 on all recordings together."""

    frames: int
    equal_frames: float
    """Share of the frames whose most probable label is the same."""
    different_words: int
    """Word edits between the two transcripts."""
    words: int
    largest: float
    """Difference of log-probabilities, in nats."""


def noisy(noises: Sequence[Samples], snr_db: float) -> Condition:
    def apply(audio: Samples, number: int) -> Samples:
        noise = noises[number % len(noises)]
        start = (number * 7919) % (len(noise) // 2)
        return mixed(audio, np.resize(noise[start:], len(audio)), snr_db)

    return apply


def as_mp3(audio: Samples, _: int) -> Samples:
    """To MP3 of 32 kbit/s and back."""
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=MP3_32)
    file.seek(0)
    return load_audio(file, RATE)


def quieter(audio: Samples, _: int) -> Samples:
    """By 30 dB, in 16 bits."""
    return (np.round(change_level(audio, -30.0) * 32768) / 32768).astype(np.float32)


def conditions(speakers: Sequence[Path]) -> dict[str, Condition]:
    makers: list[Callable[[np.random.Generator], Any]] = [
        lambda rng: coloured(rng, SECONDS * RATE, 0.0),
        lambda rng: coloured(rng, SECONDS * RATE, 1.0),
    ]
    if speakers:
        makers.append(lambda rng: babble(rng, SECONDS * RATE, speakers))
    noises = [
        make(np.random.default_rng((SEED, kind, number))).astype(np.float32)
        for number in range(NOISES_EACH)
        for kind, make in enumerate(makers)
    ]
    return {
        "clean": lambda audio, _: audio,
        **{f"noise {snr} dB": noisy(noises, snr) for snr in (20, 10, 5)},
        "telephone, 8 kHz": lambda audio, _: by_telephone(audio, RATE),
        "MP3, 32 kbit/s": as_mp3,
        "speed × 0.8": lambda audio, _: change_speed(audio, 0.8),
        "speed × 1.2": lambda audio, _: change_speed(audio, 1.2),
        "30 dB quieter": quieter,
        "silence around": lambda audio, _: np.pad(audio, int(SILENCE_S * RATE)),
    }


def measured(
    recognizer: Recognizer, corpus: str, name: str, texts: list[str], audio: list[Samples], decoder: str = "greedy"
) -> Row:
    """Error rates of recordings in memory; `decoder` is the recognizer's, by name."""
    errors = [
        Errors.between(text, hypothesis.text)
        for text, hypothesis in zip(texts, recognizer.recognize(audio), strict=True)
    ]
    total = Errors.total(errors)
    low, high = bootstrap_interval([(e.word_errors, e.words) for e in errors])
    return Row(
        corpus=corpus,
        decoder=decoder,
        condition=name,
        wer=total.wer,
        wer_low=low,
        wer_high=high,
        word_errors=total.word_errors,
        words=total.words,
        cer=total.cer,
    )


def spoken(manifest: Path, metadata: ModelMetadata) -> tuple[list[str], list[Samples]]:
    """What a manifest's recordings say, as the model's language writes it, and their samples at its rate."""
    utterances, normalize = read_manifest(manifest), language_named(metadata.language).normalize
    texts = [normalize(utterance.text) for utterance in utterances]
    return texts, [load_audio(utterance.path, metadata.feature.sample_rate) for utterance in utterances]


def recognizer_of(checkpoint: Checkpoint) -> Recognizer:
    """A network in PyTorch, decoded greedily."""
    backend, decoder = TorchBackend.of(checkpoint.model()), GreedyDecoder(checkpoint.metadata.alphabet)
    return Recognizer(metadata=checkpoint.metadata, backend=backend, decoder=decoder)


def halves(model: str, recordings: list[Samples]) -> Halves | None:
    """None where the model has no FP16 graph."""
    folder = open_model(model)
    if not (folder.path / "model.fp16.onnx").exists():
        return None
    recognizers = [Recognizer.open(model, precision=precision) for precision in ("fp32", "fp16")]
    backends = [open_backend("onnxruntime", folder, precision=precision) for precision in ("fp32", "fp16")]
    frames = equal = 0
    largest = 0.0
    for audio in recordings:
        x, y = (run_alone(backend, audio) for backend in backends)
        frames, equal = frames + len(x), equal + int((x.argmax(-1) == y.argmax(-1)).sum())
        largest = max(largest, float(np.abs(x - y).max(initial=0)))
    said = [[hypothesis.text for hypothesis in recognizer.recognize(recordings)] for recognizer in recognizers]
    words = Errors.total(Errors.between(one, other) for one, other in zip(*said, strict=True))
    return Halves(
        frames=frames,
        equal_frames=equal / frames,
        different_words=words.word_errors,
        words=words.words,
        largest=largest,
    )


def table(rows: list[Row]) -> str:
    """Markdown: a row per condition, a column per corpus and decoder."""
    columns = dict.fromkeys(row.corpus + f", {row.decoder}" * (row.decoder != "greedy") for row in rows)
    lines = ["| condition | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in dict.fromkeys(row.condition for row in rows):
        cells = [cell(row) for row in rows if row.condition == name]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(row: Row) -> str:
    """Without an interval where nothing is wrong: a bootstrap has none to give."""
    interval = f"; {100 * row.wer_low:.1f}–{100 * row.wer_high:.1f}" if row.word_errors else ""
    return f"{row.wer:.2%} ({row.word_errors} of {row.words}{interval})"


def draw(runs: list[Path], path: Path) -> None:
    """Loss and validation WER over the epochs of trainings that followed each other."""
    plt = require("matplotlib.pyplot")
    logs = [[line for line in read_log(run) if line["epoch"]] for run in runs]  # 0: the weights that it began with
    epochs = list(itertools.chain.from_iterable(logs))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    number = range(1, len(epochs) + 1)
    axes[0].plot(number, [line["loss"] for line in epochs], label="training")
    axes[0].plot(number, [line["valid_loss"] for line in epochs], label="validation")
    axes[0].set(xlabel="epoch", ylabel="loss, nats per utterance", yscale="log")
    axes[0].legend()
    axes[1].plot(number, [100 * line["valid_wer"] for line in epochs], color="tab:orange")
    axes[1].set(xlabel="epoch", ylabel="validation WER, %", yscale="log")
    for axis in axes:
        axis.yaxis.set_major_locator(require("matplotlib.ticker").LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")  # 5, not 5 × 10^0
        axis.yaxis.set_minor_formatter("")
        axis.xaxis.get_major_locator().set_params(integer=True)
    end = 0
    for log in logs[:-1]:
        end += len(log)
        for axis in axes:
            axis.axvline(end + 0.5, color="grey", linewidth=0.8, linestyle=":")
    figure.savefig(path, metadata={"Date": None})


def main(
    model: Annotated[str, typer.Argument(help="A model folder or a bundled name.")],
    manifest: Annotated[list[str], typer.Option(metavar="NAME=M.jsonl", help="What to read.")],
    babble_of: Annotated[
        Path | None, typer.Option("--babble", metavar="M.jsonl", help="People who talk in the background.")
    ] = None,
    decoder: Annotated[list[str] | None, typer.Option(help="greedy, beam; may be given often.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="A folder of `ds2 train`, for the picture.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/model-NAME.json and .md.")] = False,
) -> None:
    recognizers = {name: Recognizer.open(model, decoder=name) for name in decoder or ["greedy"]}
    metadata = open_model(model).metadata
    if metadata.feature.sample_rate != RATE:
        raise typer.BadParameter(f"{model} hears {metadata.feature.sample_rate} Hz; the conditions are made at {RATE}.")
    speakers = [utterance.path for utterance in read_manifest(babble_of)] if babble_of else []
    rows, everything = [], []
    for item in manifest:
        corpus, _, path = item.partition("=")
        texts, clean = spoken(Path(path), metadata)
        everything += clean
        for name, condition in conditions(speakers).items():
            audio = [condition(samples, number) for number, samples in enumerate(clean)]
            for search, recognizer in recognizers.items():
                rows.append(measured(recognizer, corpus, name, texts, audio, search))
                print(f"{corpus}: {name}: {search}: {rows[-1].wer:.2%}", flush=True)
    half = halves(model, everything)
    text = table(rows)
    if half:
        text += (
            f"\nFP16 against FP32 on all of them, clean: {half.equal_frames:.4%} of {half.frames} frames with the same "
            f"label, {half.different_words} of {half.words} words apart, log-probabilities within {half.largest:.3f}.\n"
        )
    print(text)
    name = metadata.name
    if run:
        draw(run, Path(model) / "curve.svg" if Path(model).is_dir() else Path(f"curve-{name}.svg"))
    if save:
        save_result(f"model-{name}", {"machine": machine(), "rows": rows, "fp16": half})
        (RESULTS / f"model-{name}.md").write_text(text)


if __name__ == "__main__":
    typer.run(main)
