"""ds2 manifest: a corpus to a manifest, every recording checked."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ds2_deploy.commands.common import path_argument, path_option

LISTED = 3
"""Names of files that a message shows."""


def manifest(
    source: Annotated[
        Path, path_argument(metavar="SOURCE", help="A corpus, a folder of recordings and texts, or a file of either.")
    ],
    out: Annotated[Path, path_option(metavar="M.jsonl", help="The manifest to write.")],
    format_name: Annotated[
        Literal["manifest", "lhotse", "an4", "aishell", "common-voice", "librispeech", "folder"] | None,
        typer.Option("--format", help="What SOURCE is; without it, what it looks like."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Which part of the corpus: train, dev, test, train-clean-5 and so on.")
    ] = None,
    valid_share: Annotated[
        float | None, typer.Option(min=0.001, max=0.9, help="Keep this share of the seconds for --valid-out.")
    ] = None,
    valid_out: Annotated[
        Path | None,
        path_option(
            metavar="V.jsonl", help="A second manifest, of speakers, or recordings, that are not in the first."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the speakers of --valid-out.")] = 0,
    min_seconds: Annotated[float, typer.Option(help="Drop what is shorter.")] = 0.1,
    max_seconds: Annotated[float, typer.Option(help="Drop what is longer.")] = 60.0,
    min_chars_per_second: Annotated[float, typer.Option(help="Drop recordings with less text.")] = 0.2,
    max_chars_per_second: Annotated[float, typer.Option(help="Drop recordings with more text.")] = 40.0,
    strip_punctuation: Annotated[
        bool, typer.Option("--strip-punctuation", help="Keep of texts the words alone, with their apostrophes.")
    ] = False,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not decode: many times faster, blind to FLAC that is cut off.")
    ] = False,
    audio_dir: Annotated[
        Path | None,
        path_option(help="Write parts of recordings here: cuts, NeMo's offsets, subtitles, rows with times."),
    ] = None,
    report: Annotated[
        Path | None, path_option(metavar="R.json", help="Write down everything that was dropped, and why.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Threads; without it, one per core.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Turn a corpus into a manifest; every recording is opened and decoded, and what is dropped is reported.

    LibriSpeech, AN4, Common Voice, AISHELL, cut sets of lhotse, folders with a text, a .lab file or subtitles beside
    each recording or one table for all, and manifests, which are checked again.
    """
    from ds2_deploy.commands.common import print_failure, usage_errors
    from ds2_deploy.errors import ManifestError
    from ds2_deploy.files import check_output_file, check_output_folder
    from ds2_deploy.runtime.devices import cpu_cores
    from training.corpora.build import audit, split_off, write_manifest, write_report
    from training.corpora.check import Limits

    if (valid_share is None) != (valid_out is None):
        raise typer.BadParameter("--valid-share and --valid-out go together.")
    files = [path for path in (out, valid_out, report) if path]
    _refuse_existing([path for path in (*files, audio_dir) if path], overwrite)
    for path in files:
        check_output_file(path)
    if audio_dir:
        check_output_folder(audio_dir)
    with usage_errors():
        limits = Limits(
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            min_chars_per_second=min_chars_per_second,
            max_chars_per_second=max_chars_per_second,
        )
        found = audit(
            source,
            format_name=format_name,
            split=split,
            limits=limits,
            decode=not headers_only,
            audio_dir=audio_dir,
            workers=workers or cpu_cores(),
            punctuation=not strip_punctuation,
        )
    if report:
        write_report(report, found)
    for line in (*found.notes, *found.summary()):
        print_failure(line)
    if not found.kept:
        raise ManifestError(
            f"{source}, read as {found.format_name}, holds nothing usable: {out} is not written.{_lists_in(source)}"
        )
    manifests = {out: found.kept}
    if valid_share and valid_out:
        manifests[out], manifests[valid_out], by = split_off(found.kept, valid_share, seed)
        print_failure(f"{out} and {valid_out} are split by {by}.")
    for path, utterances in manifests.items():
        write_manifest(path, utterances)
        hours = sum(utterance.duration_s for utterance in utterances) / 3600
        print(f"Wrote {path}: {len(utterances)} utterances, {hours:.2f} h.")
    if found.failed:
        raise typer.Exit(1)


def _lists_in(source: Path) -> str:
    """A sentence about files in a folder that may say what its recordings do not: a folder is not read by these."""
    names = sorted(path.name for path in source.glob("*") if path.suffix.lower() in (".csv", ".jsonl", ".tsv"))
    shown = " and ".join(names if len(names) <= LISTED else [*names[:LISTED], f"{len(names) - LISTED} more"])
    return f" It holds {shown}: where that lists the recordings, give it as SOURCE." if names else ""


def _refuse_existing(outputs: list[Path], overwrite: bool) -> None:
    from ds2_deploy.errors import OutputError

    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise typer.BadParameter("--out, --valid-out, --report and --audio-dir must be different paths.")
    for path in outputs:
        if not overwrite and (any(path.iterdir()) if path.is_dir() else path.exists()):
            raise OutputError(f"{path} exists already: add --overwrite, or choose another path.")
