"""ds2 transcribe: recordings to text."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ds2_deploy.commands.common import print_failure, usage_errors

if TYPE_CHECKING:
    from ds2_deploy.audio.find import Recording
    from ds2_deploy.output.folder import FolderWriter
    from ds2_deploy.output.writers import TextWriter
    from ds2_deploy.recognizer import Recognizer


def transcribe(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="A file, a folder, a glob, or - for an audio file on stdin.")
    ],
    model: Annotated[str, typer.Option(help="A bundled model or a model folder.")] = "default",
    backend: Annotated[Literal["auto", "onnxruntime", "tensorrt", "torch"], typer.Option()] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda:N")] = "auto",
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="Which graph of the model to run.")] = "fp32",
    decoder: Annotated[str, typer.Option(metavar="greedy")] = "greedy",
    format_name: Annotated[str, typer.Option("--format", metavar="text|json|jsonl")] = "text",
    output_dir: Annotated[
        Path | None, typer.Option(help="Write a file per recording here, and none to stdout.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Search the subfolders of folders.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="With --output-dir: leave out what has its file already.")
    ] = False,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Use this channel alone, 0 being the first; without it, the mean of all.")
    ] = None,
    batch_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Longest batch in seconds of audio, padding included.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads in all; without it, one per core.")
    ] = None,
) -> None:
    """Turn recordings into text.

    WAV, FLAC, OGG, Opus, MP3, AIFF and more, of any rate and channel count. One file prints its transcript; several
    print path<TAB>transcript, in the order given.
    """
    from ds2_deploy.audio.find import find_recordings
    from ds2_deploy.decoding import decoder_class
    from ds2_deploy.output.folder import FolderWriter, output_files
    from ds2_deploy.output.writers import writer_class
    from ds2_deploy.recognizer import BATCH_SECONDS, MAX_WORKERS, Recognizer
    from ds2_deploy.runtime import cuda_ordinal

    if skip_existing and output_dir is None:
        raise typer.BadParameter("--skip-existing needs --output-dir.")
    with usage_errors():
        writer = writer_class(format_name)
        decoder_class(decoder)
        cuda_ordinal(device)

    recordings, errors = find_recordings(paths, recursive=recursive)
    for error in errors:
        print_failure(error)
    files = output_files(recordings, output_dir, writer.suffix) if output_dir else {}
    if skip_existing:
        recordings = [recording for recording in recordings if not files[recording.name].exists()]
    failures = len(errors)
    if recordings:
        recognizer = Recognizer.open(
            model,
            backend=backend,
            device=device,
            precision=precision,
            decoder=decoder,
            threads=threads,
            workers=min(len(recordings), MAX_WORKERS),
            batch_seconds=batch_seconds or BATCH_SECONDS,
        )
        single = len(paths) == len(recordings) == 1 and not Path(paths[0]).is_dir()
        output = FolderWriter(files, writer) if output_dir else writer(sys.stdout, single=single)
        with closing(output):
            failures += _transcribe_all(recognizer, recordings, channel, output)
    if failures:
        raise typer.Exit(1)


def _transcribe_all(
    recognizer: "Recognizer",
    recordings: "list[Recording]",
    channel: int | None,
    output: "FolderWriter | TextWriter",
) -> int:
    """Write every transcript in order; the number of recordings that failed."""
    from ds2_deploy.output.progress import progress_bar
    from ds2_deploy.output.writers import Transcript

    failures = 0
    results = recognizer.transcribe((recording.source for recording in recordings), channel=channel)
    with progress_bar(len(recordings)) as step:
        for recording, result in zip(recordings, results, strict=True):
            with step():
                if result.hypothesis is None:
                    print_failure(result.error)
                    failures += 1
                else:
                    output.write(Transcript(recording.name, result.hypothesis.text, result.duration_s))
    return failures
