"""ds2 transcribe: recordings to text."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ds2_deploy.commands.common import (
    Alpha,
    BeamWidth,
    Beta,
    DecoderName,
    HotWords,
    HotWordWeight,
    LmPath,
    chosen_decoder,
    print_failure,
    usage_errors,
)

if TYPE_CHECKING:
    from ds2_deploy.audio.find import Recording
    from ds2_deploy.output.folder import FolderWriter
    from ds2_deploy.output.writers import TextWriter
    from ds2_deploy.recognizer import Result


def transcribe(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="A file, a folder, a glob, or - for an audio file on stdin.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="A bundled model or a model folder; without it, default, or streaming with --stream."),
    ] = None,
    backend: Annotated[Literal["auto", "onnxruntime", "tensorrt", "torch"], typer.Option()] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda:N")] = "auto",
    stream: Annotated[
        bool, typer.Option("--stream", help="Chunk by chunk: files of any length in constant memory.")
    ] = False,
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="Which graph of the model to run.")] = "fp32",
    decoder: DecoderName = None,
    lm: LmPath = None,
    alpha: Alpha = None,
    beta: Beta = None,
    beam_width: BeamWidth = None,
    hot_word: HotWords = None,
    hot_word_weight: HotWordWeight = None,
    format_name: Annotated[str, typer.Option("--format", metavar="text|json|jsonl|srt|vtt|tsv|ctm")] = "text",
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
    max_segment_seconds: Annotated[
        float | None,
        typer.Option(
            min=1, max=3600, help="Cut longer recordings at silences into pieces of at most that; default 60."
        ),
    ] = None,
    refuse_long: Annotated[
        bool, typer.Option("--refuse-long", help="Refuse such recordings instead of cutting them.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads in all; without it, one per core.")
    ] = None,
) -> None:
    """Turn recordings into text.

    WAV, FLAC, OGG, Opus, MP3, AIFF and more, of any rate and channel count. One file prints its transcript; several
    print path<TAB>transcript, in the order given.
    """
    from ds2_deploy.audio.find import find_recordings
    from ds2_deploy.output.folder import FolderWriter, output_files
    from ds2_deploy.output.writers import writer_class
    from ds2_deploy.runtime import cuda_ordinal

    for name, value in (("--batch-seconds", batch_seconds), ("--max-segment-seconds", max_segment_seconds)):
        if stream and value is not None:
            raise typer.BadParameter(f"{name} does not go with --stream: a step takes a chunk of each recording.")
    if stream and refuse_long:
        raise typer.BadParameter("--refuse-long does not go with --stream, which takes recordings of any length.")
    if skip_existing and output_dir is None:
        raise typer.BadParameter("--skip-existing needs --output-dir.")
    with usage_errors():
        writer = writer_class(format_name)
        search = chosen_decoder(decoder, lm, alpha, beta, beam_width, hot_word, hot_word_weight)
        cuda_ordinal(device)

    recordings, errors = find_recordings(paths, recursive=recursive)
    for error in errors:
        print_failure(error)
    if len(recordings) > 1 and not (writer.joins or output_dir):
        raise typer.BadParameter(
            f"--format {format_name} is one file per recording, and these are {len(recordings)}: add --output-dir."
        )
    files = output_files(recordings, output_dir, writer.suffix) if output_dir else {}
    if skip_existing:
        recordings = [recording for recording in recordings if not files[recording.name].exists()]
    failures = len(errors)
    if recordings:
        options: dict[str, Any] = {
            "backend": backend,
            "device": device,
            "precision": precision,
            "decoder": search,
            "threads": threads,
        }
        if stream:
            results = _streamed(recordings, channel, model=model or "streaming", **options)
        else:
            options["cut_long"] = not refuse_long
            limits = {"batch_seconds": batch_seconds, "max_segment_s": max_segment_seconds}
            options |= {name: value for name, value in limits.items() if value is not None}
            results = _batched(recordings, channel, model=model or "default", **options)
        single = len(paths) == len(recordings) == 1 and not Path(paths[0]).is_dir()
        output = FolderWriter(files, writer) if output_dir else writer(sys.stdout, single=single)
        with closing(output):
            failures += _write_all(recordings, results, output, channel)
    if failures:
        raise typer.Exit(1)


def _batched(recordings: "list[Recording]", channel: int | None, **options: Any) -> "Iterator[Result]":
    from ds2_deploy.audio.segments import MAX_SEGMENT_S
    from ds2_deploy.recognizer import Recognizer

    alone = len(recordings) == 1  # then all threads serve its one batch
    workers = 1 if alone and not _is_long(recordings[0], options.get("max_segment_s", MAX_SEGMENT_S)) else None
    recognizer = Recognizer.open(workers=workers, **options)
    return recognizer.transcribe((recording.source for recording in recordings), channel=channel)


def _is_long(recording: "Recording", limit_s: float) -> bool:
    """Whether it will be cut into several batches; what cannot be read is not."""
    from ds2_deploy.audio.load import audio_duration_s
    from ds2_deploy.errors import AudioError

    try:
        return Path(str(recording.source)).is_file() and audio_duration_s(recording.source) > limit_s
    except AudioError:
        return False


def _streamed(recordings: "list[Recording]", channel: int | None, **options: Any) -> "Iterator[Result]":
    from ds2_deploy.streaming.dispatcher import Dispatcher
    from ds2_deploy.streaming.files import transcribe_streams

    dispatcher = Dispatcher.open(**options)  # here, so that a model that cannot stream is refused before any output

    def results() -> "Iterator[Result]":
        with dispatcher:
            yield from transcribe_streams(dispatcher, (recording.source for recording in recordings), channel=channel)

    return results()


def _write_all(
    recordings: "list[Recording]",
    results: "Iterator[Result]",
    output: "FolderWriter | TextWriter",
    channel: int | None,
) -> int:
    """Write every transcript in order; the number of recordings that failed."""
    from ds2_deploy.output.progress import progress_bar
    from ds2_deploy.output.writers import Transcript

    failures = 0
    with progress_bar(len(recordings)) as step:
        for recording, result in zip(recordings, results, strict=True):
            with step():
                if result.hypothesis is None:
                    print_failure(result.error)
                    failures += 1
                else:
                    heard = (result.hypothesis.text, result.duration_s, result.passages, result.words, channel or 0)
                    output.write(Transcript(recording.name, *heard))
    return failures
