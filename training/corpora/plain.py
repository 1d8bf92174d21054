"""Folders of recordings with transcripts beside them, and manifests that are to be checked again."""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ds2_deploy.audio.find import OTHER_SOUND, files_below
from ds2_deploy.errors import ManifestError
from ds2_deploy.manifest import speaker_name
from training.corpora.entry import FAULTS, Dropped, Entry, Items, Part, Reason, audio_files, fault, lines_of, readable

TRANSCRIPT_SUFFIXES = (".txt", ".lab")
TABLES = ("transcripts.txt", "transcripts.tsv", "transcripts.csv", "metadata.csv", "metadata.tsv")
HEADERS = {"audio", "file", "file_name", "filename", "id", "name", "path", "wav_filename"}
"""What the first column of a table is called, where its first line is a header."""
TEXT_COLUMNS = ("normalized_text", "normalised_text", "text", "transcript", "transcription", "sentence")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
"""Names in a header, the best first; where it has none of the former, the text is the last column but the speaker's."""


def is_folder(source: Path) -> bool:
    if source.is_file():
        return source.suffix in (".csv", ".tsv", ".txt")
    return bool(audio_files(source))


def read_folder(source: Path) -> Items:
    """One table of names and texts, or a transcript beside every recording."""
    tables = [source] if source.is_file() else [source / name for name in TABLES if (source / name).is_file()]
    return _from_table(tables[0]) if tables else _from_pairs(source)


def _from_pairs(folder: Path) -> Items:
    """NAME.wav, of any format, and NAME.txt or NAME.lab, in the folder and below it."""
    seen: set[Path] = set()
    for path in audio_files(folder):
        transcript = next(filter(Path.is_file, map(path.with_suffix, TRANSCRIPT_SUFFIXES)), None)
        if transcript is None:
            yield Dropped(str(path), Reason.NO_TRANSCRIPT)
        elif transcript in seen:
            yield Dropped(str(path), Reason.DUPLICATE, f"{transcript.name} went with another format of it")
        else:
            seen.add(transcript)
            yield _with_text_of(path, transcript)
    texts = (path for path in files_below(folder) if path.suffix in TRANSCRIPT_SUFFIXES and path.name[0] != ".")
    for transcript in sorted(set(texts) - seen):
        others = (transcript.with_suffix(kind) for kind in sorted(OTHER_SOUND))
        unread = next(filter(Path.is_file, others), None)
        detail = f"{unread.name} beside it is not read: convert it to WAV first" if unread else ""
        yield Dropped(str(transcript), Reason.UNUSED_TRANSCRIPT, detail)


def _with_text_of(path: Path, transcript: Path) -> Entry | Dropped:
    try:
        return Entry(str(path), transcript.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        return Dropped(str(path), Reason.MALFORMED, f"{transcript.name} is not UTF-8 text: {error}")


def _from_table(table: Path) -> Items:
    """Lines "NAME<tab>TEXT", or with | or commas: the first field names a recording, the last one is its text, or what
    a header calls so; a speaker's name is read where a header tells it.

    A name is a path from the table's folder, or what a recording below it is called, with or without its suffix; so
    LJSpeech's `LJ001-0001|raw text|normalised text` is understood, and so are tables with a header.
    """
    audio = audio_files(table.parent)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in audio:
        by_name[path.stem].append(path)
        by_name[path.name].append(path)
    used: set[Path] = set()
    for item in _listed(table, by_name):
        if isinstance(item, Entry):
            used.add(Path(item.audio))
        yield item
    for path in audio:
        if path not in used:
            yield Dropped(str(path), Reason.NO_TRANSCRIPT, f"{table.name} does not name it")


def _listed(table: Path, by_name: dict[str, list[Path]]) -> Items:
    columns, text, speaker = 0, -1, None
    for row, (number, fields) in enumerate(_rows(table)):  # lines before the first row may be blank
        if row == 0 and fields[0].strip().lower() in HEADERS:
            names = [name.strip().lower() for name in fields]
            speaker = next((names.index(name) for name in SPEAKER_COLUMNS if name in names), None)
            others = [i for i in range(1, len(names)) if i != speaker]
            if not others:
                raise ManifestError(f"{table} has a header without a column of texts: {', '.join(fields)}.")
            text = next((names.index(name) for name in TEXT_COLUMNS if name in names), others[-1])
            columns = len(names)
            continue
        where, columns = f"{table}, line {number}", columns or len(fields)
        path = table.parent / fields[0]
        is_path = os.path.isfile(path)  # noqa: PTH113  # pathlib's raises where a sentence is too long for a name
        found = [path] if is_path else by_name.get(fields[0], [])
        if len(fields) < 2 or len(fields) != columns:
            yield Dropped(where, Reason.MALFORMED, f"{len(fields)} of {max(columns, 2)} columns (tab, | or comma)")
        elif len(found) > 1:
            yield Dropped(where, Reason.MALFORMED, f"{fields[0]} may be {found[0]} or {found[1]}: name its path")
        elif not found:
            yield Dropped(where, Reason.NO_AUDIO, f"no recording {fields[0]} in {table.parent}")
        else:
            yield Entry(str(found[0]), fields[text], "" if speaker is None else fields[speaker].strip())


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields; only commas come with quoting."""
    _, first = next(lines_of(table), (0, ""))
    delimiter = next((mark for mark in "\t|" if mark in first), ",")
    with readable(table), table.open(encoding="utf-8-sig", newline="") as file:
        if delimiter != ",":
            rows = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            yield from ((rows.line_num, fields) for fields in rows if fields)
            return
        lines = file.readlines()
        rows, begins, ends = csv.reader(lines), 0, 0
        for fields in rows:
            begins, ends = ends, rows.line_num
            if ends - begins > 1 or ends == len(lines):
                _check_quotes(lines[begins:ends], table)
            if fields:
                yield rows.line_num, fields


def _check_quotes(row: list[str], table: Path) -> None:
    """ManifestError where a quote that never ends has swallowed lines of a table: up to its end, or to the next quote,
    which begins a text there and so has no comma behind it. On a single line that is meant as it stands."""
    try:
        list(csv.reader(row, strict=True))
    except csv.Error as error:
        if len(row) > 1 or "unexpected end" in str(error):
            raise ManifestError(f"{table} has a quote that never ends: {row[0].strip()[:60]}.") from error


def is_manifest(source: Path) -> bool:
    return "audio_filepath" in first_object(source)


def read_manifest_again(source: Path) -> Items:
    """JSON lines of audio_filepath and text; NeMo's `offset` makes an utterance a part of its recording.

    The recording and the score of what was cut before are kept: a split heeds the one, whoever filters the other.
    """
    for number, line in lines_of(source):
        try:
            yield _entry_of(json.loads(line), source.parent)
        except FAULTS as error:
            yield Dropped(f"{source}, line {number}", Reason.MALFORMED, fault(error))


def _entry_of(fields: dict[str, Any], folder: Path) -> Entry:
    path, text, speaker = folder / fields["audio_filepath"], fields["text"], speaker_name(fields.get("speaker"))
    part = None
    if fields.get("offset") is not None:
        part = Part(float(fields["offset"]), float(fields["duration"]))
    score = None if fields.get("score") is None else float(fields["score"])
    recording = str(folder / fields["recording"]) if fields.get("recording") else ""
    return Entry(str(path), text.strip(), speaker, part, score, recording)


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
