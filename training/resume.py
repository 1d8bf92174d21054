"""What must be as it was where a stopped training goes on."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ds2_deploy.errors import ConfigError
from training.corpus import Corpus
from training.recipe import Recipe, differences
from training.run_folder import RunFolder

if TYPE_CHECKING:
    from training.sampler import BatchSampler
    from training.teacher import Teacher

MAY_CHANGE = ("epochs", "workers", "checkpoint_minutes", "name")
"""What a resumed training need not have of its recipe; nor the precision, unless one of them is fp16, which needs its
scale of losses."""


def all_overrides(out: Path, overrides: Sequence[str]) -> list[str]:
    """What --set has changed in the training that goes on in `out`, `overrides` last; each once."""
    every = [*RunFolder(out).saved().training.get("set", []), *overrides]
    return list(dict.fromkeys(reversed(every)))[::-1]


def check_recipe(recipe: Recipe, saved: dict[str, Any], folder: RunFolder) -> str:
    """ConfigError where the training goes on otherwise than it began; else what MAY_CHANGE and did, in words.

    A setting that recipes had not yet when it began counts as what it is by default.
    """
    with suppress(msgspec.ValidationError):  # a setting that recipes no longer have
        saved = msgspec.to_builtins(msgspec.convert(saved, Recipe))
    may_change = MAY_CHANGE if "fp16" in (recipe.precision, saved.get("precision")) else (*MAY_CHANGE, "precision")
    changed = list(differences(saved, msgspec.to_builtins(recipe)))
    for name, before, now in changed:
        if name not in may_change:
            own = f"{folder.recipe}, " if folder.recipe.exists() else ""
            raise ConfigError(
                f"{folder.path} was begun with another {name} ({before!r}, now {now!r}): resume it with {own}the "
                "recipe it began with, or start anew with --init-from."
            )
    return ", ".join(f"{name} {before} -> {now}" for name, before, now in changed if name != "name")


def check_same(
    saved: dict[str, Any],
    out: Path,
    train_set: Corpus,
    valid_set: Corpus,
    teacher: "Teacher | None",
    sampler: "BatchSampler",
) -> None:
    """ConfigError where the training `saved` in `out` would go on as another one; `sampler` is at its epoch."""
    _check_corpus(train_set, saved.get("corpus"), out)
    _check_corpus(valid_set, saved.get("valid_corpus"), out)
    _check_teacher(teacher, saved.get("teacher"), out)
    _check_batches(sampler, saved.get("batches"), out)


def _check_corpus(corpus: Corpus, saved: str | None, out: Path) -> None:
    """The utterances are those it began with; `saved` is what a checkpoint knows of them."""
    if saved is not None and saved != corpus.fingerprint:
        raise ConfigError(
            f"{out} was begun with other utterances than these {len(corpus)}: resume it with the manifests it began "
            "with, for training and for validation, or start anew with --init-from. A recording that cannot be read "
            "may be replaced by one that can."
        )


def _check_teacher(teacher: "Teacher | None", saved: str | None, out: Path) -> None:
    """The teacher is as it was; which one it is, the recipe says."""
    if teacher and saved != teacher.fingerprint:
        raise ConfigError(
            f"{out} was begun when the teacher {teacher.config.model} was another one: resume it with that one at its "
            "place, or start anew with --init-from."
        )


def _check_batches(sampler: "BatchSampler", saved: str | None, out: Path) -> None:
    """An epoch that has begun, whose batches are `saved`, keeps them, lest some utterances come twice and others never.

    With batch_seconds they depend on the number of processes, each of which has an utterance of every batch.
    """
    if saved is not None and saved != sampler.fingerprint:
        raise ConfigError(
            f"{out} was stopped within epoch {sampler.epoch}, whose batches are others now: start as many "
            f"processes as before, not {sampler.processes.count}, until that epoch is over."
        )
