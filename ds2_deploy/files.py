"""Files and folders. Written whole or not at all: under a temporary name, then renamed.
And what they are: file, folder or pipe, readable, text, their hash."""

import errno
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ds2_deploy.errors import DS2Error, ModelError, OutputError

_COUNT = itertools.count()
"""Tells temporary files apart that one thread writes at a time."""


def read_text(path: Path, error: type[DS2Error]) -> str:
    """A text file in UTF-8, with or without a byte order mark; `error` where it is not there or is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as cause:
        raise error(f"There is no text at {path}.") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not text in UTF-8: byte {cause.start} is none of it. Save it as UTF-8.") from cause


def read_bytes(path: Path, error: type[DS2Error]) -> bytes:
    """A file as it is; `error` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as cause:
        raise error(f"Cannot read {path}: {cause.strerror}.") from cause


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether it is a regular file; no where its name is too long or its folder is closed to us, too."""
    return os.path.isfile(path)  # noqa: PTH113  # Path's raises there


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether it is a folder, as far as we may look."""
    return os.path.isdir(path)  # noqa: PTH112


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether it is there and neither file nor folder: a pipe or a device."""
    return os.path.exists(path) and not is_file(path) and not is_folder(path)  # noqa: PTH110


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, remove it on failure.

    A link stays one, to the new file; a pipe or a device is itself what is yielded.
    """
    with _reported(path):
        if is_pipe(path):
            yield path
            return
        path = Path(os.path.realpath(path))  # Path's own has no OSError for links in a circle
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{_hidden(path)}{os.getpid()}-{threading.get_native_id()}-{next(_COUNT)}.tmp")
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it takes the place of `path` on success only.

    An existing folder stays untouched until the new one is complete. Only an empty folder or one with the file
    `marker` in it, by which its kind is known, is replaced at all: a mistyped path must not cost anybody's files.
    """
    with _reported(path):
        path = Path(os.path.realpath(path))  # through links, and `.` has a name then
        if path.exists() and not (path / marker).exists() and not (path.is_dir() and not any(path.iterdir())):
            raise OutputError(
                f"Cannot write {path}: it exists and holds no {marker}; remove it or choose another path."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_hidden(path), dir=path.parent))  # a name that nobody has
        temporary.rmdir()
        temporary.mkdir()  # its owner's alone no longer, but as the umask says
        try:
            yield temporary
            if path.exists():
                old = temporary.with_name(f"{temporary.name}.old")
                try:
                    path.replace(old)
                    temporary.replace(path)
                except BaseException:  # Ctrl-C, too
                    if old.exists() and not path.exists():
                        old.replace(path)
                    raise
                finally:
                    if path.exists():
                        shutil.rmtree(old, ignore_errors=True)
            else:
                temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def copy(source: Path, target: Path, *, links: bool) -> None:
    """A file, or a folder with all that is in it. Links stay `links`, or become what they lead to.

    OutputError names what cannot be copied: within `atomic_folder`, it would be told as if it could not be written.
    """
    try:
        if source.is_dir() and not (links and source.is_symlink()):
            shutil.copytree(source, target, symlinks=links)
        else:
            shutil.copy2(source, target, follow_symlinks=not links)
    except shutil.Error as error:  # of all files that failed: from, to and why
        file, _, reason = min(error.args[0])
        raise OutputError(f"Cannot copy {file}: {_UNNAMED.sub('', reason)}.") from error
    except OSError as error:
        raise OutputError(f"Cannot copy {error.filename or source}: {error.strerror or error}.") from error


_UNNAMED = re.compile(r"^\[Errno -?\d+\] |: '.*'$")
"""What the system's words have around them: a number, and the file once more."""


def check_output_folder(path: Path) -> None:
    """Before minutes of work: OutputError where nothing can be written into this folder, which need not be there."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not is_folder(there):
        raise OutputError(f"Cannot write into {path}: {'it' if there == path else there} is not a folder.")
    try:
        tempfile.TemporaryFile(dir=there).close()  # knows the cause, and what a superuser's rights are worth here
    except OSError as error:
        raise OutputError(f"Cannot write into {path}: {error.strerror or error}.") from error


def check_output_file(path: Path) -> None:
    """The same of a file, which `atomic_path` writes: beside what it replaces, behind links, or to a pipe."""
    if is_folder(path):
        raise OutputError(f"Cannot write {path}: it is a folder.")
    if not is_pipe(path):
        check_output_folder(Path(os.path.realpath(path)).parent)


def remove(path: Path) -> None:
    """The file, if it is there; OutputError where it cannot be removed."""
    with _reported(path):
        path.unlink(missing_ok=True)


def _hidden(path: Path) -> str:
    """The beginning of a temporary name: not longer than the name itself may be, in bytes."""
    return f".{path.name[:32]}."


def name_is_at_fault(error: OutputError) -> bool:
    """Whether a file of another name could have been written: this one is too long, or a folder has it."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENAMETOOLONG, errno.EISDIR)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except DS2Error:
        raise  # says what it is already, though some are OSErrors by family
    except FileExistsError as error:  # what mkdir calls a file where a folder should be
        raise OutputError(f"Cannot write {path}: {error.filename} is not a folder.") from error
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error


def check_readable(path: Path) -> None:
    """ModelError where a file that is there cannot be read, for which libraries have other words."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
