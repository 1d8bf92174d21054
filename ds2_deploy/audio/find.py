"""Which recordings the arguments of a command mean: files, folders, globs and `-`."""

import glob
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from ds2_deploy.audio.load import EXTENSIONS
from ds2_deploy.errors import AudioError, AudioNotFoundError
from ds2_deploy.files import is_folder

STANDARD_INPUT = "-"
OTHER_SOUND = frozenset((".3gp", ".aac", ".amr", ".m4a", ".mkv", ".mov", ".mp4", ".webm", ".wma"))
"""Files with sound that phones and cameras make and libsndfile does not read."""


class Recording(NamedTuple):
    """One audio file among the inputs."""

    source: str | BinaryIO
    name: str
    """As results and messages call it: as given, or the folder as given and the path in it."""
    relative: Path
    """Where it belongs below an output folder: its path below the folder or the fixed part of the glob."""


def find_recordings(paths: list[str], *, recursive: bool) -> tuple[list[Recording], list[AudioError]]:
    """The recordings in the order given, those of a folder or glob by name; and what led to none."""
    recordings: list[Recording] = []
    errors: list[AudioError] = []
    for path in paths:
        try:
            recordings += _expand(path, recursive, errors)
        except AudioError as error:
            errors.append(error)
    return recordings, errors


def recording_files(source: Path, *, recursive: bool = True) -> list[Path]:
    """The recordings of a folder by name, or a file; the first AudioError, where something led to none, is raised."""
    recordings, errors = find_recordings([str(source)], recursive=recursive)
    if errors:
        raise errors[0]
    return [Path(str(recording.source)) for recording in recordings]


def is_glob(path: str) -> bool:
    """Whether the shell left us a pattern to expand; a file that has the very name is a file."""
    return _has_wildcard(path) and not os.path.exists(path)  # noqa: PTH110  # Path's raises where a name is too long


def _has_wildcard(path: str) -> bool:
    return any(character in path for character in "*?[")


def _expand(path: str, recursive: bool, errors: list[AudioError]) -> list[Recording]:
    if not path:  # an unset variable of the shell, which Path takes for the folder one is in
        raise AudioNotFoundError("An empty name names no recording.")
    if path == STANDARD_INPUT:
        return [Recording(standard_input(), path, Path("stdin"))]
    if is_folder(path):
        return _in_folder(Path(path), recursive, errors)
    if is_glob(path):
        return _matching(path)
    return [Recording(path, path, Path(Path(path).name))]  # whether it is there shows when it is read


def standard_input() -> BinaryIO:
    """AudioError where the shell has closed it."""
    if sys.stdin is None:
        raise AudioError("Standard input is closed: nothing can be heard from there.")
    return sys.stdin.buffer


def _in_folder(folder: Path, recursive: bool, errors: list[AudioError]) -> list[Recording]:
    """What lies there and can be reached; of folders that cannot, `errors` hears."""
    before = len(errors)
    there = list(files_below(folder, recursive=recursive, closed=errors.append))
    found = sorted(filter(_is_audio, there))
    if not found and len(errors) == before:
        others = sorted({path.suffix.lower() for path in there} & OTHER_SOUND)
        hint = "" if recursive else "; --recursive also searches its subfolders"
        hint = f"; convert its {' and '.join(others)} files to WAV first" if others else hint
        raise AudioNotFoundError(f"The folder {folder} holds no recording (WAV, FLAC, OGG, MP3, AIFF){hint}.")
    return [Recording(str(path), str(path), path.relative_to(folder)) for path in found]


def _raised(error: AudioError) -> NoReturn:
    raise error


def files_below(
    folder: Path, *, recursive: bool = True, closed: Callable[[AudioError], None] = _raised
) -> Iterator[Path]:
    """The files of a folder and of those below it, in no order; hidden folders are left out.

    `closed` hears of folders that cannot be read; by itself it raises what it hears.

    Links to folders are followed, as corpora on several disks have them, but each folder is walked once: by its own
    name where it has one here, so links come last, and where they lead in circles there is an end.
    """

    def fail(error: OSError) -> None:
        closed(AudioError(f"Cannot read the folder {error.filename}: {error.strerror}."))

    walked: set[str] = set()
    tops = [folder]
    for top in tops:  # which grows
        for root, folders, names in os.walk(top, onerror=fail):
            real = os.path.realpath(root)
            if real in walked:
                folders.clear()
                continue
            walked.add(real)
            yield from (Path(root, name) for name in names)
            if not recursive:
                return
            folders[:] = sorted(name for name in folders if name[0] != ".")  # of links to one folder always the same
            tops += (path for name in folders if (path := Path(root, name)).is_symlink())


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def _matching(pattern: str) -> list[Recording]:
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207  # pathlib's takes no absolute pattern
    found = sorted(path for path in matches if not is_folder(path))
    if not found:
        raise AudioNotFoundError(f"No file matches {pattern}.")
    fixed = Path(*itertools.takewhile(lambda part: not _has_wildcard(part), Path(pattern).parts))
    return [Recording(path, path, Path(path).relative_to(fixed)) for path in found]
