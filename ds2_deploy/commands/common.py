"""What several commands need."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import typer


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
