"""From a corpus to manifests, with an account of what was left out."""

import json
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from ds2_deploy.errors import AudioNotFoundError, ConfigError, ManifestError
from ds2_deploy.files import atomic_path
from training.corpora.check import Limits, ManifestLine, checked, distinct
from training.corpora.entry import Dropped, Entry, Note
from training.corpora.formats import read, recognised


class Audit(NamedTuple):
    """What of a corpus a manifest may hold, and what not, in the corpus' order."""

    format_name: str
    kept: list[ManifestLine]
    dropped: list[Dropped]
    notes: list[str]
    """How it was understood, in sentences."""

    @property
    def failed(self) -> bool:
        """Whether the corpus promises something that it does not hold."""
        return any(item.reason.is_failure for item in self.dropped)

    def summary(self) -> Iterator[str]:
        """A line per reason: how many, and the first of them."""
        counts = Counter(item.reason for item in self.dropped)
        for reason, count in counts.most_common():
            first = next(item for item in self.dropped if item.reason == reason)
            detail = f" ({first.detail.rstrip('.')})" if first.detail else ""
            yield f"{count} dropped: {reason}, first {first.item}{detail}"


def audit(
    source: Path,
    *,
    format_name: str | None,
    split: str | None,
    limits: Limits,
    decode: bool,
    audio_dir: Path | None,
    workers: int,
    punctuation: bool = True,
) -> Audit:
    """Read the corpus and check every recording, under a progress bar where stderr is a terminal."""
    if not source.exists():
        raise AudioNotFoundError(f"There is no file or folder {source}.")
    format_name = format_name or recognised(source)
    items = list(distinct(read(source, format_name, split), punctuation=punctuation))
    entries = [item for item in items if isinstance(item, Entry)]
    dropped = [item for item in items if isinstance(item, Dropped)]
    notes = [item.text for item in items if isinstance(item, Note)]
    if audio_dir is None and any(entry.part and entry.part.start_s for entry in entries):  # others may be whole
        raise ConfigError(f"{source} cuts recordings into parts: --audio-dir says where to write these as files.")
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    results = checked(entries, limits, decode=decode, audio_dir=audio_dir, workers=workers)
    kept: list[ManifestLine] = []
    silent = not console.is_terminal
    for result in track(results, "checking", len(entries), console=console, transient=True, disable=silent):
        kept.append(result) if isinstance(result, ManifestLine) else dropped.append(result)
    notes += _digits([utterance.text for utterance in kept])
    return Audit(format_name, kept, dropped, notes)


def _digits(texts: list[str]) -> Iterator[str]:
    """A sentence about texts that say numbers in digits: nobody knows how these were spoken."""
    found = [text for text in texts if any(map(str.isdecimal, text))]
    if found:
        texts_have = "text has" if len(found) == 1 else "texts have"
        yield f"{len(found)} {texts_have} digits, such as {found[0]!r}: write them out as they are spoken."


class Split(NamedTuple):
    """Utterances in two lists, each in its order."""

    train: list[ManifestLine]
    valid: list[ManifestLine]
    by: str
    """What is in one list alone, as a message says it."""


def split_off(utterances: list[ManifestLine], share: float, seed: int) -> Split:
    """Two lists, the second of at most `share` of the seconds, by whole speakers where several are known, or
    recordings.

    They are drawn in random order and taken where they still fit; if none does, the shortest.
    """
    groups, by = _groups(utterances)
    if len(groups) < 2:
        raise ManifestError("--valid-share cannot split what one recording holds: give a corpus of several.")
    seconds = {name: sum(utterance.duration_s for utterance in group) for name, group in groups.items()}
    left_s, taken = share * sum(seconds.values()), set()
    for name in random.Random(seed).sample(sorted(groups), len(groups)):
        if seconds[name] <= left_s:
            taken.add(name)
            left_s -= seconds[name]
    taken = taken or {min(groups, key=lambda name: (seconds[name], name))}
    valid = {utterance for name in taken for utterance in groups[name]}
    return Split([u for u in utterances if u not in valid], [u for u in utterances if u in valid], by)


def _groups(utterances: list[ManifestLine]) -> tuple[dict[str, list[ManifestLine]], str]:
    """What is not to be parted, and what that is; by recordings where there is one speaker, who cannot be parted."""
    speakers = {utterance.speaker for utterance in utterances}
    groups: dict[str, list[ManifestLine]] = defaultdict(list)
    for utterance in utterances:
        known = utterance.speaker and len(speakers) > 1
        groups[f"speaker {utterance.speaker}" if known else utterance.recording or utterance.audio].append(utterance)
    if speakers == {""}:
        by = "recordings: no speakers are named"
    elif len(speakers) == 1:
        by = "recordings: the only speaker is in both"
    else:
        count = len(speakers - {""})
        by = f"{count} speaker{'s' * (count > 1)}" + ", and by recordings where none is named" * ("" in speakers)
    return groups, by


def write_manifest(path: Path, utterances: Iterable[ManifestLine]) -> None:
    """JSON lines; paths relative to the manifest where the recording lies below its folder, so that both can move."""
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100  # without `..`, as recordings have it
    # A name that is no UTF-8 becomes the JSON escape of its surrogates, which reads back as the same bytes.
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for utterance in utterances:
            file.write(_line(utterance, folder))


def _line(utterance: ManifestLine, folder: Path) -> str:
    fields: dict[str, Any] = {
        "audio_filepath": _named(utterance.audio, folder),
        "duration": utterance.duration_s,
        "text": utterance.text,
    }
    if utterance.speaker:
        fields["speaker"] = utterance.speaker
    if utterance.score is not None:
        fields["score"] = utterance.score
    if utterance.recording not in ("", utterance.audio):  # else a later split would part what was said in one breath
        fields["recording"] = _named(utterance.recording, folder)
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _named(audio: str, folder: Path) -> str:
    """From the folder of the manifest, where it lies below."""
    path = Path(os.path.abspath(audio))  # noqa: PTH100
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def write_report(path: Path, found: Audit) -> None:
    """Everything that was dropped and why, as JSON."""
    counts = Counter(item.reason for item in found.dropped)
    facts = {
        "format": found.format_name,
        "notes": found.notes,
        "kept": len(found.kept),
        "kept_s": round(sum(utterance.duration_s for utterance in found.kept), 3),
        "counts": dict(counts.most_common()),
        "dropped": [item._asdict() for item in found.dropped],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8", "backslashreplace")
