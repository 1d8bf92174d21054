"""Manifests: JSON lines of utterances, the format NeMo users know. No torch."""

import codecs
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from ds2_deploy.errors import ManifestError


class Utterance(NamedTuple):
    """A recording and what is said in it."""

    path: Path
    duration_s: float
    text: str
    speaker: str = ""


class Entry(msgspec.Struct, kw_only=True):
    """A recording as it stands in a manifest; other fields of its object are not read."""

    audio_filepath: str
    """Absolute, or relative to the manifest."""
    text: str | None = None
    offset: float | None = 0.0
    """NeMo's: where the utterance begins in its recording. A manifest of ours knows whole recordings alone."""
    channel: Any = None
    """Where it is a number, the utterance is one channel of its recording, 0 being the first."""

    def path(self, manifest: Path) -> Path:
        self.check_whole(manifest)
        return (manifest.parent / self.audio_filepath).absolute()

    def check_whole(self, manifest: Path) -> None:
        """ManifestError where it is a part of a recording; one from the beginning is not known for one."""
        channel = channel_number(self.channel)
        if self.offset or channel is not None:
            what = f"channel {channel} of {self.audio_filepath}"
            if channel is None:
                what = f"a part of {self.audio_filepath}, from {self.offset:g} s on"
            raise ManifestError(f"{manifest} names {what}: cut the parts with ds2 manifest and --audio-dir.")


class Line(Entry, kw_only=True):
    """An utterance: what is said in it is known."""

    duration: float
    """Seconds."""
    text: str
    speaker: Any = ""

    def __post_init__(self) -> None:
        if not 0 <= self.duration < math.inf:
            raise ValueError(self.duration)  # which msgspec takes for a field of the wrong type

    def utterance(self, manifest: Path) -> Utterance:
        return Utterance(self.path(manifest), self.duration, self.text, speaker_name(self.speaker))


L = TypeVar("L", bound=Entry)


def speaker_name(speaker: Any) -> str:
    """Of a string or a number; null is nobody, as where the field is missing."""
    return "" if speaker is None else str(speaker)


def channel_number(channel: Any) -> int | None:
    """None where it is no number from 0 on: fields of that name may say something else, such as by which way a call
    came."""
    return channel if isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0 else None


def read_manifest(path: Path) -> list[Utterance]:
    """Utterances of a manifest, paths resolved; ManifestError names the file, the line and the fault."""
    utterances = [line.utterance(path) for _, line in lines(path, Line)]
    if not utterances:
        raise ManifestError(f"The manifest {path} holds no utterance.")
    return utterances


def manifest_name(path: Path) -> str:
    """A manifest's folder and name, by which a model's provenance knows it."""
    return "/".join(path.absolute().parts[-2:])


def is_of_other_length(told_s: float, heard_s: float) -> bool:
    """Whether a recording is much longer or shorter than its manifest says."""
    return abs(heard_s - told_s) > 0.1 * told_s + 0.5


def read_texts(path: Path) -> list[str]:
    """What is said in a manifest, of parts of recordings, too."""
    return [line.text for _, line in lines(path, Line)]


def lines(path: Path, kind: type[L]) -> Iterator[tuple[int, L]]:
    """Byte offset and content of each line that is not blank; ManifestError as soon as one is wrong."""
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield offset, parse(line, path, number, kind)
                offset += len(line)
    except OSError as error:
        raise ManifestError(f"Cannot read the manifest {path}: {error.strerror or error}.") from error


def parse(line: bytes, manifest: Path, number: int, kind: type[L]) -> L:
    """One line, the `number`th of its manifest."""
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _lenient(line, manifest, number, kind)


def _whole(value: object) -> object:
    """Half a character, as a text that was cut within an emoji has it, is U+FFFD: no file could hold it."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


def _lenient(line: bytes, manifest: Path, number: int, kind: type[L]) -> L:
    """What is not the rule but has a meaning, such as a number as a string; else ManifestError with the fault."""
    where = f"{manifest}, line {number}"
    fields = msgspec.structs.fields(kind)
    needed = ", ".join(field.name for field in fields if field.required)
    try:
        entry = json.loads(line.decode("utf-8"))
        given = {field.name: entry[field.name] for field in fields if field.required or field.name in entry}
        whole = {name: value if name == "audio_filepath" else _whole(value) for name, value in given.items()}
        return msgspec.convert(whole, kind, strict=False)
    except UnicodeDecodeError as error:
        raise ManifestError(f"Cannot read the manifest {manifest}: line {number} is not UTF-8 text.") from error
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where} is not JSON: {error.msg}.") from error
    except KeyError as error:
        raise ManifestError(f"{where} has no field {error}: a line needs {needed}.") from error
    except msgspec.ValidationError as error:
        raise ManifestError(
            f"{where}: audio_filepath and text must be strings, duration a number of at least 0, offset a number."
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ManifestError(f"{where} is not an object with {needed}.") from error
