"""Files and folders that one process holds at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ds2_deploy.errors import OutputError


@contextmanager
def alone_with(path: Path, doing: str) -> Iterator[None]:
    """One process at a time: OutputError where another one holds `path`, a file or folder, and is `doing` something.

    The operating system forgets the lock with its process. Where it has no such locks (Windows), there is none.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    file = os.open(path, os.O_RDONLY)
    _HELD.add(file)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"Another process is {doing} at the moment: wait until it is done.") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        if file in _HELD:  # else this is a child, which has let go of it
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # for a child that was forked just now, too
            _HELD.discard(file)
            os.close(file)


_HELD: set[int] = set()
"""Files of `alone_with`. What this process forks lets go of them: it may live on for a while after a kill."""


def _let_go() -> None:
    while _HELD:
        os.close(_HELD.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
