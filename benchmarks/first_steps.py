"""Why a CTC training begins with blanks, and when that ends: step by step through the first epochs of small nets.

    python benchmarks/first_steps.py --train M.jsonl --valid M.jsonl [--steps 400] [--save]

After every few steps, the same validation utterances are read: their loss, the share of frames whose most probable
label is the blank, the mean probability of the blank, and the characters heard per utterance. --save writes
benchmarks/results/first_steps.json.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import torch
import typer
from machine import machine, save_result

from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.deepspeech2 import DeepSpeech2, log_softmax
from ds2_deploy.model.initialize import initialize
from ds2_deploy.text.alphabet import ENGLISH
from training.augment import Augmenter
from training.corpus import survey
from training.data import Batch, Speech, checked, train_loader, valid_loader
from training.distributed import Processes
from training.learner import Learner
from training.recipe import Recipe, load_recipe
from training.sampler import BatchSampler
from training.step import ctc_losses
from training.teacher import Teacher

NET = str(Path(__file__).parent / "studies" / "small.toml")
VARIANTS: dict[str, list[str]] = {
    "40 ms frames": [],
    "40 ms frames, no batch norm": ["model.batch_norm=false"],
    "10 ms frames, no batch norm": ["model.conv=[]", "model.batch_norm=false"],
}


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the validation utterances."""

    step: int
    loss: float
    """Nats per utterance."""
    blank_frames: float
    """Share of frames that say blank."""
    blank_probability: float
    """Mean over frames."""
    characters: float
    """Heard per utterance."""


def looks(recipe: Recipe, train: Path, valid: Path, steps: int, every: int) -> Iterator[Look]:
    """Train from scratch and look on the way."""
    learnt, heard = (survey([manifest], recipe.language, ENGLISH).corpus for manifest in (train, valid))
    metadata = ModelMetadata(feature=recipe.feature, model=recipe.model)
    torch.manual_seed(recipe.seed)
    model = DeepSpeech2(metadata)
    initialize(model, recipe.initialization)
    sampler = BatchSampler(learnt.durations_s, recipe, Processes())
    learner = Learner(model, recipe, len(sampler), Processes(), Teacher.of(recipe, ENGLISH))
    augmenter = Augmenter(recipe.augment, recipe.feature.sample_rate)
    loader = train_loader(Speech(learnt, metadata, augmenter, recipe.seed), sampler, recipe.workers)
    read = msgspec.structs.replace(recipe, batch_size=32, batch_seconds=None, workers=0)
    batches = valid_loader(Speech(heard, metadata, None, recipe.seed), read, Processes())
    shown = list(itertools.islice(checked(batches), 1, 3))
    for step, batch in enumerate(_epochs(loader, sampler)):
        if step % every == 0:
            yield look(model.eval(), shown, step)
            model.train()
        if step == steps:
            return
        learner.learn([batch], len(batch.lengths))


def _epochs(loader: object, sampler: BatchSampler) -> Iterator[Batch]:
    for sampler.epoch in itertools.count(1):
        yield from checked(loader)  # type: ignore[arg-type]


@torch.no_grad()
def look(model: DeepSpeech2, batches: list[Batch], step: int) -> Look:
    blank, decoder = model.metadata.alphabet.blank, GreedyDecoder(model.metadata.alphabet)
    loss, said, probability, frames, characters, count = 0.0, 0, 0.0, 0, 0, 0
    for batch in batches:
        features, lengths = model.frontend(batch.audio, batch.lengths)
        logits, lengths = model.encoder(features, lengths)
        log_probs = log_softmax(logits)
        loss += float(ctc_losses(log_probs, lengths, batch, blank).sum())
        for row, length in zip(log_probs, lengths.tolist(), strict=True):
            said += int((row[:length].argmax(-1) == blank).sum())
            probability += float(row[:length, blank].exp().sum())
            frames += length
            characters += len(decoder.decode(row[:length].numpy()).text)
            count += 1
    return Look(
        step=step,
        loss=round(loss / count, 2),
        blank_frames=round(said / frames, 4),
        blank_probability=round(probability / frames, 4),
        characters=round(characters / count, 2),
    )


def main(
    train: Annotated[Path, typer.Option()],
    valid: Annotated[Path, typer.Option()],
    steps: int = 400,
    every: int = 20,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/first_steps.json.")] = False,
) -> None:
    """Look into each variant."""
    found: dict[str, list[Look]] = {}
    for name, changes in VARIANTS.items():
        print(f"{name}\n  step    loss  blank frames  blank probability  characters")
        found[name] = []
        for seen in looks(load_recipe(NET, changes), train, valid, steps, every):
            found[name].append(seen)
            print(
                f"{seen.step:6d} {seen.loss:7.1f} {seen.blank_frames:13.1%} {seen.blank_probability:18.1%} "
                f"{seen.characters:11.1f}",
                flush=True,
            )
    if save:
        save_result("first_steps", {"machine": machine(), "net": "benchmarks/studies/small.toml", "variants": found})


if __name__ == "__main__":
    typer.run(main)
