"""ds2 evaluate: error rates and speed of a model on a manifest."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ds2_deploy.commands.common import (
    Alpha,
    BackendName,
    BeamWidth,
    Beta,
    DecoderName,
    Device,
    HotWords,
    HotWordsFile,
    LmPath,
    PrecisionName,
    chosen_decoder,
    path_argument,
    path_option,
    print_columns,
    print_failure,
    usage_errors,
)

if TYPE_CHECKING:
    from ds2_deploy.decoding.search import BeamConfig
    from ds2_deploy.evaluation import Evaluation, Scored
    from ds2_deploy.recognizer import Recognizer


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|CHECKPOINT", help="A bundled model, model folder or checkpoint.")
    ],
    manifest: Annotated[Path, path_argument(metavar="MANIFEST", help="JSON lines of audio_filepath, duration, text.")],
    backend: BackendName = "auto",
    device: Device = "auto",
    precision: PrecisionName = "fp32",
    decoder: DecoderName = None,
    lm: LmPath = None,
    alpha: Alpha = None,
    beta: Beta = None,
    beam_width: BeamWidth = None,
    hot_word: HotWords = None,
    hot_words: HotWordsFile = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL|CHECKPOINT", help="Another one, such as that in use, to compare with."),
    ] = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="PERCENT",
            help="Exit code 1 where the error rate is higher than --against's by more points, and not by chance.",
        ),
    ] = None,
    worst: Annotated[
        int, typer.Option(min=0, help="Show so many recordings with the most wrong words, and what was wrong.")
    ] = 0,
    breakdown: Annotated[bool, typer.Option("--breakdown", help="Show each speaker and length apart.")] = False,
    html: Annotated[Path | None, path_option(help="Write a page with everything, every wrong word in colour.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Error rates of a model on a manifest, and its speed.

    Of words and characters, or of phonemes. A checkpoint runs in PyTorch.
    """
    from ds2_deploy.evaluation import compared
    from ds2_deploy.evaluation import evaluate as run
    from ds2_deploy.files import atomic_path, check_output_file
    from ds2_deploy.manifest import read_manifest
    from ds2_deploy.output.differences import write_html

    if as_json and worst:
        raise typer.BadParameter("--worst does not go with --json: take --html for every error.")
    if fail_over is not None and against is None:
        raise typer.BadParameter("--fail-over needs --against: a model to be no worse than.")
    with usage_errors():
        search = chosen_decoder(decoder, lm, alpha, beta, beam_width, hot_word, hot_words)
    if html:
        check_output_file(html)
    utterances = read_manifest(manifest)
    recognizer = _open(model, backend, device, precision, search)
    other = _open(against, backend, device, precision, search) if against else None
    evaluation, scored, failures = run(recognizer, utterances)
    told = [*failures, *_warnings(model, recognizer, manifest, evaluation, scored)]
    if against and other:
        second, others, there = run(other, utterances)
        told += [*there, *_learnt_from(against, other, manifest)]
    for line in dict.fromkeys(map(str, told)):  # once, what is wrong with a recording for both
        print_failure(line)
    if against and other:
        evaluation = compared(evaluation, scored, against, second, others)
    typer.echo(evaluation.to_json() if as_json else evaluation.summary())
    if not as_json:
        _print_details(evaluation, scored, worst, breakdown)
    if html:
        with atomic_path(html) as temporary:
            write_html(temporary, f"{model} on {manifest.name}", evaluation, scored)
    worse = fail_over is not None and evaluation.against is not None and evaluation.against.is_better(fail_over)
    if worse:
        print_failure(f"{model} is worse than {against} by more than {fail_over:g} percentage points, beyond chance.")
    if failures or worse:
        raise typer.Exit(1)


def _learnt_from(model: str, recognizer: "Recognizer", manifest: Path) -> Iterator[str]:
    from ds2_deploy.manifest import manifest_name

    if (name := manifest_name(manifest)) in recognizer.metadata.provenance.train:
        yield f"{model} has learnt from a manifest called {name}: if it is this one, this is no test."


def _warnings(
    model: str, recognizer: "Recognizer", manifest: Path, evaluation: "Evaluation", scored: "list[Scored]"
) -> Iterator[str]:
    """What makes a model look better than it hears, or worse."""
    from ds2_deploy.manifest import is_of_other_length

    yield from _learnt_from(model, recognizer, manifest)
    if lying := [s for s in scored if is_of_other_length(s.reference.duration_s, s.duration_s)]:
        first = lying[0]
        yield (
            f"{len(lying)} of {len(scored)} recordings are not as long as {manifest} says, such as "
            f"{first.reference.path} ({first.reference.duration_s:.1f} s there, {first.duration_s:.1f} s heard). If "
            "its lines are of parts of recordings, ds2 manifest with --audio-dir cuts these."
        )
    if warning := evaluation.warning():
        yield warning


def _print_details(evaluation: "Evaluation", scored: "list[Scored]", worst: int, breakdown: bool) -> None:
    from ds2_deploy.output import differences
    from ds2_deploy.text.languages import language_named

    language = language_named(evaluation.language)
    for name, groups in (("speaker", evaluation.speakers), ("length", evaluation.lengths)):
        if breakdown and groups:
            typer.echo()
            rows = (differences.group_row(group, language) for group in groups)
            print_columns((name, *differences.group_columns(language)), rows)
    shown = differences.for_terminal if sys.stdout.isatty() else differences.for_pipe
    for s in differences.worst(scored, worst, language):
        wrong, units = s.errors.counted(language.metric)
        found = shown(differences.differences(s, language), language.unit_separator)
        typer.echo(f"\n{s.reference.path}: {wrong} of {units} {language.unit}\n  {found}")


def _open(model: str, backend: str, device: str, precision: PrecisionName, decoder: "str | BeamConfig") -> "Recognizer":
    from ds2_deploy.errors import BackendUnavailableError
    from ds2_deploy.extras import TRAIN, require_all
    from ds2_deploy.model_folder import is_checkpoint
    from ds2_deploy.recognizer import Recognizer, batch_seconds_on

    if not is_checkpoint(model):
        with usage_errors():  # a hot word that the model cannot spell
            return Recognizer.open(model, backend=backend, device=device, precision=precision, decoder=decoder)
    if backend not in ("auto", "torch") or precision != "fp32":
        raise BackendUnavailableError(f"{model} is a checkpoint, which runs in PyTorch in fp32 alone: export it first.")
    require_all(TRAIN)
    from ds2_deploy.decoding import make_decoder
    from ds2_deploy.model.checkpoint import load_model
    from ds2_deploy.runtime.torch_backend import TorchBackend

    module = load_model(model)
    with usage_errors():
        search = make_decoder(decoder, module.metadata.alphabet)
    loaded = TorchBackend.of(module, device=device)
    together = batch_seconds_on(loaded.device)
    return Recognizer(metadata=module.metadata, backend=loaded, decoder=search, batch_seconds=together)
