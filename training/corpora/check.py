"""Checks every recording of a corpus, in threads: decoding happens outside Python's lock.

Two threads decoded LibriSpeech's Opus twice as fast as one, as two processes did, and need no pickling.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import msgspec

from ds2_deploy.audio.load import audio_duration_s, channels_of
from ds2_deploy.errors import AudioError, AudioNotFoundError, ConfigError, SilentAudioError
from ds2_deploy.files import is_pipe
from ds2_deploy.text.punctuation import strip_punctuation
from training.corpora.entry import Dropped, Entry, Items, Part, Reason
from training.corpora.parts import write_part


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an utterance must keep to. The defaults are generous: they catch what is broken, not what is unusual."""

    min_seconds: float = 0.1
    max_seconds: float = 60.0
    min_chars_per_second: float = 0.2
    """Below it, most of what is said is not in the text."""
    max_chars_per_second: float = 40.0
    """Above it, nobody can say the text in that time; English is read at 15, and at up to 28 in single words."""

    def __post_init__(self) -> None:
        for unit in ("seconds", "chars_per_second"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if not 0 <= low < high:
                raise ConfigError(f"min_{unit} is {low} and max_{unit} {high}: both from 0, and the first smaller.")

    def fault(self, duration_s: float, text: str) -> tuple[Reason, str] | None:
        """The first limit that an utterance breaks, and by how much; what has no samples is too short for any."""
        if duration_s <= 0:
            return Reason.TOO_SHORT, "it holds no samples"
        if not self.min_seconds <= duration_s <= self.max_seconds:
            reason = Reason.TOO_SHORT if duration_s < self.min_seconds else Reason.TOO_LONG
            return reason, f"{duration_s:.2f} s; allowed are {self.min_seconds:g} to {self.max_seconds:g}"
        rate = len(text) / duration_s
        if not self.min_chars_per_second <= rate <= self.max_chars_per_second:
            reason = Reason.TOO_SLOW if rate < self.min_chars_per_second else Reason.TOO_FAST
            allowed = f"{self.min_chars_per_second:g} to {self.max_chars_per_second:g}"
            return reason, f"{len(text)} characters in {duration_s:.2f} s; allowed are {allowed} a second"
        return None


class ManifestLine(NamedTuple):
    """A checked line of a manifest; `audio` is absolute."""

    audio: str
    duration_s: float
    text: str
    speaker: str
    score: float | None = None
    """How well an aligned text fits its recording."""
    recording: str = ""
    """What it was cut from, absolute, where it is a part; itself where it is whole."""


Result = ManifestLine | Dropped
WHOLE_S = 0.05
"""A part from the beginning that leaves out less of its recording is all of it; one that ends later by no more than
that, as durations that were rounded do, ends with it."""


def distinct(items: Items, *, punctuation: bool = True) -> Items:
    """The same without what occurs before; paths made absolute and texts' white space made single spaces; perhaps
    without `punctuation`."""
    seen: set[tuple[str, Part | None]] = set()
    for item in items:
        if not isinstance(item, Entry):
            yield item
            continue
        audio = os.path.abspath(item.audio)  # noqa: PTH100  # pathlib keeps `..`, and a million of its objects cost
        key = (audio, item.part)
        if key in seen:
            yield _second(audio, item.text.strip())
        else:
            seen.add(key)
            recording = os.path.abspath(item.recording) if item.recording else audio  # noqa: PTH100
            text = item.text if punctuation else strip_punctuation(item.text)
            yield item._replace(audio=audio, text=" ".join(text.split()), recording=recording)


def checked(
    entries: list[Entry], limits: Limits, *, decode: bool, audio_dir: Path | None, workers: int
) -> Iterator[Result]:
    """A result per entry, in order whatever the number of threads, and each recording once: only here is it known which
    parts are all of their recordings, and which files hold the same."""
    check: Callable[[Entry], tuple[Result, bytes]] = partial(_check, limits=limits, decode=decode, audio_dir=audio_dir)
    seen: set[str] = set()
    held: dict[bytes, ManifestLine] = {}
    with ThreadPool(workers) as pool:
        for result, content in pool.imap(check, entries, chunksize=16):
            if isinstance(result, Dropped):
                yield result
            elif result.audio in seen:
                yield _second(result.audio, result.text)
            elif content in held:
                yield _copy(result, held[content])
            else:
                seen.add(result.audio)
                if content:
                    held[content] = result
                yield result


def _copy(utterance: ManifestLine, first: ManifestLine) -> Dropped:
    if utterance.text == first.text:
        return Dropped(utterance.audio, Reason.COPY, f"of {first.audio}")
    return Dropped(utterance.audio, Reason.OTHER_TEXT, f"of {first.audio}, its text there: {utterance.text!r}")


def _second(audio: str, text: str) -> Dropped:
    return Dropped(audio, Reason.DUPLICATE, f"its text there: {text!r}")


def _within(part: Part, audio: str) -> Part | None:
    """The part as it lies in its recording; None where it is all of it."""
    left_s = audio_duration_s(audio) - part.start_s
    if part.channel == 0 and len(channels_of(audio)) == 1:
        part = part._replace(channel=None)
    if not part.start_s and part.channel is None and part.duration_s > left_s - WHOLE_S:
        return None
    to_its_end = left_s < part.duration_s <= left_s + WHOLE_S or math.isinf(part.duration_s)
    return part._replace(duration_s=left_s) if to_its_end else part


def _check(entry: Entry, *, limits: Limits, decode: bool, audio_dir: Path | None) -> tuple[Result, bytes]:
    """What becomes of an entry, and what tells its recording from others; nothing without decoding."""
    result = _result(entry, limits=limits, decode=decode, audio_dir=audio_dir)
    if isinstance(result, Dropped) or not decode or is_pipe(result.audio):
        return result, b""
    with open(result.audio, "rb") as file:  # noqa: PTH123  # a million Path objects cost
        return result, hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def _result(entry: Entry, *, limits: Limits, decode: bool, audio_dir: Path | None) -> Result:
    if not entry.text:
        return Dropped(entry.audio, Reason.EMPTY_TEXT)
    try:
        part = _within(entry.part, entry.audio) if entry.part else None
        duration_s = part.duration_s if part else audio_duration_s(entry.audio, decode=decode)
        if fault := limits.fault(duration_s, entry.text):
            return Dropped(entry.audio, *fault)
        audio = entry.audio
        if part:
            path, duration_s = write_part(entry.audio, part, audio_dir)
            audio = os.path.abspath(path)  # noqa: PTH100
    except AudioNotFoundError:
        return Dropped(entry.audio, Reason.NO_AUDIO)
    except SilentAudioError as error:
        return Dropped(entry.audio, Reason.SILENT, str(error))
    except AudioError as error:
        return Dropped(entry.audio, Reason.UNREADABLE, str(error))
    return ManifestLine(audio, round(duration_s, 4), entry.text, entry.speaker, entry.score, entry.recording)
