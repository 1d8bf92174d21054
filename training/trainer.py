"""The training loop, top to bottom: `train(...)` is what `ds2 train` calls."""

import errno
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import torch
from torch import Tensor

import ds2_deploy
from ds2_deploy.audio.features import FeatureStatistics
from ds2_deploy.errors import TrainingError
from ds2_deploy.manifest import is_of_other_length, manifest_name
from ds2_deploy.metadata import ModelMetadata, Provenance
from ds2_deploy.metrics import Errors
from ds2_deploy.model.checkpoint import Checkpoint, open_checkpoint
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.initialize import initialize
from ds2_deploy.model.layers import set_dropout
from ds2_deploy.model.norm import freeze_norm
from ds2_deploy.text.alphabet import Alphabet
from training.augment import Augmenter
from training.corpus import corpora
from training.data import Batch, Speech, long_enough, train_loader, valid_loader
from training.distributed import Processes, joined_processes
from training.draws import Draw, seed_of
from training.learner import Learner
from training.precision import allow_tf32
from training.provenance import Learnt
from training.recipe import Recipe
from training.report import Reporter
from training.resume import check_recipe, check_same, merged
from training.run_folder import RunFolder
from training.sampler import BatchSampler
from training.statistics import feature_statistics, whitening
from training.stop import Stop, StoppedError
from training.teacher import Teacher
from training.validation import Validation, validate
from training.weights import changes, check_alike, check_norm, load_into

LISTENS = "Listening to the training set for the statistics of its features."
COLLAPSED = 0.999
"""A share of blanks above this, once something was recognised, is a collapse."""
SPOKEN = 0.9
"""A character error rate below this: a network's first random labels do not count as recognition."""
CLOCK_STEPS = 10
"""Optimizer steps of several processes between looks at the clock and at signals, on which all must agree."""
DIVERGED = "had no finite gradient"
"""By this the error of a training that can learn no more is told from others."""


@dataclass(kw_only=True)
class Position:
    """How far a training has come; saved with every checkpoint."""

    epoch: int = 0
    """Complete epochs."""
    batch: int = 0
    """Batches learnt of the epoch after those."""
    loss_sum: float = 0.0
    """Of those batches' utterances that are long enough for their text, over all processes."""
    loss_count: int = 0
    seconds: float = 0.0
    """Spent on those batches."""
    waited_s: float = 0.0
    """Of these, waiting for a batch."""
    taken_steps: int = 0
    """Of this epoch, those whose gradient was finite."""
    skipped_steps: int = 0
    """Since the training began: steps left out because a gradient was not finite; where losses are scaled the first
    few, which find the scale."""
    best: list[tuple[float, int]] = field(default_factory=list)
    """Validation result and number of the best epochs, the best first; of equal ones the latest."""
    lowest_loss: float = math.inf
    """Of all validations."""
    stale: int = 0
    """Epochs since one had a better result or a lower loss: error rates stay where they are while CTC says blanks."""
    spoke: bool = False
    """Whether any epoch's validation recognised something."""

    @property
    def loss(self) -> float:
        """Mean of those utterances so far."""
        return self.loss_sum / self.loss_count if self.loss_count else math.inf


def train(
    recipe: Recipe,
    train_manifests: list[Path],
    valid_manifests: list[Path],
    out: Path,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    device: str = "auto",
    tensorboard: bool = False,
    overrides: Sequence[str] = (),
) -> None:
    """Train `recipe` and leave best.pt, last.pt and log.jsonl in the folder `out` (training/run_folder.py).

    `overrides` are what --set has changed in it, where it is resumed since then; they are kept for
    training/resume.py. A resumed training has its weights, so `init_from` is not read.
    """
    folder = RunFolder(out)
    if not resume:
        folder.check_free()
    allow_tf32(recipe.precision == "tf32")
    with joined_processes(device) as processes, Reporter(folder, processes.main, tensorboard) as reporter:
        try:
            training = Training(
                recipe, train_manifests, valid_manifests, folder, resume, init_from, processes, reporter, overrides
            )
            with folder.taken(processes, resume):
                training.run()
        except (RuntimeError, MemoryError, OSError) as error:
            if reason := _want(error):
                raise TrainingError(reason) from error
            raise


def _want(error: Exception) -> str | None:
    """What a machine lacks that fails in this way, and what helps; None where it is something else."""
    full = isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if full or "allocate memory" in str(error):
        return (
            "The memory does not hold a step of this training: lower batch_size, or set batch_seconds, and go on with "
            "--resume where an epoch was saved."
        )
    if isinstance(error, ConnectionError) or "DataLoader worker (pid" in str(error):  # not an error of one that lives
        kind = "shared memory" if "shared memory" in str(error) else "memory"
        return (
            f"A process that reads recordings was killed, most often for want of {kind}: set fewer workers or a lower "
            "batch_size, and go on with --resume where an epoch was saved."
        )
    return None


class Training:
    """One training of one recipe: made ready in `__init__`, run by `run`."""

    def __init__(
        self,
        recipe: Recipe,
        train_manifests: list[Path],
        valid_manifests: list[Path],
        folder: RunFolder,
        resume: bool,
        init_from: Path | None,
        processes: Processes,
        reporter: Reporter,
        overrides: Sequence[str],
    ) -> None:
        self.recipe, self.folder, self.processes, self.reporter = recipe, folder, processes, reporter
        self.overrides = list(overrides)
        self.begun_with: Provenance | None = None
        """What was known of the weights before this training, where they were not random."""
        self.position = Position()
        self.stop = Stop(processes)
        self.lying: list[int] = []
        """Utterances of the first epoch that are not as long as their manifest says."""
        self.short = 0
        """Utterances of the first epoch, of this process, that were too short for their text."""

        # --- what to begin with: told before the corpora are read, where it does not fit --------------------------
        begins = folder.last if resume else init_from
        checkpoint = folder.saved() if resume else open_checkpoint(init_from) if init_from else None
        if checkpoint and resume:
            if changed := check_recipe(recipe, checkpoint.training["recipe"], folder):
                reporter.say(f"Changed since {folder.path} was begun: {changed}.")
            self.overrides = merged(checkpoint.training.get("set", []), overrides)
        elif checkpoint:
            self.begun_with = checkpoint.metadata.provenance
        if checkpoint:
            check_alike(checkpoint, recipe.model, recipe.feature, begins, resume)
        else:
            check_norm(recipe)

        # --- what to learn from ---------------------------------------------------------------------------------
        self.train_set, self.valid_set, alphabet = corpora(recipe, train_manifests, valid_manifests, reporter.say)
        self.sampler = BatchSampler(self.train_set.durations_s, recipe, processes)
        self.teacher = Teacher.of(recipe, alphabet)
        # noise that is not there is told before the statistics
        augmenter = Augmenter(recipe.augment, recipe.feature.sample_rate)
        self.metadata = self.described(alphabet, train_manifests, checkpoint)
        if checkpoint and not resume:
            for sentence in changes(checkpoint.metadata, self.metadata, init_from):
                reporter.say(sentence)

        # --- what learns ----------------------------------------------------------------------------------------
        torch.manual_seed(recipe.seed)
        self.model = DeepSpeech2(self.metadata)
        initialize(self.model, recipe.initialization)
        if recipe.feature.normalization == "whitening" and checkpoint is None:  # else it comes with the weights
            reporter.say(LISTENS)
            self.model.frontend.whiten(*whitening(self.train_set, recipe.feature, processes))
        self.model.to(processes.device)
        epoch_steps = -(-self.sampler.typical // recipe.accumulate)
        if self.teacher:
            self.teacher.model.to(processes.device)
        self.learner = Learner(self.model, recipe, epoch_steps, processes, self.teacher)
        if checkpoint:
            load_into(self.model, checkpoint, begins, resume)
        if checkpoint and resume:
            saved = checkpoint.training
            try:
                self.position = Position(**saved["position"])
            except TypeError as error:
                raise TrainingError(
                    f"{folder.last} is of a later version of ds2_deploy: resume it with that."
                ) from error
            self.sampler.epoch = self.position.epoch + 1
            check_same(saved, folder.path, self.train_set, self.valid_set, self.teacher, self.sampler)
            self.learner.load_state_dict(saved["learner"])

        # --- how it is read -------------------------------------------------------------------------------------
        learnt = Speech(self.train_set, self.metadata, augmenter, recipe.seed)
        heard = Speech(self.valid_set, self.metadata, None, recipe.seed)
        self.train_batches = train_loader(learnt, self.sampler, recipe.workers)
        self.valid_batches = valid_loader(heard, recipe, processes)

    def statistics(self, checkpoint: Checkpoint | None) -> FeatureStatistics | None:
        """A checkpoint's where they fit; else the training set's, where the features need any."""
        feature = self.recipe.feature
        if not feature.needs_statistics:
            return None
        known = checkpoint.metadata.statistics if checkpoint else None
        if known is not None and len(known.mean) == feature.bins:
            return known
        self.reporter.say(LISTENS)
        return feature_statistics(self.train_set, feature, self.processes)

    def described(self, alphabet: Alphabet, manifests: list[Path], checkpoint: Checkpoint | None) -> ModelMetadata:
        """What the model will say about itself; it has learnt from what checkpoint and teacher learnt from, too."""
        recipe = self.recipe
        earlier = [one.metadata.provenance for one in (checkpoint, self.teacher and self.teacher.model) if one]
        before = [Learnt(dict.fromkeys(one.train), one.audio_hours) for one in earlier]
        names = dict.fromkeys(map(manifest_name, manifests))
        learnt = reduce(Learnt.plus, [*before, Learnt(names, self.train_set.distinct_hours)])
        return ModelMetadata(
            name=recipe.name,
            language=recipe.language,
            feature=recipe.feature,
            statistics=self.statistics(checkpoint),
            alphabet=alphabet,
            model=recipe.model,
            provenance=Provenance(
                ds2_version=ds2_deploy.__version__,
                recipe=recipe.name,
                train=tuple(learnt.manifests),
                seed=recipe.seed,
                audio_hours=round(learnt.hours, 3),
            ),
        )

    def run(self) -> None:
        """All epochs that are left; the best ones' average at the end, where several are kept."""
        recipe, position = self.recipe, self.position
        hours = self.train_set.hours
        self.reporter.start(recipe, self.model, len(self.train_set), hours, len(self.valid_set), self.processes)
        if self.processes.main:
            self.folder.write_recipe(recipe)
            self.folder.keep_overrides(self.overrides)
            self.folder.cut_log(position.epoch if position.best else -1)
            if position.best and not position.batch:
                self.folder.find_best(position.epoch, position.best[0][1])
        if position.epoch >= recipe.epochs:
            self.reporter.say(f"All {position.epoch} epochs are learnt: --set epochs=N with a higher N learns more.")
        with self.stop:
            try:
                self.learn_epochs()
                if position.best[0][1] == 0:
                    self.reporter.say(
                        "No epoch was better than the weights it began with, which best.pt has: a lower "
                        "optimizer.learning_rate may help."
                    )
                if self.stale():
                    since = f"no better {recipe.selected_by}, nor a lower loss, in {position.stale} epochs"
                    self.reporter.say(f"Stopped: {since}.")
                learnt = [epoch for _, epoch in position.best if epoch > 0]  # 0 may have labels it has not learnt yet
                if len(learnt) > 1:
                    self.average(learnt)
            except StoppedError:
                self.leave()

    def stale(self) -> bool:
        """Whether the recipe's patience is at an end."""
        patience = self.recipe.selection.patience
        return patience is not None and self.position.stale >= patience

    def learn_epochs(self) -> None:
        recipe, position = self.recipe, self.position
        if self.begun_with and not position.best and not position.batch:
            self.hear_beginning(self.begun_with)
        while position.epoch < recipe.epochs and not self.stale():
            self.heed_signals()
            self.learn_epoch()
            started = time.perf_counter()
            result = self.validated()
            epoch_s = position.seconds + time.perf_counter() - started
            self.epoch_done(result, epoch_s * (recipe.epochs - position.epoch - 1))

    def validated(self) -> Validation:
        batches = self.stop.watched(self.valid_batches)
        return validate(self.model, batches, self.valid_set, self.processes, self.recipe.precision)

    def is_told_to_end(self) -> bool:
        """Whether one process was, on which all agree."""
        return self.processes.any(self.stop.signal is not None)

    def heed_signals(self) -> None:
        """StoppedError, in every process, where one was told to end."""
        if self.is_told_to_end():
            raise StoppedError

    def leave(self) -> NoReturn:
        """Save what was learnt since the last checkpoint, and end."""
        position = self.position
        if self.processes.main and position.batch:
            self.checkpoint().save(self.folder.last)
        if position.batch:
            self.reporter.say(f"Stopped in epoch {position.epoch + 1}, batch {position.batch}: add --resume to go on.")
        elif position.best:
            self.reporter.say(f"Stopped after epoch {position.epoch}: add --resume to go on.")
        else:
            self.reporter.say("Stopped before anything was learnt.")
        self.stop.end()

    def learn_epoch(self) -> None:
        """The batches that are left of the epoch after `position.epoch`, saving now and then."""
        recipe, position, rank = self.recipe, self.position, self.processes.rank
        epoch = position.epoch + 1
        self.begin_epoch(epoch)
        sizes = [len(batch) for batch in self.sampler.batches()]
        losses = self.losses_so_far()
        started, saved = time.perf_counter() - position.seconds, time.perf_counter()
        steps, looked = 0, CLOCK_STEPS if self.processes.count > 1 else 1
        batches = self.reporter.batches(self.train_batches, epoch, recipe.epochs, position.batch, position.waited_s)
        while group := list(itertools.islice(batches, recipe.accumulate)):
            # Everything random in a step follows from (seed, epoch, batch, process): a resumed training repeats it.
            torch.manual_seed(seed_of(recipe.seed, epoch, position.batch, rank, of=Draw.STEP))
            end = position.batch + len(group)
            utterances = sum(sizes[position.batch : end])
            step_losses, taken = self.learner.learn(group, utterances, self.drawn_windows(epoch))
            finite = step_losses.isfinite()
            long = torch.cat([long_enough(batch, self.metadata) for batch in group])
            known = step_losses[finite & long.to(finite.device)]  # the loss of a short one is no measure of anything
            losses[0] += known.double().sum()
            losses[1] += len(known)
            if not taken:
                self.warn_of_losses(group, finite)
            steps, position.batch = steps + 1, end
            position.taken_steps += taken
            position.skipped_steps += not taken
            self.reporter.step_done(len(group), known)
            if epoch == 1:
                self.short += int((~long).sum())
                self.lying += [index for batch in group for index in self.lying_in(batch)]
            if steps % looked == 0 and (self.is_told_to_end() or self.time_to_save(saved)):
                self.note_losses(losses, time.perf_counter() - started)
                self.heed_signals()
                self.save_inside_epoch()
                saved = time.perf_counter()
        self.note_losses(losses, time.perf_counter() - started)
        self.warn_of_durations()
        self.say_what_was_short()
        if steps and not position.taken_steps and not (position.loss_count and self.learner.seeks_scale):
            raise TrainingError(
                f"Epoch {epoch} {DIVERGED}, so nothing was learnt: lower optimizer.learning_rate, or "
                "choose another precision; the last checkpoint is as it was."
            )

    def begin_epoch(self, epoch: int) -> None:
        recipe = self.recipe
        self.sampler.epoch, self.sampler.start = epoch, self.position.batch
        if recipe.dropout_from is not None:
            progress = (epoch - 1) / max(recipe.epochs - 1, 1)
            set_dropout(self.model, recipe.dropout_from + progress * (recipe.model.dropout - recipe.dropout_from))
        self.model.train()
        if epoch > recipe.norm_frozen_from * recipe.epochs:
            freeze_norm(self.model)

    def drawn_windows(self, epoch: int) -> tuple[int, int] | None:
        """Those of the next step, the same on every process, which so take as long; None: the network's own."""
        windows = self.recipe.augment.windows
        if not windows:
            return None
        return windows[seed_of(self.recipe.seed, epoch, self.position.batch, of=Draw.WINDOWS) % len(windows)]

    def losses_so_far(self) -> Tensor:
        """Sum and number (2,) of the losses of this epoch, to which this process adds its own."""
        known = [self.position.loss_sum, self.position.loss_count] if self.processes.main else [0.0, 0.0]
        return torch.tensor(known, dtype=torch.float64, device=self.processes.device)

    def note_losses(self, losses: Tensor, seconds: float) -> None:
        total = self.processes.sum(losses.clone()).tolist()
        self.position.loss_sum, self.position.loss_count = total[0], int(total[1])
        self.position.seconds, self.position.waited_s = seconds, self.reporter.waited_s

    def time_to_save(self, saved: float) -> bool:
        """Whether the main process's clock says so: all must agree, since losses are summed over them."""
        due = time.perf_counter() - saved >= 60 * self.recipe.checkpoint_minutes
        return self.processes.any(due and self.processes.main)

    def warn_of_losses(self, group: Sequence[Batch], finite: Tensor) -> None:
        """Name the utterances whose loss is not finite; where losses are scaled a gradient may overflow without one."""
        indices = torch.cat([batch.indices for batch in group])[~finite.cpu()].tolist()
        if indices:
            paths = ", ".join(str(self.train_set[index].path) for index in indices[:3])
            shared = len(indices) > 1 and self.recipe.model.batch_norm
            carried = ", which batch norm may have carried from one to the others" if shared else ""
            after = "; or what follows in the same recording" if self.recipe.augment.joined_probability else ""
            self.reporter.warn(
                f"Left out a step of epoch {self.position.epoch + 1}: the loss of {len(indices)} of {len(finite)} "
                f"utterances is not finite ({paths}{', ...' if len(indices) > 3 else ''}{after}){carried}."
            )

    def lying_in(self, batch: Batch) -> list[int]:
        """The utterances whose recording is much longer or shorter than the manifest says."""
        told_s, heard = self.train_set.durations_s, zip(batch.indices.tolist(), batch.recorded_s.tolist(), strict=True)
        return [index for index, heard_s in heard if is_of_other_length(told_s[index], heard_s)]

    def warn_of_durations(self) -> None:
        lying = sorted({index for found in self.processes.gathered(self.lying) for index in found})
        if lying:
            first = self.train_set[lying[0]]
            self.reporter.warn(
                f"{len(lying)} of {len(self.train_set)} recordings are not as long as the manifest says, such as "
                f"{first.path} ({first.duration_s:.1f} s there), so batches are uneven: make the manifest again with "
                "ds2 manifest."
            )
        self.lying = []

    def say_what_was_short(self) -> None:
        """Of the first epoch: which utterances a speed makes too short differs in the others, their share hardly."""
        if self.position.epoch == 0 and (short := sum(self.processes.gathered(self.short))):
            self.reporter.say(
                f"{short} of {len(self.train_set)} utterances were too short for their text in epoch 1 (CTC needs a "
                "frame per label): sped up by augment.speeds, or shorter than their manifest says. The training loss "
                "is of the others."
            )

    # --- after an epoch -----------------------------------------------------------------------------------------

    def hear_beginning(self, begun_with: Provenance) -> None:
        """Epoch 0: validate the weights it begins with, lest the best epoch be a worse one."""
        result = self.validated()
        facts = {"epoch": 0, **self.heard(result)}
        self.rank(result, facts)
        self.position.spoke = result.errors.cer < SPOKEN
        self.reporter.epoch_done(facts, epochs=self.recipe.epochs)
        self.save(self.checkpoint(result.errors, begun_with), best=True)

    def epoch_done(self, result: Validation, left_s: float) -> None:
        """Rank the epoch, log it, then save: a training killed in between repeats the epoch and its log line."""
        position, recipe = self.position, self.recipe
        facts = self.facts(result, self.learner.schedule.rate)
        better = self.rank(result, facts)
        if learnt := position.taken_steps > 0:  # else nothing can have become better or worse
            self.learner.schedule.epoch_done(better)
        position.stale = 0 if better else position.stale + learnt
        if result.short and facts["epoch"] == 1:
            self.reporter.say(
                f"{result.short} of {len(self.valid_set)} validation utterances are too short for their text: they "
                "count as wrong, and not in the loss."
            )
        self.reporter.epoch_done(facts, epochs=recipe.epochs, left_s=left_s)
        if result.blank_rate > COLLAPSED and position.spoke:
            self.reporter.say(
                "The output has collapsed to blanks after something had been recognised: lower "
                "optimizer.learning_rate, or go on from an earlier checkpoint with --init-from."
            )
        position.spoke = position.spoke or result.errors.cer < SPOKEN
        position.epoch, position.batch = facts["epoch"], 0
        position.loss_sum, position.loss_count, position.taken_steps = 0.0, 0, 0
        position.seconds, position.waited_s = 0.0, 0.0
        self.save(self.checkpoint(result.errors), best=facts["best"])

    def rank(self, result: Validation, facts: dict[str, Any]) -> bool:
        """Give an epoch its place among the best; whether it is better than all before it, or has a lower loss."""
        position, value = self.position, result.result(self.recipe.selected_by)
        value = value if math.isfinite(value) else math.inf  # NaN would be the best for ever
        better = not position.best or value < position.best[0][0] or result.loss < position.lowest_loss
        position.lowest_loss = min(position.lowest_loss, result.loss)
        ranked = sorted([*position.best, (value, facts["epoch"])], key=lambda one: (one[0], -one[1]))
        position.best = ranked[: self.recipe.selection.keep]
        facts["best"] = position.best[0][1] == facts["epoch"]
        return better

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """After an epoch."""
        if self.processes.main:
            kept = [epoch for _, epoch in self.position.best] if self.recipe.selection.keep > 1 else []
            self.folder.save(checkpoint, self.position.epoch, best=best, kept=kept)

    def facts(self, result: Validation, rate: float) -> dict[str, Any]:
        """What the log says of an epoch; rates are fractions, losses nats per utterance, `skipped_steps` those of all
        epochs so far."""
        position = self.position
        return {
            "epoch": position.epoch + 1,
            "loss": position.loss,
            **self.heard(result),
            "learning_rate": rate,
            "audio_hours_per_hour": self.train_set.hours / (position.seconds / 3600),
            "data_wait": position.waited_s / position.seconds,
            "seconds": position.seconds,
            "skipped_steps": position.skipped_steps,
        }

    def heard(self, result: Validation) -> dict[str, Any]:
        """What the log says of a validation."""
        return {
            "valid_loss": result.loss,
            "valid_wer": result.errors.wer,
            "valid_cer": result.errors.cer,
            "valid_distance": result.errors.mean_distance(len(self.valid_set), self.metadata.alphabet.separator),
            "blank_rate": result.blank_rate,
            "output_length": result.output_length,
            "samples": result.samples,
        }

    def save_inside_epoch(self) -> None:
        position = self.position
        if self.processes.main:
            self.checkpoint().save(self.folder.last)
        self.reporter.saved(position.epoch + 1, self.recipe.epochs, position.batch, len(self.sampler), position.loss)

    def checkpoint(self, errors: Errors | None = None, made: Provenance | None = None) -> Checkpoint:
        """The whole state of the training, with the validation's errors where these weights have been through one, and
        where they come from, if not from this training; no random states, because none carries over from step to step.
        """
        rates = {} if errors is None else {"valid_wer": round(errors.wer, 5), "valid_cer": round(errors.cer, 5)}
        made = made or msgspec.structs.replace(self.metadata.provenance, epochs=self.position.epoch)
        provenance = msgspec.structs.replace(made, **rates)
        return Checkpoint(
            metadata=msgspec.structs.replace(self.metadata, provenance=provenance),
            weights=self.model.state_dict(),
            training={
                "learner": self.learner.state_dict(),
                "position": vars(self.position),
                "recipe": msgspec.to_builtins(self.recipe),
                "set": self.overrides,
                "corpus": self.train_set.fingerprint,
                "valid_corpus": self.valid_set.fingerprint,
                "batches": self.sampler.fingerprint if self.position.batch else None,
                "teacher": self.teacher.fingerprint if self.teacher else None,
            },
        )

    def average(self, epochs: Sequence[int]) -> None:
        """average.pt: the mean of these epochs' weights, validated like them."""
        if self.processes.main:
            self.model.load_state_dict(self.folder.average_weights(epochs))
        for tensor in self.model.state_dict().values():
            self.processes.broadcast(tensor)
        result = self.validated()
        self.reporter.say(
            f"average of epochs {', '.join(map(str, sorted(epochs)))}: valid {result.loss:.2f}  "
            f"{self.reporter.rates(result.errors.wer, result.errors.cer)}"
        )
        if self.processes.main:
            self.checkpoint(result.errors).without_training().save(self.folder.average)
