"""A network that learns from another one, too: how far it is, frame by frame, from what that one hears is in its loss.

A network that hears the future can teach one that streams (Kim et al. 2017, "Improved training for online end-to-end
speech recognition systems", arXiv 1711.02212), as a better one can teach a smaller one (Hinton et al. 2015, "Distilling
the knowledge in a neural network", arXiv 1503.02531). CTC leaves open into which frame a label goes, so the learner
begins with the teacher's weights, or with some that have grown from them; and one that hears less of the future may
answer some frames later.
"""

import hashlib
from functools import cached_property

import msgspec
import torch
from torch import Tensor, nn

from ds2_deploy.errors import ConfigError, ModelError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import load_model
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.layers import time_mask
from ds2_deploy.text.alphabet import Alphabet
from training.data import Batch
from training.precision import log_probs
from training.recipe import Recipe, TeacherConfig


class Teacher:
    """Hears the varied recordings with its own front end, before anything is done to features; learns nothing."""

    def __init__(self, config: TeacherConfig, model: DeepSpeech2, precision: str) -> None:
        self.config, self.model, self.precision = config, model.eval().requires_grad_(False), precision

    @classmethod
    def of(cls, recipe: Recipe, alphabet: Alphabet) -> "Teacher | None":
        """The recipe's, if it has one; ConfigError where it answers in other labels or frames than the learner."""
        if recipe.teacher is None:
            return None
        try:
            model = load_model(recipe.teacher.model)
        except ModelError as error:
            raise ConfigError(f"The recipe's teacher.model cannot be used: {error}") from error
        check_answers(recipe.teacher.model, model.metadata, recipe, alphabet)
        return cls(recipe.teacher, model, recipe.precision)

    @cached_property
    def fingerprint(self) -> str:
        """Of all that its answers follow from."""
        metadata = self.model.metadata
        digest = hashlib.sha256(msgspec.json.encode((metadata.feature, metadata.statistics, metadata.model)))
        for tensor in self.model.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, V) in float32 and the frames (B,) of each recording."""
        missing = self.model.metadata.min_samples - batch.audio.shape[1]  # its windows may be longer than the learner's
        audio = nn.functional.pad(batch.audio, (0, max(missing, 0)))
        return log_probs(self.model, audio, batch.lengths, self.precision)

    def taught(self, losses: Tensor, views: tuple[Tensor, ...], batch: Batch, lengths: Tensor) -> Tensor:
        """(B,) of the learner's CTC losses (B,) and the mean distance of its `views`, each (B, T, V), by the share.

        What the teacher says in a frame is compared with what the learner says `later_frames` after it; the learner's
        first frames, those that it has after the teacher's last answer (a tail), and the teacher's last ones, whose
        answers would come after the end, are left to CTC.
        """
        later, share = self.config.later_frames, self.config.share
        answers, frames = self.answers(batch)
        both = torch.minimum(frames, (lengths - later).clamp(min=0))
        size = max(min(answers.shape[1], views[0].shape[1] - later), 0)
        answers, views = answers[:, :size], tuple(view[:, later:][:, :size] for view in views)
        apart = torch.stack([divergence(view, answers, both) for view in views]).mean(dim=0)
        return (1 - share) * losses + share * apart


def divergence(learner: Tensor, teacher: Tensor, lengths: Tensor) -> Tensor:
    """(B,) sum over `lengths` (B,) frames of p (ln p - ln q), p being the teacher's and q the learner's probabilities:
    the Kullback-Leibler divergence in nats of log-probabilities (B, T, V)."""
    apart = (teacher.exp() * (teacher - learner)).sum(dim=-1)  # (B, T)
    return apart.masked_fill(~time_mask(lengths, apart.shape[1]), 0.0).sum(dim=1)


def check_answers(name: str, teacher: ModelMetadata, recipe: Recipe, alphabet: Alphabet) -> None:
    """ConfigError where the labels or frames of the teacher called `name` are not the learner's."""
    feature, model = recipe.feature, recipe.model
    if teacher.alphabet != alphabet:
        raise ConfigError(f"The teacher {name} has other labels than the recipe: choose one with the same alphabet.")
    rate, frame_samples = feature.sample_rate, model.subsampling * feature.hop_samples
    if teacher.feature.sample_rate != rate:
        raise ConfigError(
            f"The teacher {name} hears audio at {teacher.feature.sample_rate} Hz, the recipe at {rate} Hz: choose one "
            "that hears at the same rate."
        )
    if teacher.frame_s != frame_samples / rate:
        raise ConfigError(
            f"The teacher {name} has frames of {1000 * teacher.frame_s:g} ms, the recipe of "
            f"{1000 * frame_samples / rate:g} ms: choose one with the same strides in time."
        )
    heard, feature = (msgspec.structs.replace(one, tail_ms=0.0) for one in (teacher.feature, feature))
    recordings = range(rate, rate + frame_samples)  # what holds for these holds for all that are longer
    if any(teacher.model.output_frames(heard.frames(n)) != model.output_frames(feature.frames(n)) for n in recordings):
        raise ConfigError(
            f"The teacher {name} makes other numbers of frames of the same recordings than the recipe: choose one with "
            "the recipe's window_ms, center and kernels in time."
        )
