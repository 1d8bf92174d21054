"""The command `ds2`: what all commands share. Each command is one function in ds2_deploy/commands/.

Results go to stdout, everything else to stderr. Exit codes: 0 all done, 1 something asked for failed, 2 the call
was wrong, 3 a parity check failed, 130 interrupted.

Command modules import typer and the standard library alone; what is heavy is imported inside the functions, so
that every --help answers at once.
"""

import logging
import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from ds2_deploy import __version__
from ds2_deploy.commands.align import align
from ds2_deploy.commands.bench import bench, bench_compare
from ds2_deploy.commands.build_engine import build_engine
from ds2_deploy.commands.common import INTERRUPTED, print_failure
from ds2_deploy.commands.doctor import doctor
from ds2_deploy.commands.evaluate import evaluate
from ds2_deploy.commands.export import export
from ds2_deploy.commands.import_ import import_
from ds2_deploy.commands.info import info
from ds2_deploy.commands.lm_build import lm_build
from ds2_deploy.commands.lm_tune import lm_tune
from ds2_deploy.commands.manifest import manifest
from ds2_deploy.commands.parity import parity
from ds2_deploy.commands.stream import stream
from ds2_deploy.commands.train import train
from ds2_deploy.commands.transcribe import transcribe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(manifest)
app.command()(train)
app.command()(evaluate)
app.command()(lm_build)
app.command()(lm_tune)
app.command()(align)
app.command("import")(import_)
app.command()(export)
app.command()(parity)
app.command("build-engine")(build_engine)
app.command()(transcribe)
app.command()(stream)
app.command()(bench)
app.command("bench-compare")(bench_compare)
app.command()(info)
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ds2 {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more on stderr; anywhere on the line.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; anywhere on the line.")] = False,
) -> None:
    """DeepSpeech2 speech recognition: train, export, build engines, transcribe."""


def main() -> None:
    """Entry point of `ds2`."""
    arguments, debug = _split_off("--debug", sys.argv[1:])
    arguments, verbose = _split_off("--verbose", arguments)
    _set_up_streams(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    try:
        app(arguments, prog_name="ds2")  # always ends by SystemExit, if not by an error
    except SystemExit as end:
        if end.code == INTERRUPTED:  # do not wait for what other threads are in the middle of
            sys.stdout.flush()
            _leave()
        raise
    except Exception as error:
        if _interrupted(error):
            _leave()
        if debug:
            traceback.print_exc()
        sys.exit(_report(error))


def _leave() -> NoReturn:
    """Without any clean-up but that of other processes."""
    if pool := sys.modules.get("ds2_deploy.decoding.pool"):
        pool.kill_all()
    os._exit(INTERRUPTED)


def _split_off(flag: str, arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without `flag`, and whether it was there (before any `--`)."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != flag]
    return options + arguments[end:], len(options) < end


def _set_up_streams(level: int) -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell has closed it: nobody reads
            setattr(sys, name, open(os.devnull, "w", errors="backslashreplace"))  # noqa: PTH123, SIM115
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    for package in ("ds2_deploy", "training", "export"):
        logging.getLogger(package).setLevel(level)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # names of files are bytes


def _interrupted(error: BaseException | None) -> bool:
    """Whether a library turned Ctrl-C into an error of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _report(error: Exception) -> int:
    """One line on stderr; the exit code."""
    from ds2_deploy.errors import DS2Error, ParityError

    if isinstance(error, DS2Error):
        message = str(error)
    elif isinstance(error, OSError):
        message = f"Cannot read or write {error.filename or 'the results'}: {error.strerror or error}."
    else:
        message = f"unexpected {type(error).__name__}: {error}; run again with --debug to see where."
    print_failure(message)
    return 3 if isinstance(error, ParityError) else 1
