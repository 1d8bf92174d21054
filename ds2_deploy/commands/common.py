"""What several commands need."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from ds2_deploy.decoding.search import BeamConfig

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def _no_dash(paths: Any) -> Any:
    if Path("-") in (paths if isinstance(paths, list) else [paths]):
        raise typer.BadParameter("- stands for neither stdin nor stdout here: name a file or folder.")
    return paths


path_argument = partial(typer.Argument, readable=False)
path_option = partial(typer.Option, readable=False, callback=_no_dash)
"""Of files and folders. What cannot be read is told when it is read, with exit code 1: it is no wrong call."""


def _known_device(name: str) -> str:
    from ds2_deploy.runtime.devices import cuda_ordinal

    with usage_errors():
        cuda_ordinal(name)
    return name


BackendName = Annotated[Literal["auto", "onnxruntime", "tensorrt", "torch"], typer.Option("--backend")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda:N", callback=_known_device)]
PrecisionName = Annotated[
    Literal["fp32", "fp16"],
    typer.Option("--precision", help="Which graph to run; of PyTorch on a GPU, in what to compute."),
]
DecoderName = Annotated[
    str | None,
    typer.Option(
        "--decoder",
        metavar="greedy|beam|flashlight",
        help="Without it, greedy, or beam where --lm or the like is given.",
    ),
]
LmPath = Annotated[
    Path | None,
    path_option(
        "--lm",
        help="Language model of the search: ARPA, KenLM binary or a folder of ds2 lm-build; none for a search without. "
        "Without this option, the model's own.",
    ),
]
Alpha = Annotated[float | None, typer.Option("--alpha", help="Weight of the language model.")]
Beta = Annotated[float | None, typer.Option("--beta", help="What each word adds to a reading's score.")]
BeamWidth = Annotated[int | None, typer.Option("--beam-width", help="Readings kept from frame to frame.")]
HotWords = Annotated[
    list[str] | None,
    typer.Option(
        "--hot-word",
        metavar="WORD[=WEIGHT]",
        help="A word or phrase to expect, of weight 10; may be given often.",
    ),
]
HotWordsFile = Annotated[
    Path | None, path_option("--hot-words", metavar="FILE", help="A text file of them, one a line.")
]


def chosen_decoder(
    name: str | None,
    lm: Path | None,
    alpha: float | None,
    beta: float | None,
    beam_width: int | None,
    hot_word: list[str] | None,
    hot_words: Path | None,
    n_best: int = 1,
) -> "str | BeamConfig":
    """Of the options above; ConfigError where they contradict each other."""
    from ds2_deploy.decoding import check_decoder
    from ds2_deploy.decoding.search import BeamConfig
    from ds2_deploy.errors import ConfigError

    given = {
        "lm": lm,
        "alpha": alpha,
        "beta": beta,
        "beam_width": beam_width,
        "hot_words": dict(map(_hot_word, [*_lines(hot_words), *(hot_word or [])])) or None,
        "n_best": n_best if n_best > 1 else None,
    }
    given = {option: value for option, value in given.items() if value is not None}
    name = check_decoder(name or ("beam" if given else "greedy"))
    if name != "greedy":
        return BeamConfig(search=name, **given)  # type: ignore[arg-type]
    if given:
        option = next(iter(given)).removesuffix("s").replace("_", "-")
        raise ConfigError(f"--{option} is for a search: add --decoder beam.")
    return name


def _lines(file: Path | None) -> list[str]:
    """Those with words, of which there must be one."""
    from ds2_deploy.errors import LanguageModelError
    from ds2_deploy.files import read_text

    if file is None:
        return []
    lines = [line.strip() for line in read_text(file, LanguageModelError).splitlines() if line.strip()]
    if not lines:
        raise LanguageModelError(f"{file} holds no hot word.")
    return lines


def _hot_word(text: str) -> tuple[str, float]:
    """Of WORD or WORD=WEIGHT."""
    from ds2_deploy.decoding.search import HOT_WEIGHT
    from ds2_deploy.errors import ConfigError

    word, equals, weight = text.partition("=")
    try:
        return word, float(weight) if equals else HOT_WEIGHT
    except ValueError:
        raise ConfigError(f"The hot word {text!r} has no number after its =.") from None


def print_failure(message: object) -> None:
    """One line on stderr."""
    print("ds2:", " ".join(str(message).split()), file=sys.stderr)


def print_rows(rows: Iterable[tuple[str, object]]) -> None:
    """Names and values, aligned; never wrapped, so that a script can read the lines."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


def print_columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table: the first column to the left, the others, numbers, to the right."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        print("  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]))


@contextmanager
def usage_errors() -> Iterator[None]:
    """A ConfigError in here is the fault of the command line: exit code 2."""
    from ds2_deploy.errors import ConfigError

    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
