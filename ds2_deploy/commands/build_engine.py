"""ds2 build-engine: a TensorRT engine from a model folder."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ds2_deploy.commands.common import usage_errors

if TYPE_CHECKING:
    from export.progress import BuildProgress


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
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Round float32 products to TF32: faster, and it spoils the spectrogram.")
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible", help="TensorRT: for every GPU of compute capability 8.0 or later; slower."
        ),
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="TensorRT: for its later versions, too; larger.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Write the layers as JSON beside the engine, too.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Replace an engine that is there already.")] = False,
) -> None:
    """Build a TensorRT engine.

    Prints its path; a JSON of the same name lies beside it.
    """
    from ds2_deploy.runtime.trt import BuildOptions
    from export import to_tensorrt
    from export.profiles import parse_batch, parse_seconds

    options = BuildOptions(
        tf32=tf32, hardware_compatible=hardware_compatible, version_compatible=version_compatible, layers=layers
    )
    # In a thread, because the native builder swallows the KeyboardInterrupt of the thread it runs in.
    build = ThreadPoolExecutor(1).submit
    with usage_errors(), _progress("Building the engine") as progress:
        path = build(
            to_tensorrt.build_engine,
            model,
            fp16=fp16,
            stream=stream,
            runtime=runtime,
            batch=None if batch is None else parse_batch(batch),
            seconds=[parse_seconds(bucket) for bucket in seconds or ()],
            options=options,
            rebuild=rebuild,
            progress=progress,
        ).result()
    print(path)


@contextmanager
def _progress(text: str) -> "Iterator[BuildProgress]":
    """What the builder tells, as a bar on stderr where that is a terminal; an interrupt ends the build, too."""
    from export.progress import BuildProgress

    with _bar(text) as report:
        progress = BuildProgress(report)
        try:
            yield progress
        except KeyboardInterrupt:
            progress.stop()
            raise


@contextmanager
def _bar(text: str) -> Iterator[Callable[[float, str], None]]:
    if not sys.stderr.isatty():
        yield lambda share, phase: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("{task.fields[phase]}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=1.0, phase="")
        yield lambda share, phase: bar.update(task, completed=share, phase=phase)
