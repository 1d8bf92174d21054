"""What must be as it was where a stopped training goes on."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ds2_deploy.errors import ConfigError
from training.corpus import Corpus
from training.recipe import Recipe, differences, load_recipe, toml_value
from training.run_folder import RunFolder

if TYPE_CHECKING:
    from training.sampler import BatchSampler
    from training.teacher import Teacher

MAY_CHANGE = ("epochs", "workers", "checkpoint_minutes", "name")
"""What a resumed training need not have of its recipe; nor the precision, unless one of them is fp16, which needs its
scale of losses."""


def resumed_recipe(config: str, out: Path, overrides: Sequence[str]) -> tuple[Recipe, list[str]]:
    """The recipe by which the training in `out` goes on, and what has changed in it since it was last saved, as --set
    has it: `overrides` and, where `config` is the recipe.toml that the training wrote, what was edited there.

    Any other file is what the training began with, so what --set changed since then is changed again.
    """
    folder = RunFolder(out)
    saved = folder.saved().training
    if not folder.wrote(Path(config)):
        return load_recipe(config, merged(saved.get("set", []), overrides)), list(overrides)
    edited = differences(_today(saved["recipe"]), msgspec.to_builtins(load_recipe(config, [])))
    return load_recipe(config, overrides), [*(f"{name}={toml_value(now)}" for name, _, now in edited), *overrides]


def merged(before: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """What --set has changed, the latest last; each once."""
    return list(dict.fromkeys(reversed([*before, *overrides])))[::-1]


def check_recipe(recipe: Recipe, saved: dict[str, Any], folder: RunFolder) -> str:
    """ConfigError where the training goes on otherwise than it began; else what MAY_CHANGE and did, in words."""
    changed = list(differences(_today(saved), msgspec.to_builtins(recipe)))
    if fixed := _not_to_change(recipe, saved):
        name, before, now = fixed
        raise ConfigError(
            f"{folder.path} was begun with another {name} ({before!r}, now {now!r}): resume it with "
            f"{_own_recipe(saved, folder)}the recipe it began with, or start anew with --init-from."
        )
    return ", ".join(f"{name} {before} -> {now}" for name, before, now in changed if name != "name")


def _today(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved recipe as one of today: settings that it had not yet are what they are by default."""
    try:
        settings: dict[str, Any] = msgspec.to_builtins(msgspec.convert(saved, Recipe))
    except msgspec.ValidationError:  # a setting that recipes no longer have
        return saved
    return settings


def _not_to_change(recipe: Recipe, saved: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """A setting that `recipe` has otherwise than the one that a training began with, and must not: its name, what it
    was and what it is."""
    may_change = MAY_CHANGE if "fp16" in (recipe.precision, saved.get("precision")) else (*MAY_CHANGE, "precision")
    changed = differences(_today(saved), msgspec.to_builtins(recipe))
    return next((one for one in changed if one[0] not in may_change), None)


def _own_recipe(saved: dict[str, Any], folder: RunFolder) -> str:
    """The folder's recipe.toml for a message, where it would do."""
    with suppress(ConfigError):
        if folder.recipe.exists() and not _not_to_change(load_recipe(str(folder.recipe), []), saved):
            return f"{folder.recipe}, "
    return ""


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
