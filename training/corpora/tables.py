"""Tables of recordings and texts, as spreadsheets, databases and corpora export them."""

import csv
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePath, PureWindowsPath
from typing import NamedTuple

from ds2_deploy.audio.load import EXTENSIONS
from ds2_deploy.errors import ManifestError
from training.corpora.entry import Dropped, Entry, Items, Note, Part, Reason, audio_files, readable, seconds, text_file

MARKS = "\t|,;"
"""What may stand between columns, the likeliest first."""
SAMPLE = 100
"""Rows by which marks and columns are told."""
WORDS = {
    "audio": (
        "audio_filepath", "audio", "audio_file", "audio_path", "wav", "wav_filename", "wav_file", "file_name",
        "filename", "file", "path", "recording", "audiodatei", "dateiname", "datei", "aufnahme", "fichier", "archivo",
        "name", "id",
    ),
    "text": (
        "normalized_text", "normalised_text", "text", "transcript", "transcription", "sentence", "content",
        "utterance", "transkript", "transkription", "satz", "texte", "phrase", "texto",
    ),
    "speaker": (
        "speaker", "speaker_id", "client_id", "spk", "spk_id", "sprecher", "sprecherin", "locuteur", "hablante",
    ),
    "start": ("start", "start_s", "start_time", "start_seconds", "begin", "offset", "beginn", "anfang", "début"),
    "end": ("end", "end_s", "end_time", "end_seconds", "stop", "ende", "fin"),
    "duration": ("duration", "duration_s", "duration_seconds", "dauer", "durée"),
    "channel": ("channel", "kanal", "canal"),
}  # fmt: skip
"""Role of a column -> what headers call it, the best first; small letters, with _ for spaces."""
NUMBER = re.compile(r"[-+]?\d[\d.,:/%]*")


class Columns(NamedTuple):
    """Where a table has what."""

    places: dict[str, int]
    """Role -> column, counted from 0."""
    header: list[str]
    """Its first line; empty where that is none."""
    width: int
    guessed: bool
    """Whether nothing says which column the text is."""

    def label(self, role: str) -> str:
        place = self.places[role]
        return f"column {self.header[place].strip()!r}" if self.header else f"column {place + 1}"

    def cell(self, fields: list[str], role: str) -> str:
        """Nothing where the table has no such column."""
        return fields[self.places[role]].strip() if role in self.places else ""

    def __str__(self) -> str:
        """What was understood, as a person reads it."""
        found = [f"{role} from {self.label(role)}" for role in WORDS if role in self.places]
        if "speaker" not in self.places:
            found.append("no speakers")
        cure = "; the text's column is a guess: call it text in the first line" if self.guessed else ""
        return ", ".join(found) + cure


class Recordings:
    """What lies below a table's folder, by the names that tables use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = audio_files(folder)
        self.used: set[Path] = set()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            for name in {path.stem.casefold(), path.name.casefold()}:
                self._by_name[name].append(path)

    def called(self, name: str) -> list[Path]:
        """A path from the folder, in the manner of Windows, too; or a name, with or without its suffix, in any case,
        and with as many folders before it as are told. An absolute path of another machine is what its end leads to.
        """
        for path in (self.folder / name, self.folder / name.replace("\\", "/")):
            if os.path.isfile(path):  # noqa: PTH113  # pathlib's raises where a sentence is too long for a name
                return [path]
        told = PureWindowsPath(name)  # which knows both slashes
        folders = told.parts[bool(told.anchor) : -1]
        shared = {path: _shared(folders, path) for path in self._by_name.get(told.name.casefold(), [])}
        most = max(shared.values(), default=0)
        found = [path for path, count in shared.items() if count == most and (told.anchor or count == len(folders))]
        return [path for path in found if told.name in (path.name, path.stem)] or found


def _shared(folders: Sequence[str], path: Path) -> int:
    """How many of the folders, from the last on, a recording lies in."""
    own = PurePath(os.path.abspath(path)).parent.parts  # noqa: PTH100
    pairs = zip(reversed(folders), reversed(own), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].casefold() == pair[1].casefold(), pairs))


def read_table(table: Path) -> Items:
    """A recording, a text and perhaps a speaker a row, in columns that a header names, or that are found by what they
    hold: LJSpeech's `LJ001-0001|raw text|normalised text` as well as what spreadsheets write."""
    recordings, rows = Recordings(table.parent), _rows(table)
    if rows:
        columns = _columns(table, rows, recordings)
        yield Note(f"{table}: {columns}.")
        yield from _entries(table, rows[bool(columns.header) :], columns, recordings)
    for path in recordings.files:
        if path not in recordings.used:
            yield Dropped(str(path), Reason.NO_TRANSCRIPT, f"{table.name} does not name it")


def _entries(table: Path, rows: list[tuple[int, list[str]]], columns: Columns, recordings: Recordings) -> Items:
    moved: list[tuple[str, Path]] = []
    for number, fields in rows:
        where = f"{table}, line {number}"
        if len(fields) != columns.width:
            detail = f"{len(fields)} of {columns.width} columns (tab, |, comma or semicolon)"
            yield Dropped(where, Reason.MALFORMED, detail)
            continue
        name = columns.cell(fields, "audio")
        found = recordings.called(name)
        if len(found) > 1:
            yield Dropped(where, Reason.MALFORMED, f"{name} may be {found[0]} or {found[1]}: name its path")
        elif not found:
            yield Dropped(where, Reason.NO_AUDIO, f"no recording {name} in the folder of {table.name} or below")
        else:
            if PureWindowsPath(name).anchor and found[0] != recordings.folder / name:
                moved.append((name, found[0]))
            recordings.used.add(found[0])
            yield _entry(str(found[0]), columns, fields, where)
    if moved:
        first = f"{moved[0][0]} is taken for {moved[0][1]}"
        yield Note(f"{table} has paths of another place, {len(moved)} of which were found by their ends: {first}.")


def _entry(audio: str, columns: Columns, fields: list[str], where: str) -> Entry | Dropped:
    try:
        part = _part(columns, fields)
    except ValueError as error:
        return Dropped(where, Reason.MALFORMED, str(error))
    return Entry(audio, columns.cell(fields, "text"), columns.cell(fields, "speaker"), part)


def _part(columns: Columns, fields: list[str]) -> Part | None:
    """Of a row with a start or a channel; ValueError where these are none."""
    start, end, duration, channel = (columns.cell(fields, role) for role in ("start", "end", "duration", "channel"))
    if channel and not channel.isdecimal():
        raise ValueError(f"{channel!r} is no channel: write 0, 1 and so on, or call the column otherwise")
    number = int(channel) if channel else None
    if start:
        start_s = seconds(start)
        return Part.between(start_s, seconds(end) if end else start_s + seconds(duration), number)
    return None if number is None else Part(0.0, math.inf, number)


def _columns(table: Path, rows: list[tuple[int, list[str]]], recordings: Recordings) -> Columns:
    """By the words of a header; without one the audio is the column that names recordings, the text the last one."""
    first = rows[0][1]
    if len(first) < 2:
        raise ManifestError(f"{table} has a first line of one column: a tab, |, comma or semicolon parts several.")
    places = _named(first)
    header = first if _is_header(first, places, recordings) else []
    places = places if header else {}
    guessed = "text" not in places
    sample = [fields for _, fields in rows[bool(header) :][:SAMPLE]]
    names = ", ".join(filter(str.strip, header))
    others = set(places.values()) - {places.get("audio")}
    free = [i for i in range(len(first)) if i not in others and (not header or header[i].strip())]
    if not free:
        raise ManifestError(f"{table} has a header without a column of recordings: {names}. Call it audio.")
    places["audio"] = _audio_column(sample, free, places.get("audio"), recordings)
    if guessed:
        rest = [i for i in free if i != places["audio"]]
        if not rest:
            raise ManifestError(f"{table} has a header without a column of texts: {names}. Call it text.")
        places["text"] = rest[-1]
    _check_times(table, places)
    columns = Columns(places, header, len(first), guessed)
    numbered = (columns.cell(fields, "channel").isdecimal() for _, fields in rows if len(fields) == columns.width)
    if not any(numbered):
        places.pop("channel", None)  # words say something else, such as by which way a call came
    if guessed:
        _check_guess(table, columns, rows)
    return columns


def _check_times(table: Path, places: dict[str, int]) -> None:
    """Without a start, an end and a duration are of no use, nor is a duration beside an end."""
    if "start" not in places:
        places.pop("end", None)
    elif not places.keys() & {"end", "duration"}:
        raise ManifestError(f"{table} has a column of starts and none of ends: add one called end, or duration.")
    if "start" not in places or "end" in places:
        places.pop("duration", None)


def _named(fields: list[str]) -> dict[str, int]:
    """Role -> column that is called so."""
    names = [re.sub(r"[\s-]+", "_", field.strip().lower()) for field in fields]
    found = {role: next((names.index(word) for word in words if word in names), None) for role, words in WORDS.items()}
    return {role: place for role, place in found.items() if place is not None}


def _is_header(fields: list[str], named: dict[str, int], recordings: Recordings) -> bool:
    """Words of headers may be texts, too, but not beside the name of a recording."""
    others = [field.strip() for place, field in enumerate(fields) if place not in named.values()]
    has_file = any(Path(field).suffix.lower() in EXTENSIONS for field in fields) or any(map(recordings.called, others))
    return ("audio" in named or len(named) > 1) and not has_file


def _audio_column(sample: list[list[str]], free: list[int], named: int | None, recordings: Recordings) -> int:
    """The one that a header calls so, unless another one names recordings that are there and it none."""

    def hits(column: int) -> int:
        return sum(bool(recordings.called(fields[column].strip())) for fields in sample if column < len(fields))

    if named is not None and hits(named):
        return named
    first = free[:1] if named is None else [named]
    return max([*first, *free], key=hits)


def _check_guess(table: Path, columns: Columns, rows: list[tuple[int, list[str]]]) -> None:
    """ManifestError where what was taken for texts cannot be: numbers alone, or always the same."""
    rows = rows[bool(columns.header) :]
    values = [value for _, fields in rows if len(fields) == columns.width and (value := columns.cell(fields, "text"))]
    if len(values) < 2:
        return
    numbers, same = all(map(NUMBER.fullmatch, values)), len(set(values)) == 1
    if numbers or same:
        fault = f"holds numbers alone, such as {values[0]!r}" if numbers else f"says {values[0]!r} in every line"
        raise ManifestError(
            f"{table} does not say which column is the text, and the last, {columns.label('text')}, {fault}: name the "
            "columns in the first line, as in audio,text,speaker."
        )


def _rows(table: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and fields of the rows that are not empty. Tabs and | come with quoting or without."""
    with readable(table):
        with text_file(table, newline="") as file:
            lines = file.readlines()
        mark = _mark_of([line for line in lines if line.strip()][:SAMPLE])
        if mark not in ",;" and not _is_quoted(lines, mark):
            rows = csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE)
            found = [(rows.line_num, fields) for fields in rows]
        else:
            found = list(_quoted_rows(lines, mark, table))
    return [(number, fields) for number, fields in found if any(map(str.strip, fields))]


def _mark_of(lines: list[str]) -> str:
    """What parts the most lines into one number of columns; of comma and semicolon, the other of which texts may hold,
    the one that comes first."""

    def agreeing(mark: str) -> int:
        rows = csv.reader(lines, delimiter=mark) if mark in ",;" else (line.split(mark) for line in lines)
        widths = map(len, rows)
        return max(Counter(width for width in widths if width > 1).values(), default=0)

    first = Counter(found[0] for line in lines if (found := re.search("[,;]", line)))
    return max(MARKS, key=lambda mark: (agreeing(mark), first[mark] if mark in ",;" else len(lines)))


def _is_quoted(lines: list[str], mark: str) -> bool:
    """Whether the quotes of a table are those of a spreadsheet, and not of its texts."""
    try:
        fields = [field for row in csv.reader(lines, delimiter=mark, strict=True) for field in row]
    except csv.Error:
        return False
    return not any("\n" in field and mark in field for field in fields)


def _quoted_rows(lines: list[str], mark: str, table: Path) -> Iterator[tuple[int, list[str]]]:
    rows, begins, ends = csv.reader(lines, delimiter=mark), 0, 0
    for fields in rows:
        begins, ends = ends, rows.line_num
        if ends - begins > 1 or ends == len(lines):
            _check_quotes(lines[begins:ends], mark, table)
        yield rows.line_num, fields


def _check_quotes(row: list[str], mark: str, table: Path) -> None:
    """ManifestError where a quote that never ends has swallowed lines of a table: up to its end, or to the next quote,
    which begins a text there and so has no comma behind it. On a single line that is meant as it stands."""
    try:
        list(csv.reader(row, delimiter=mark, strict=True))
    except csv.Error as error:
        if len(row) > 1 or "unexpected end" in str(error):
            raise ManifestError(f"{table} has a quote that never ends: {row[0].strip()[:60]}.") from error
