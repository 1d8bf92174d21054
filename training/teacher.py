"""A network that learns from another one, too: how far it is, frame by frame, from what that one hears is in its loss.

A network that hears the future can teach one that streams (Kim et al. 2017, "Improved training for online end-to-end
speech recognition systems", arXiv 1711.02212), as a better one can teach a smaller one (Hinton et al. 2015, "Distilling
the knowledge in a neural network", arXiv 1503.02531). CTC leaves open into which frame a label goes, so the learner
begins with the teacher's weights, or with some that have grown from them; and one that hears less of the future may
answer some frames later.
"""

import hashlib
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ds2_deploy.errors import ConfigError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import load_model
from ds2_deploy.model.deepspeech2 import DeepSpeech2, log_softmax
from ds2_deploy.model.layers import time_mask
from ds2_deploy.text.alphabet import Alphabet
from training.data import Batch
from training.recipe import Recipe, TeacherConfig


class Teacher:
    """Hears what the learner hears, with its own front end, before SpecAugment hides some of it; learns nothing."""

    def __init__(self, config: TeacherConfig, model: DeepSpeech2) -> None:
        self.config, self.model = config, model.eval().requires_grad_(False)

    @classmethod
    def of(cls, recipe: Recipe, alphabet: Alphabet) -> "Teacher | None":
        """The recipe's, if it has one; ConfigError where it answers in other labels or frames than the learner."""
        if recipe.teacher is None:
            return None
        model = load_model(Path(recipe.teacher.model))
        check_answers(model.metadata, recipe, alphabet)
        return cls(recipe.teacher, model)

    @cached_property
    def fingerprint(self) -> str:
        """Of its weights."""
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def answers(self, batch: Batch, dtype: torch.dtype | None) -> Tensor:
        """Log-probabilities (B, T, V) in float32 of a network that computes in `dtype`; None: in float32, too."""
        features, frames = self.model.frontend(batch.audio, batch.lengths)
        with torch.autocast(features.device.type, dtype=dtype, enabled=dtype is not None):
            logits, _ = self.model.encoder(features, frames)
        return log_softmax(logits)

    def mixed(self, losses: Tensor, views: tuple[Tensor, ...], answers: Tensor, lengths: Tensor) -> Tensor:
        """CTC's losses (B,) and the mean distance of the learner's `views`, each (B, T, V), by the recipe's share.

        What the teacher says in a frame is compared with what the learner says `later_frames` after it; its last
        frames, whose answers would come after the end of the recording, are left to CTC.
        """
        later, share = self.config.later_frames, self.config.share
        answers, lengths = answers[:, : max(answers.shape[1] - later, 0)], (lengths - later).clamp(min=0)
        apart = torch.stack([divergence(view[:, later:], answers, lengths) for view in views]).mean(dim=0)
        return (1 - share) * losses + share * apart


def divergence(learner: Tensor, teacher: Tensor, lengths: Tensor) -> Tensor:
    """(B,) Kullback-Leibler divergence of the learner's log-probabilities (B, T, V) from the teacher's, summed over
    `lengths` (B,) frames, in nats."""
    apart = (teacher.exp() * (teacher - learner)).sum(dim=-1)  # (B, T)
    return apart.masked_fill(~time_mask(lengths, apart.shape[1]), 0.0).sum(dim=1)


def check_answers(teacher: ModelMetadata, recipe: Recipe, alphabet: Alphabet) -> None:
    """ConfigError where the teacher's labels or frames are not the learner's."""
    name, feature, model = recipe.teacher.model if recipe.teacher else teacher.name, recipe.feature, recipe.model
    if teacher.alphabet != alphabet:
        raise ConfigError(f"The teacher {name} has other labels than the recipe: choose one with the same alphabet.")
    rate, frame_s = feature.sample_rate, model.subsampling * feature.hop_samples / feature.sample_rate
    if teacher.feature.sample_rate != rate:
        raise ConfigError(
            f"The teacher {name} hears audio at {teacher.feature.sample_rate} Hz, the recipe at {rate} Hz: choose one "
            "that hears at the same rate."
        )
    if teacher.frame_s != frame_s:
        raise ConfigError(
            f"The teacher {name} has frames of {1000 * teacher.frame_s:g} ms, the recipe of {1000 * frame_s:g} ms: "
            "choose one with the same strides in time."
        )
    if any(teacher.output_frames(n) != model.output_frames(feature.frames(n)) for n in range(rate, 2 * rate, 7)):
        raise ConfigError(
            f"The teacher {name} has other numbers of frames for the same recordings than the recipe: choose one with "
            "its window, its `center` and the kernels of its convolutions in time."
        )
