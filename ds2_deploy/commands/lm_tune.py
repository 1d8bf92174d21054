"""ds2 lm-tune: how much a language model should weigh."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ds2_deploy.commands.common import BackendName, Device, path_argument, path_option

if TYPE_CHECKING:
    from training.lm_tune import Tuned

OTHER_SETS = {"train", "valid", "validation", "val", "dev", "tune"}
"""What a manifest is for, where its name says so."""


def lm_tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model or a model folder.")],
    manifest: Annotated[Path, path_argument(metavar="MANIFEST", help="Recordings for validation, not for tests.")],
    lm: Annotated[
        Path | None, path_option(help="Folder of ds2 lm-build; without it, MODEL/lm. The weights are written there.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Pairs of alpha and beta to try.")] = 60,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Processes that decode, of which the search for weights keeps eight busy; without it, one a core.",
        ),
    ] = None,
    backend: BackendName = "auto",
    device: Device = "auto",
) -> None:
    """Find the best weights of a language model.

    Alpha, beta and beam width are written into its folder (decoder.json), where the beam search looks for them.
    lm-tune.png shows the error rate over alpha and beta, where matplotlib is installed.
    """
    from ds2_deploy.commands.common import print_failure
    from ds2_deploy.decoding.language_model import PICTURE, SETTINGS_FILE
    from ds2_deploy.errors import LanguageModelError
    from ds2_deploy.files import check_output_file
    from ds2_deploy.manifest import read_manifest
    from ds2_deploy.model_folder import LM_FOLDER, bundled_models, open_model
    from ds2_deploy.output.progress import progress_bar
    from ds2_deploy.runtime import open_backend
    from ds2_deploy.runtime.devices import cpu_cores
    from ds2_deploy.text.languages import spelling
    from training.lm_tune import check, hear, tune

    _check_name(manifest)
    folder = open_model(model)
    if lm is None and model in bundled_models():
        raise LanguageModelError(
            f"The language model of {model} comes with the package: ds2 export {model} --out FOLDER brings a copy "
            "along, whose weights are yours to tune; or name another one with --lm."
        )
    lm = lm or folder.path / LM_FOLDER
    if not lm.is_dir():
        raise LanguageModelError(f"{lm} is not the folder of a language model: make one with ds2 lm-build.")
    for name in (SETTINGS_FILE, PICTURE):
        check_output_file(lm / name)
    language, every = folder.metadata.language, read_manifest(manifest)
    utterances = [utterance for utterance in every if spelling(utterance.text, language) is not None]
    if left_out := len(every) - len(utterances):
        print_failure(f"{left_out} of {len(every)} recordings left out: their texts have words without a spelling.")
    check(folder.metadata.alphabet, lm, utterances)
    loaded = open_backend(backend, folder, device=device, precision="fp32", threads=cpu_cores())
    heard, failures = hear(loaded, folder.metadata, utterances)
    for failure in failures:
        print_failure(failure)
    with progress_bar(trials) as step:
        tuned = tune(heard, lm, trials, workers or cpu_cores(), step)
    _print(tuned)  # first: hours of work are not lost where nothing can be written
    _write(tuned, lm)
    _warn(tuned, language)
    if failures:
        raise typer.Exit(1)


def _check_name(manifest: Path) -> None:
    """What is tuned on a test set cannot be measured on it any more.

    The folder speaks for a file that does not say of itself what it is for.
    """
    from ds2_deploy.errors import ManifestError

    own, folder = (re.split("[^a-z]+", name.lower()) for name in (manifest.stem, manifest.absolute().parent.name))
    if "test" in own or ("test" in folder and OTHER_SETS.isdisjoint(own)):
        raise ManifestError(
            f"{manifest} is a test set by its name, or its folder's: tune on validation recordings, and measure on the "
            "test set."
        )


def _write(tuned: "Tuned", lm: Path) -> None:
    from ds2_deploy.decoding.language_model import PICTURE, SETTINGS_FILE
    from ds2_deploy.errors import MissingPackageError
    from ds2_deploy.files import atomic_path
    from ds2_deploy.structs import struct_json
    from training.lm_tune import plot

    with atomic_path(lm / SETTINGS_FILE) as temporary:
        temporary.write_text(struct_json(tuned.settings) + "\n", encoding="utf-8")
    written = f"{lm / SETTINGS_FILE}"
    try:
        plot(tuned, lm / PICTURE)
        written += f" and {lm / PICTURE}"
    except MissingPackageError as error:
        typer.echo(f"ds2: no picture: {error}", err=True)
    typer.echo(f"Wrote {written}.", err=True)


def _warn(tuned: "Tuned", language: str) -> None:
    """Where the language model does harm, whatever it weighs."""
    from ds2_deploy.commands.common import print_failure
    from ds2_deploy.text.languages import language_named

    with_lm, greedy = (errors.counted(tuned.metric)[0] for errors in (tuned.best.errors, tuned.greedy))
    if with_lm > greedy:
        print_failure(
            f"With this language model more {language_named(language).unit} are wrong than by greedy decoding "
            f"({with_lm}, was {greedy}): build one of texts like those of your recordings, or do without."
        )


def _print(tuned: "Tuned") -> None:
    from ds2_deploy.commands.common import print_columns

    settings = tuned.settings
    rows = [
        ("greedy", tuned.greedy),
        (f"beam {settings.beam_width}", tuned.beam),
        (f"beam {settings.beam_width}, language model", tuned.best.errors),
    ]
    if tuned.metric == "CER":
        columns = [(name, f"{e.cer:.2%}", f"{e.character_errors} of {e.characters}") for name, e in rows]
        print_columns(("", "CER", "characters wrong"), columns)
    else:
        words = [(name, f"{e.wer:.2%}", f"{e.word_errors} of {e.words}", f"{e.cer:.2%}") for name, e in rows]
        print_columns(("", tuned.metric, "words wrong", "CER"), words)
    widths = [(str(trial.beam_width), f"{tuned.rate(trial.errors):.2%}") for trial in tuned.widths]
    print_columns(("beam width", tuned.metric), widths)
    typer.echo(f"alpha {settings.alpha:g}, beta {settings.beta:g}, beam width {settings.beam_width}")
