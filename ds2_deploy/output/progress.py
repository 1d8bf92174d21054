"""A progress bar on stderr where that is a terminal, and nothing where it is not."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

ERASE_LINE = "\r\x1b[2K"


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yields `step`: `with step(): print(result)` writes a result and moves the bar on.

    The bar may share its terminal with stdout, so it is drawn between steps alone and out of the way within them.
    """
    if total < 2 or not sys.stderr.isatty():
        yield nullcontext
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    quiet = {"redirect_stdout": False, "redirect_stderr": False, "auto_refresh": False, "transient": True}
    with Progress(*columns, console=console, **quiet) as progress:  # type: ignore[arg-type]
        task = progress.add_task("", total=total)

        @contextmanager
        def step() -> Iterator[None]:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
            yield
            progress.advance(task)
            progress.refresh()

        progress.refresh()
        yield step
