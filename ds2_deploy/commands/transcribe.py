"""ds2 transcribe: recordings to text."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

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
    path_option,
    print_failure,
    usage_errors,
)

if TYPE_CHECKING:
    from ds2_deploy.audio.find import Recording
    from ds2_deploy.audio.load import AudioSource
    from ds2_deploy.output.folder import FolderWriter
    from ds2_deploy.output.writers import TextWriter
    from ds2_deploy.result import Result


CALL_SEGMENT_S = 10.0
"""A channel of a call is silent while the other side speaks: cut at 10 to 30 s fewer words are wrong than uncut
(calls.json)."""


def transcribe(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="A file, a folder, a glob, or - for an audio file on stdin.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="A bundled model or a model folder; without it, default, or streaming with --stream."),
    ] = None,
    backend: BackendName = "auto",
    device: Device = "auto",
    stream: Annotated[
        bool, typer.Option("--stream", help="Chunk by chunk: files of any length in constant memory.")
    ] = False,
    precision: PrecisionName = "fp32",
    decoder: DecoderName = None,
    lm: LmPath = None,
    alpha: Alpha = None,
    beta: Beta = None,
    beam_width: BeamWidth = None,
    hot_word: HotWords = None,
    hot_words: HotWordsFile = None,
    n_best: Annotated[
        int, typer.Option(min=1, max=1000, help="With --format json: so many readings, each with its scores.")
    ] = 1,
    format_name: Annotated[str, typer.Option("--format", metavar="text|json|jsonl|srt|vtt|tsv|ctm")] = "text",
    output_dir: Annotated[
        Path | None,
        path_option(help="Write a file per recording here, none to stdout and none over a .txt beside its recording."),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Search the subfolders of folders.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="With --output-dir: leave out what has its file already.")
    ] = False,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="N|each",
            help="This channel alone, 0 being the first, or each apart, as of a call; without it, the mean of all.",
        ),
    ] = None,
    batch_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Longest batch in seconds of audio, padding included.")
    ] = None,
    max_segment_seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=3600,
            help="Cut longer recordings at silences into pieces of at most that; default 60, of a call 10.",
        ),
    ] = None,
    refuse_long: Annotated[
        bool, typer.Option("--refuse-long", help="Refuse such recordings instead of cutting them.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads in all, at most; without it, one per core.")
    ] = None,
) -> None:
    """Turn recordings into text.

    WAV, FLAC, OGG, Opus, MP3, AIFF and more, of any rate and channel count. One file prints its transcript; several
    print path<TAB>transcript, in the order given.
    """
    from ds2_deploy.audio.find import find_recordings
    from ds2_deploy.files import is_file, is_folder
    from ds2_deploy.output.folder import FolderWriter, check_transcripts, output_files
    from ds2_deploy.output.writers import writer_class

    for name, value in (("--batch-seconds", batch_seconds), ("--max-segment-seconds", max_segment_seconds)):
        if stream and value is not None:
            raise typer.BadParameter(f"{name} does not go with --stream: a step takes a chunk of each recording.")
    if stream and refuse_long:
        raise typer.BadParameter("--refuse-long does not go with --stream, which takes recordings of any length.")
    if n_best > 1 and (format_name not in ("json", "jsonl") or stream or channel == "each"):
        raise typer.BadParameter("--n-best needs --format json or jsonl, and neither --stream nor --channel each.")
    if paths.count("-") > 1:
        raise typer.BadParameter("- is named twice: stdin can be read but once.")
    if skip_existing and output_dir is None:
        raise typer.BadParameter("--skip-existing needs --output-dir.")
    heard_channel = _channel(channel)
    with usage_errors():
        writer = writer_class(format_name)
        search = chosen_decoder(decoder, lm, alpha, beta, beam_width, hot_word, hot_words, n_best)

    recordings, errors = find_recordings(paths, recursive=recursive)
    for error in errors:
        print_failure(error)
    if len(recordings) > 1 and not (writer.joins or output_dir):
        raise typer.BadParameter(
            f"--format {format_name} is one file per recording, and these are {len(recordings)}: add --output-dir."
        )
    files = output_files(recordings, output_dir, writer.suffix) if output_dir else {}
    if skip_existing:
        recordings = [recording for recording in recordings if not is_file(files[recording.name])]
    elif output_dir:
        check_transcripts(recordings, files)
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
            opened = _streamed(model=model or "streaming", **options)
        else:
            options["cut_long"] = not refuse_long
            if heard_channel == "each" and not refuse_long:
                max_segment_seconds = max_segment_seconds or CALL_SEGMENT_S
            limits = {"batch_seconds": batch_seconds, "max_segment_s": max_segment_seconds}
            options |= {name: value for name, value in limits.items() if value is not None}
            opened = _batched(recordings, model=model or "default", **options)
        single = len(paths) == len(recordings) == 1 and not is_folder(paths[0])
        output = FolderWriter(files, writer) if output_dir else writer(sys.stdout, single=single)
        with closing(output):
            failures += _write_all(recordings, heard_channel, opened, output)
    if failures:
        raise typer.Exit(1)


def _channel(text: str | None) -> "int | Literal['each'] | None":
    """Of --channel."""
    if text is None:
        return None
    if text == "each":
        return "each"
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"--channel is {text}: it must be a channel's number, 0 being the first, or `each`.")
    return int(text)


class Opened(NamedTuple):
    """A model that is ready to transcribe."""

    transcribe: Callable[["Iterable[AudioSource]"], "Iterator[Result]"]
    word_separator: str
    """What its alphabet has between words."""


def _batched(recordings: "list[Recording]", **options: Any) -> Opened:
    from ds2_deploy.audio.segments import MAX_SEGMENT_S
    from ds2_deploy.recognizer import Recognizer

    alone = len(recordings) == 1  # then all threads serve its one batch
    workers = 1 if alone and not _is_long(recordings[0], options.get("max_segment_s", MAX_SEGMENT_S)) else None
    with usage_errors():  # a hot word that the model cannot spell
        recognizer = Recognizer.open(workers=workers, **options)
    return Opened(recognizer.transcribe, recognizer.metadata.alphabet.word_separator)


def _is_long(recording: "Recording", limit_s: float) -> bool:
    """Whether it will be cut into several batches; what cannot be read is not."""
    from ds2_deploy.audio.load import audio_duration_s
    from ds2_deploy.errors import AudioError
    from ds2_deploy.files import is_file

    try:
        return is_file(str(recording.source)) and audio_duration_s(recording.source) > limit_s
    except AudioError:
        return False


def _streamed(**options: Any) -> Opened:
    from ds2_deploy.streaming.dispatcher import Dispatcher
    from ds2_deploy.streaming.files import transcribe_streams

    with usage_errors():  # here, so that a model that cannot stream is refused before any output
        dispatcher = Dispatcher.open(**options)

    def transcribe_all(sources: "Iterable[AudioSource]") -> "Iterator[Result]":
        with dispatcher:
            yield from transcribe_streams(dispatcher, sources)

    return Opened(transcribe_all, dispatcher.metadata.alphabet.word_separator)


def _sources(recording: "Recording", channel: "int | Literal['each'] | None") -> "list[AudioSource]":
    """What is to be heard of it; a file that cannot be read is heard as it is, which says why."""
    from ds2_deploy.audio.load import Channel, channels_of, to_read_again
    from ds2_deploy.errors import AudioError

    if channel is None:
        return [recording.source]
    if channel != "each":
        return [Channel(recording.source, channel)]
    file = to_read_again(recording.source)
    try:
        return [*channels_of(file)]
    except AudioError:
        return [file]


def _write_all(
    recordings: "list[Recording]",
    channel: "int | Literal['each'] | None",
    opened: Opened,
    output: "FolderWriter | TextWriter",
) -> int:
    """Write every transcript in order; the number of recordings that failed."""
    from ds2_deploy.errors import OutputError
    from ds2_deploy.files import name_is_at_fault
    from ds2_deploy.output.progress import progress_bar
    from ds2_deploy.output.turns import turns
    from ds2_deploy.output.writers import Transcript

    counts: deque[int] = deque()  # sources of each recording that is under way

    def sources() -> "Iterator[AudioSource]":
        for recording in recordings:
            found = _sources(recording, channel)
            counts.append(len(found))
            yield from found

    failures = 0
    results = opened.transcribe(sources())
    with progress_bar(len(recordings)) as step:
        for recording in recordings:
            with step():
                first = next(results)
                heard = [first, *(next(results) for _ in range(counts.popleft() - 1))]
                failed = next((result for result in heard if result.hypothesis is None), None)
                if failed:
                    print_failure(failed.error)
                    failures += 1
                    continue
                if channel == "each":
                    spoken = turns((result.words for result in heard), opened.word_separator)
                    transcript = Transcript(
                        recording.name, "", first.duration_s, turns=spoken, word_separator=opened.word_separator
                    )
                else:
                    assert first.hypothesis is not None
                    text, readings = first.hypothesis.text, first.hypothesis.readings
                    told = (text, first.duration_s, first.passages, first.words, channel)
                    transcript = Transcript(
                        recording.name, *told, readings=readings, word_separator=opened.word_separator
                    )
                try:
                    output.write(transcript)
                except OutputError as error:
                    if not name_is_at_fault(error):
                        raise
                    print_failure(error)
                    failures += 1
    if next(results, None) is not None:
        raise AssertionError("there are more results than recordings")
    return failures
