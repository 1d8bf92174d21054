"""The training loop, top to bottom: `train(...)` is what `ds2 train` calls."""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

import ds2_deploy
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.errors import ConfigError, ManifestError, ModelError, TrainingError
from ds2_deploy.metadata import ModelMetadata, Provenance
from ds2_deploy.metrics import Errors
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint
from ds2_deploy.model.deepspeech2 import DeepSpeech2, log_softmax
from ds2_deploy.model.initialize import initialize
from ds2_deploy.text.alphabet import Alphabet
from training.data import BatchSampler, Speech, checked, train_loader, valid_loader
from training.distributed import Processes, joined_processes
from training.manifest import Utterance, fits_ctc, normalized, read_manifest
from training.recipe import Recipe
from training.report import LOG, Reporter
from training.statistics import feature_statistics
from training.step import TrainingStep, ctc_loss

BEST, LAST = "best.pt", "last.pt"


@dataclass(kw_only=True)
class Validation:
    """What a validation pass adds up to."""

    loss: float
    """Per utterance, in nats."""
    errors: Errors
    blank_rate: float
    """Share of frames whose most probable label is the blank; near 1 in the first epochs, and on a collapse."""
    output_length: float
    """Mean characters per hypothesis."""


@dataclass(kw_only=True)
class Position:
    """How far a training has come; saved with every checkpoint."""

    epoch: int = 0
    """Complete epochs."""
    best_wer: float = float("inf")
    skipped_steps: int = field(default=0)
    """Steps left out because a gradient was not finite; the first few of an fp16 training, which find its scale."""


def train(
    recipe: Recipe,
    train_manifests: list[Path],
    valid_manifests: list[Path],
    out: Path,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    device: str = "auto",
) -> None:
    """Train `recipe` and leave best.pt, last.pt and log.jsonl in the folder `out`."""
    if any((out / name).exists() for name in (BEST, LAST, LOG)) and not resume:
        raise TrainingError(f"{out} already holds a training: add --resume to go on with it, or choose another --out.")
    if resume and init_from:
        raise ConfigError("--resume and --init-from contradict each other: a resumed training has its weights.")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with joined_processes(device) as processes, Reporter(out, processes.main) as reporter:
        _train(recipe, train_manifests, valid_manifests, out, resume, init_from, processes, reporter)


def _train(
    recipe: Recipe,
    train_manifests: list[Path],
    valid_manifests: list[Path],
    out: Path,
    resume: bool,
    init_from: Path | None,
    processes: Processes,
    reporter: Reporter,
) -> None:
    # --- what to learn from -------------------------------------------------------------------------------------
    train_set = alignable(load_utterances(train_manifests, recipe), recipe, reporter)
    valid_set = load_utterances(valid_manifests, recipe)
    sampler = BatchSampler([u.duration_s for u in train_set], recipe, processes)
    share = len(train_set) // len(sampler)
    if share < processes.count:
        raise ConfigError(f"A batch of {share} utterances cannot be shared by {processes.count} processes.")
    checkpoint = load_checkpoint(out / LAST) if resume else load_checkpoint(init_from) if init_from else None
    metadata = _metadata(recipe, train_manifests, train_set, checkpoint)

    # --- what learns --------------------------------------------------------------------------------------------
    torch.manual_seed(recipe.seed)
    model = DeepSpeech2(metadata)
    initialize(model, recipe.initialization)
    model.to(processes.device)
    step = TrainingStep(model, recipe.precision)
    learner: nn.Module = step
    if processes.count > 1:  # buffers are constants, or statistics that are equal everywhere
        learner = DistributedDataParallel(step, broadcast_buffers=False)
    groups = _parameter_groups(model, recipe.optimizer.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.optimizer.learning_rate)
    steps = recipe.epochs * len(sampler)
    scheduler = LambdaLR(optimizer, lambda taken: one_cycle(taken, steps, recipe.schedule.warmup))
    scaler = torch.amp.GradScaler(processes.device.type, enabled=recipe.precision == "fp16")
    position = Position()
    if checkpoint:
        _load_weights(model, checkpoint, out / LAST if resume else init_from)
    if checkpoint and resume:
        _check_recipe(recipe, checkpoint.training["recipe"], out)
        optimizer.load_state_dict(checkpoint.training["optimizer"])
        scheduler.load_state_dict(checkpoint.training["scheduler"])
        scaler.load_state_dict(checkpoint.training["scaler"])
        position = Position(**checkpoint.training["position"])

    # --- learning -----------------------------------------------------------------------------------------------
    train_batches = train_loader(Speech(train_set, metadata, recipe.augment, recipe.seed), sampler, recipe.workers)
    valid_batches = valid_loader(
        Speech(valid_set, metadata, recipe.augment, recipe.seed), recipe.batch_size, recipe.workers, processes
    )
    hours = metadata.provenance.audio_hours
    reporter.start(recipe, model, len(train_set), hours, len(valid_set), processes)
    for epoch in range(position.epoch + 1, recipe.epochs + 1):
        # Everything random in an epoch follows from (seed, epoch, process), so a resumed training repeats it exactly.
        torch.manual_seed(_seed(recipe.seed, epoch, processes.rank))
        sampler.epoch = epoch
        sizes = [len(batch) for batch in sampler.batches()]
        skipped = position.skipped_steps
        started, loss_sum = time.perf_counter(), torch.zeros((), device=processes.device)
        learner.train()
        for size, batch in zip(sizes, reporter.steps(train_batches, epoch, recipe.epochs), strict=True):
            loss = learner(batch.to(processes.device))
            # Sum over utterances / utterances of the step, over all processes; DDP has divided by their number.
            scaler.scale(loss * processes.count / size).backward()
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm)
            if norm.isfinite():  # the same on every process: gradients are averaged before
                scaler.step(optimizer)
                scheduler.step()  # counts the steps that were taken
            else:
                position.skipped_steps += 1
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            loss_sum += loss.detach()
            reporter.step_done(loss.detach() / len(batch.lengths))
        loss_sum = processes.sum(loss_sum)
        if position.skipped_steps - skipped == len(sizes):
            raise TrainingError(
                f"Epoch {epoch} had no finite gradient, so nothing was learnt: lower optimizer.learning_rate, or "
                "choose another precision; the last checkpoint is as it was."
            )
        seconds = time.perf_counter() - started

        result = validate(model, valid_batches, valid_set, processes, recipe.precision)
        position.epoch = epoch
        improved = result.errors.wer < position.best_wer
        position.best_wer = min(position.best_wer, result.errors.wer)
        if processes.main:
            provenance = msgspec.structs.replace(
                metadata.provenance, epochs=epoch, valid_wer=round(result.errors.wer, 5)
            )
            state = {
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "scaler": scaler.state_dict(),
                "position": vars(position),
                "recipe": msgspec.to_builtins(recipe),
            }
            saved = Checkpoint(
                metadata=msgspec.structs.replace(metadata, provenance=provenance),
                weights=model.state_dict(),
                training=state,
            )
            if improved:
                saved.save(out / BEST)
            saved.save(out / LAST)
        reporter.epoch_done(
            {
                "epoch": epoch,
                "loss": float(loss_sum) / len(train_set),
                "valid_loss": result.loss,
                "valid_wer": result.errors.wer,
                "valid_cer": result.errors.cer,
                "blank_rate": result.blank_rate,
                "output_length": result.output_length,
                "learning_rate": scheduler.get_last_lr()[0],
                "audio_hours_per_hour": hours / (seconds / 3600),
                "seconds": seconds,
                "skipped_steps": position.skipped_steps,
                "best": improved,
            },
            epochs=recipe.epochs,
        )


@torch.no_grad()
def validate(
    model: DeepSpeech2,
    batches: torch.utils.data.DataLoader[Any],
    utterances: list[Utterance],
    processes: Processes,
    precision: str,
) -> Validation:
    """Greedy error rates and loss over the validation set, this process's share summed with the others'."""
    model.eval()
    decoder = GreedyDecoder(model.metadata.alphabet)
    step = TrainingStep(model, precision)
    counts = np.zeros(8)
    for batch in checked(batches):
        moved = batch.to(processes.device)
        features, frames = model.frontend(moved.audio, moved.lengths)
        with torch.autocast(features.device.type, dtype=step.dtype, enabled=step.dtype is not None):
            logits, lengths = model.encoder(features, frames)
        log_probs = log_softmax(logits)
        loss = float(ctc_loss(log_probs, lengths, moved, model.metadata.alphabet.blank))
        rows = zip(log_probs.float().cpu().numpy(), lengths.tolist(), batch.indices.tolist(), strict=True)
        for row, length, index in rows:
            text = decoder.decode(row[:length]).text
            blanks = int((row[:length].argmax(-1) == model.metadata.alphabet.blank).sum())
            counts[:4] += Errors.between(utterances[index].text, text)
            counts[4:] += (0.0, blanks, length, len(text))
        counts[4] += loss
    total = processes.sum(torch.from_numpy(counts).to(processes.device)).tolist()
    return Validation(
        loss=total[4] / len(utterances),
        errors=Errors(*map(int, total[:4])),
        blank_rate=total[5] / max(total[6], 1),
        output_length=total[7] / len(utterances),
    )


def load_utterances(manifests: list[Path], recipe: Recipe) -> list[Utterance]:
    """All utterances, their texts normalised; every recording must be there."""
    utterances = [u for manifest in manifests for u in read_manifest(manifest)]
    missing = [u.path for u in utterances if not u.path.is_file()]
    if missing:
        raise ManifestError(f"{len(missing)} of {len(utterances)} recordings do not exist, the first is {missing[0]}.")
    return normalized(utterances, recipe.language, Alphabet.of(recipe.alphabet))


def alignable(utterances: list[Utterance], recipe: Recipe, reporter: Reporter) -> list[Utterance]:
    """Those whose text CTC can align; the others teach nothing, are left out and counted."""
    usable = [u for u in utterances if fits_ctc(u, recipe.feature, recipe.model)]
    if not usable:
        raise ManifestError("No utterance of the training set is long enough for its text.")
    if len(usable) < len(utterances):
        reporter.say(
            f"Left out {len(utterances) - len(usable)} of {len(utterances)} training utterances: too short for their "
            "text (CTC needs a frame per label)."
        )
    return usable


def _metadata(
    recipe: Recipe, manifests: list[Path], utterances: list[Utterance], checkpoint: Checkpoint | None
) -> ModelMetadata:
    """What the model will say about itself; a checkpoint's statistics go on, new ones are computed where needed."""
    statistics = None
    if recipe.feature.normalization == "global":
        known = checkpoint.metadata.statistics if checkpoint else None
        statistics = known or feature_statistics(utterances, recipe.feature)
    return ModelMetadata(
        name=recipe.name,
        language=recipe.language,
        feature=recipe.feature,
        statistics=statistics,
        alphabet=Alphabet.of(recipe.alphabet),
        model=recipe.model,
        provenance=Provenance(
            ds2_version=ds2_deploy.__version__,
            recipe=recipe.name,
            train=tuple("/".join(manifest.absolute().parts[-2:]) for manifest in manifests),
            seed=recipe.seed,
            audio_hours=round(sum(u.duration_s for u in utterances) / 3600, 3),
        ),
    )


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate: up from 1/25 along half a cosine, then down to 1/250,000 (Smith 2018)."""
    lowest, last = 1 / 25, 1 / 250_000
    rising = warmup * steps
    if step < rising:
        start, end, phase = lowest, 1.0, step / rising
    else:
        start, end, phase = 1.0, last, (step - rising) / max(steps - rising, 1)
    return end + (start - end) * (1 + math.cos(math.pi * min(phase, 1.0))) / 2


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, normalisation and other vectors do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _load_weights(model: DeepSpeech2, checkpoint: Checkpoint, path: Path | None) -> None:
    old, new = checkpoint.metadata, model.metadata
    for name in ("model", "feature", "alphabet"):
        if getattr(old, name) != getattr(new, name):
            raise ModelError(
                f"{path} was trained with another {name} than the recipe's: {_difference(old, new, name)}."
            )
    model.load_state_dict(checkpoint.weights)


def _check_recipe(recipe: Recipe, saved: dict[str, Any], out: Path) -> None:
    """A resumed training goes on as it began; only its length and its workers may change."""
    now = msgspec.to_builtins(recipe)
    changed = [key for key in now if now[key] != saved.get(key) and key not in ("epochs", "workers", "name")]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{out} was begun with another {key} ({saved.get(key)!r}, now {now[key]!r}): resume it with the recipe it "
            "began with, or start anew with --init-from."
        )


def _difference(old: ModelMetadata, new: ModelMetadata, name: str) -> str:
    before, after = msgspec.to_builtins(getattr(old, name)), msgspec.to_builtins(getattr(new, name))
    return ", ".join(f"{key} {before[key]!r} there, {after[key]!r} here" for key in after if before[key] != after[key])


def _seed(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


def read_log(out: Path) -> list[dict[str, Any]]:
    """The epochs of a training folder, as logged."""
    return [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]
