"""Manifests: JSON lines of utterances, the format NeMo users know. No torch."""

import codecs
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ds2_deploy.errors import ManifestError


class Utterance(NamedTuple):
    path: Path
    duration_s: float
    text: str
    speaker: str = ""


class Line(msgspec.Struct):
    """An utterance as it stands in a manifest; other fields of its object are not read."""

    audio_filepath: str
    """Absolute, or relative to the manifest."""
    duration: float
    """Seconds."""
    text: str
    speaker: Any = ""
    offset: float | None = 0.0
    """NeMo's: where the utterance begins in its recording. A manifest of ours knows whole recordings alone."""

    def utterance(self, manifest: Path) -> Utterance:
        check_whole(manifest, self.audio_filepath, self.offset)
        path = (manifest.parent / self.audio_filepath).absolute()
        return Utterance(path, self.duration, self.text, speaker_name(self.speaker))


def check_whole(manifest: Path, audio: str, offset_s: float | None) -> None:
    """ManifestError where a line names a part of its recording; one from the beginning is not known for one."""
    if offset_s:
        raise ManifestError(
            f"{manifest} names a part of {audio}, from {offset_s:g} s on: cut the parts with ds2 manifest and "
            "--audio-dir."
        )


def speaker_name(speaker: Any) -> str:
    """Of a string or a number; null is nobody, as where the field is missing."""
    return "" if speaker is None else str(speaker)


_DECODER = msgspec.json.Decoder(Line)


def read_manifest(path: Path) -> list[Utterance]:
    """Utterances of a manifest, paths resolved; ManifestError names the file, the line and the fault."""
    utterances = [line.utterance(path) for _, line in lines(path)]
    if not utterances:
        raise ManifestError(f"The manifest {path} holds no utterance.")
    return utterances


def read_texts(path: Path) -> list[str]:
    """What is said in a manifest, of parts of recordings, too."""
    return [line.text for _, line in lines(path)]


def lines(path: Path) -> Iterator[tuple[int, Line]]:
    """Byte offset and content of each line that is not blank; ManifestError as soon as one is wrong."""
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield offset, parse(line, path, number)
                offset += len(line)
    except OSError as error:
        raise ManifestError(f"Cannot read the manifest {path}: {error.strerror}.") from error


def parse(line: bytes, manifest: Path, number: int) -> Line:
    """One line, the `number`th of its manifest."""
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        result = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        result = _lenient(line, manifest, number)
    if not 0 <= result.duration < math.inf:
        raise ManifestError(_NOT_TYPED.format(f"{manifest}, line {number}"))
    return result


_NOT_TYPED = "{}: audio_filepath and text must be strings and duration at least 0."


def _lenient(line: bytes, manifest: Path, number: int) -> Line:
    """What is not the rule but has a meaning, such as a number as a string; else ManifestError with the fault."""
    where = f"{manifest}, line {number}"
    try:
        entry = json.loads(line.decode("utf-8"))
        path, duration_s, text = entry["audio_filepath"], float(entry["duration"]), entry["text"]
        offset_s = float(entry.get("offset") or 0)
    except UnicodeDecodeError as error:
        raise ManifestError(f"Cannot read the manifest {manifest}: line {number} is not UTF-8 text.") from error
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where} is not JSON: {error.msg}.") from error
    except KeyError as error:
        raise ManifestError(f"{where} has no field {error}: a line needs audio_filepath, duration and text.") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ManifestError(f"{where} is not an object with audio_filepath, duration (seconds) and text.") from error
    if not (isinstance(path, str) and isinstance(text, str)):
        raise ManifestError(_NOT_TYPED.format(where))
    return Line(path, duration_s, text, entry.get("speaker", ""), offset_s)
