"""ds2 stream: live captions."""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

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
    usage_errors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ds2_deploy.audio.load import Samples
    from ds2_deploy.output.captions import LineCaptions
    from ds2_deploy.streaming.endpoint import EndpointConfig
    from ds2_deploy.streaming.stream import Stream


def stream(
    source: Annotated[
        str, typer.Argument(metavar="-|FILE", help="-: 16-bit mono on stdin, WAV or raw little-endian.")
    ] = "-",
    rate: Annotated[
        int | None, typer.Option(min=1000, max=1_000_000, help="Sample rate of raw stdin in hertz; without it, 16000.")
    ] = None,
    model: Annotated[str, typer.Option(help="A bundled streaming model or a model folder.")] = "streaming",
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
    format_name: Annotated[
        Literal["text", "jsonl"],
        typer.Option("--format", help="text: a line an utterance, growing on a terminal; jsonl: an object a change."),
    ] = "text",
    rule1: Annotated[
        float | None,
        typer.Option(
            "--rule1-min-trailing-silence",
            min=0,
            help="Seconds of silence that end an utterance, even an empty one; 2.4 unless given.",
        ),
    ] = None,
    rule2: Annotated[
        float | None,
        typer.Option(
            "--rule2-min-trailing-silence", min=0, help="Seconds of silence that end one with text; 1.2 unless given."
        ),
    ] = None,
    rule3: Annotated[
        float | None,
        typer.Option(
            "--rule3-min-utterance-length",
            min=0,
            help="Seconds after which an utterance ends in any case; 20 unless given.",
        ),
    ] = None,
    no_endpoint: Annotated[bool, typer.Option("--no-endpoint", help="One utterance until the input ends.")] = False,
) -> None:
    """Caption live audio, or a recording at its own speed.

    From a microphone: arecord -f S16_LE -r 16000 -c 1 | ds2 stream -. On a terminal the line in progress grows, its
    unfinished word dimmed.
    """
    from ds2_deploy.audio.find import standard_input
    from ds2_deploy.audio.live import played, raw_pcm
    from ds2_deploy.decoding import make_decoder
    from ds2_deploy.model_folder import open_model
    from ds2_deploy.output.captions import caption_writer
    from ds2_deploy.runtime import open_stream_backend
    from ds2_deploy.streaming.stepping import OwnThread
    from ds2_deploy.streaming.stream import Stream

    if source == "-" and standard_input().isatty():
        raise typer.BadParameter("There is no audio on stdin: arecord -f S16_LE -r 16000 -c 1 | ds2 stream -")
    if source != "-" and rate is not None:
        raise typer.BadParameter("--rate is for stdin: a file knows its own.")
    if no_endpoint and (rule1, rule2, rule3) != (None, None, None):
        raise typer.BadParameter("--no-endpoint leaves no rule to change: drop it, or the options of the rules.")
    with usage_errors():
        search = chosen_decoder(decoder, lm, alpha, beta, beam_width, hot_word, hot_words)
        endpoint = _endpoint(rule1, rule2, rule3)
    folder = open_model(model)
    with usage_errors():  # a hot word that the model cannot spell
        decoding = make_decoder(search, folder.metadata.alphabet, folder.path)
    stepper = OwnThread(open_stream_backend(backend, folder, device=device, precision=precision, threads=1))
    live = Stream(stepper, folder.metadata, decoding, endpoint=None if no_endpoint else endpoint)
    if source == "-" and sys.stderr.isatty():
        print("Listening; Ctrl-C ends.", file=sys.stderr)
    rate = (rate or 16000) if source == "-" else folder.metadata.feature.sample_rate
    pieces = raw_pcm(standard_input(), rate) if source == "-" else played(source, rate)
    _caption(live, pieces, rate, caption_writer(format_name, sys.stdout))


def _endpoint(rule1: float | None, rule2: float | None, rule3: float | None) -> "EndpointConfig":
    """The usual rules, but for the seconds that are given."""
    from msgspec.structs import replace

    from ds2_deploy.streaming.endpoint import EndpointConfig

    usual = EndpointConfig()
    return EndpointConfig(
        rule1=usual.rule1 if rule1 is None else replace(usual.rule1, min_trailing_silence=rule1),
        rule2=usual.rule2 if rule2 is None else replace(usual.rule2, min_trailing_silence=rule2),
        rule3=usual.rule3 if rule3 is None else replace(usual.rule3, min_utterance_length=rule3),
    )


def _caption(stream: "Stream", pieces: "Iterator[Samples]", rate: int, writer: "LineCaptions") -> None:
    """Feed the stream until the pieces end or the user has enough; what was said by then is written in any case."""
    shown = ""
    try:
        for piece in pieces:
            stream.accept_waveform(piece, rate)
            for final in stream.take_finals():
                writer.final(final)
                shown = ""
            if (now := stream.result).text != shown:
                writer.partial(now)
                shown = now.text
    finally:
        try:
            stream.input_finished()
        finally:  # where the model has failed, too
            for final in stream.take_finals():
                writer.final(final)
