"""ds2 build-engine: a TensorRT engine from a model folder."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

import typer

from ds2_deploy.commands.common import usage_errors


def build_engine(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a bundled model.")],
    fp16: Annotated[bool, typer.Option("--fp16", help="Build from the half precision graph.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Build the streaming graph.")] = False,
    runtime: Annotated[
        Literal["auto", "tensorrt", "tensorrt-rtx"],
        typer.Option(help="auto: TensorRT where it and a GPU are there, else TensorRT-RTX, which needs no GPU."),
    ] = "auto",
    batch: Annotated[
        str | None,
        typer.Option(metavar="MIN:OPT:MAX", help="Recordings at once; else 1:4:16, or 1:8:32 streams."),
    ] = None,
    seconds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MIN:OPT:MAX",
            help="Seconds of audio, a profile for each time it is given; without it, 0:3:5, 5:10:15 and 15:25:35.",
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Replace an engine that is there already.")] = False,
) -> None:
    """Build a TensorRT engine; prints its path, with a JSON of the same name beside it."""
    from export import to_tensorrt
    from export.profiles import parse_batch, parse_seconds

    # In a thread, because the native builder swallows the KeyboardInterrupt of the thread it runs in.
    build = ThreadPoolExecutor(1).submit
    with usage_errors(), _spinner("Building the engine"):
        path = build(
            to_tensorrt.build_engine,
            model,
            fp16=fp16,
            stream=stream,
            runtime=runtime,
            batch=None if batch is None else parse_batch(batch),
            seconds=[parse_seconds(bucket) for bucket in seconds or ()],
            rebuild=rebuild,
        ).result()
    print(path)


def _spinner(text: str) -> AbstractContextManager[object]:
    """A sign of life on stderr where that is a terminal: TensorRT may take minutes, and does not say how many."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
