"""One process at a time holds a file; what it forks does not."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from ds2_deploy.errors import OutputError
from ds2_deploy.locking import alone_with


def test_what_is_forked_lets_go(tmp_path: Path) -> None:
    """A loader lives on for seconds after its training was killed."""
    lock = tmp_path / "folder"
    lock.mkdir()
    begun, begins = os.pipe()
    with alone_with(lock, "training"):
        child = os.fork()
        if not child:
            os.write(begins, b".")
            time.sleep(60)
            os._exit(0)
    try:
        os.read(begun, 1)
        with alone_with(lock, "training"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_without_locks_a_file_is_held_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "graph").touch()
    with monkeypatch.context() as patched:
        patched.setattr("fcntl.flock", no_locks)
        with alone_with(tmp_path / "graph", "building"), alone_with(tmp_path / "graph", "building"):
            pass
    with (
        alone_with(tmp_path / "graph", "building"),
        pytest.raises(OutputError, match="is building"),
        alone_with(tmp_path / "graph", "building"),
    ):
        pass
