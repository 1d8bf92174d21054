"""Folders of recordings with transcripts beside them, and manifests that are to be checked again."""

import json
import math
from pathlib import Path
from typing import Any

from ds2_deploy.audio.find import OTHER_SOUND, files_below
from ds2_deploy.manifest import channel_number, speaker_name
from training.corpora.entry import FAULTS, Dropped, Entry, Items, Part, Reason, audio_files, fault, lines_of, text_file
from training.corpora.subtitles import read_subtitles
from training.corpora.tables import read_table

SUBTITLE_SUFFIXES = (".srt", ".vtt")
TRANSCRIPT_SUFFIXES = (".txt", ".lab", *SUBTITLE_SUFFIXES)
"""Of the transcript beside a recording; the first that is there counts."""
TABLES = ("transcripts.txt", "transcripts.tsv", "transcripts.csv", "metadata.csv", "metadata.tsv")


def is_folder(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() in (".csv", ".tsv", ".txt")
    return bool(audio_files(source))


def read_folder(source: Path) -> Items:
    """One table of names and texts, or a transcript beside every recording."""
    tables = [source] if source.is_file() else [source / name for name in TABLES if (source / name).is_file()]
    return read_table(tables[0]) if tables else _from_pairs(source)


def _from_pairs(folder: Path) -> Items:
    """NAME.wav, of any format, and NAME.txt, .lab, .srt or .vtt, in the folder and below it."""
    seen: set[Path] = set()
    for path in audio_files(folder):
        transcript = next(filter(Path.is_file, map(path.with_suffix, TRANSCRIPT_SUFFIXES)), None)
        if transcript is None:
            yield Dropped(str(path), Reason.NO_TRANSCRIPT)
        elif transcript in seen:
            yield Dropped(str(path), Reason.DUPLICATE, f"{transcript.name} went with another format of it")
        else:
            seen.update(map(path.with_suffix, TRANSCRIPT_SUFFIXES))
            yield from _with_text_of(path, transcript)
    texts = (path for path in files_below(folder) if path.suffix in TRANSCRIPT_SUFFIXES and path.name[0] != ".")
    for transcript in sorted(set(texts) - seen):
        others = (transcript.with_suffix(kind) for kind in sorted(OTHER_SOUND))
        unread = next(filter(Path.is_file, others), None)
        detail = f"{unread.name} beside it is not read: convert it to WAV first" if unread else ""
        yield Dropped(str(transcript), Reason.UNUSED_TRANSCRIPT, detail)


def _with_text_of(path: Path, transcript: Path) -> Items:
    try:
        if transcript.suffix in SUBTITLE_SUFFIXES:
            yield from read_subtitles(path, transcript)
            return
        with text_file(transcript) as file:
            yield Entry(str(path), file.read())
    except (OSError, UnicodeDecodeError) as error:
        yield Dropped(str(path), Reason.MALFORMED, f"{transcript.name} is not UTF-8 text: {error}")


def is_manifest(source: Path) -> bool:
    """Ours or NeMo's, or what `ds2 transcribe --format jsonl` wrote."""
    fields = first_object(source)
    return "audio_filepath" in fields or {"path", "text"} <= fields.keys()


def read_manifest_again(source: Path) -> Items:
    """JSON lines of audio_filepath and text; NeMo's `offset`, or a number as `channel`, makes an utterance a part of
    its recording.

    The recording and the score of what was cut before are kept: a split heeds the one, whoever filters the other.
    """
    for number, line in lines_of(source):
        try:
            yield _entry_of(json.loads(line), source.parent)
        except FAULTS as error:
            yield Dropped(f"{source}, line {number}", Reason.MALFORMED, fault(error))


def _entry_of(fields: dict[str, Any], folder: Path) -> Entry:
    path, text, speaker = _audio_of(fields, folder), fields["text"], speaker_name(fields.get("speaker"))
    part, channel = None, channel_number(fields.get("channel"))
    if fields.get("offset") is not None:
        part = Part(float(fields["offset"]), float(fields["duration"]), channel)
    elif channel is not None:
        part = Part(0.0, math.inf, channel)
    score = None if fields.get("score") is None else float(fields["score"])
    recording = str(folder / fields["recording"]) if fields.get("recording") else ""
    return Entry(str(path), text.strip(), speaker, part, score, recording)


def _audio_of(fields: dict[str, Any], folder: Path) -> Path:
    """From the manifest's folder; what `ds2 transcribe` names as `path`, which it was given, may be from ours."""
    if "audio_filepath" in fields or "path" not in fields:
        name: str = fields["audio_filepath"]
        return folder / name
    path = Path(fields["path"])
    return folder / path if (folder / path).exists() else path


def first_object(source: Path) -> dict[str, Any]:
    """The object in the first line of a .jsonl or .jsonl.gz file; empty where there is none."""
    if not source.name.endswith((".jsonl", ".jsonl.gz")):
        return {}
    _, line = next(lines_of(source), (0, ""))
    try:
        value = json.loads(line)
    except (RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
