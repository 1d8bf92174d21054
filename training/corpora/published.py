"""Corpora as their publishers ship them."""

import re
from collections.abc import Sequence
from pathlib import Path

from ds2_deploy.audio.find import files_below
from ds2_deploy.errors import ConfigError, ManifestError
from training.corpora.entry import Dropped, Entry, Items, Reason, audio_by_stem, lines_of


def is_librispeech(source: Path) -> bool:
    return source.is_dir() and any(map(_is_chapter, files_below(source)))


def _is_chapter(path: Path) -> bool:
    return path.name.endswith(".trans.txt")


def read_librispeech(source: Path, split: str | None) -> Items:
    """SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt, lines "ID TEXT", beside ID.flac; any level may be given."""
    root = source / split if split else source
    tables = sorted(filter(_is_chapter, files_below(root))) if root.is_dir() else []
    if not tables:
        raise ManifestError(f"{root} holds no chapter of LibriSpeech: there is no *.trans.txt below it.")
    for table in tables:
        audio = audio_by_stem(table.parent, recursive=False)
        for number, line in lines_of(table):
            name, _, text = line.partition(" ")
            if path := audio.pop(name, None):
                yield Entry(str(path), text, speaker=name.partition("-")[0])
            else:
                yield Dropped(f"{table}, line {number}", Reason.NO_AUDIO, f"no recording {name} beside it")
        yield from _without_transcript(audio)


def is_an4(source: Path) -> bool:
    return any(source.glob("etc/an4_*.transcription"))


TRANSCRIPTION = re.compile(r"\s*(?:<s>\s)?(?P<text>.*?)(?:\s</s>)?\s*\((?P<name>[^()]+)\)\s*")


def read_an4(source: Path, split: str | None) -> Items:
    """etc/an4_SPLIT.transcription, lines "<s> TEXT </s> (ID)"; ID.wav, .sph or .flac in a folder of its speaker.

    The paths of etc/an4_SPLIT.fileids are not needed: an ID occurs once, wherever the recordings were moved to.
    """
    table = source / "etc" / f"an4_{_checked(split, ('test', 'train'), 'AN4')}.transcription"
    audio = _audio_below(source / "wav", "convert headerless .raw files to WAV first (16 kHz, 16 bit, mono)")
    for number, line in lines_of(table):
        match = TRANSCRIPTION.fullmatch(line)
        if not match:
            yield Dropped(f"{table}, line {number}", Reason.MALFORMED, "it does not end with (ID)")
        elif path := audio.get(match["name"]):
            yield Entry(str(path), match["text"], speaker=path.parent.name)
        else:
            yield Dropped(f"{table}, line {number}", Reason.NO_AUDIO, f"no recording {match['name']} below wav/")


def is_aishell(source: Path) -> bool:
    return any(source.glob("transcript/aishell_transcript*.txt"))


def read_aishell(source: Path, split: str | None) -> Items:
    """transcript/aishell_transcript_v0.8.txt, lines "ID 字 字", serves all splits; wav/SPLIT/SPEAKER/ID.wav."""
    folder = source / "wav" / _checked(split, ("dev", "test", "train"), "AISHELL")
    audio = _audio_below(folder, "unpack the archives in wav/ first")
    speakers = {path.parent.name for path in audio.values()}
    elsewhere = {path.name for path in source.glob("wav/*/*")} - speakers
    table = min(source.glob("transcript/aishell_transcript*.txt"))
    for number, line in lines_of(table):
        name, _, text = line.partition(" ")
        if path := audio.pop(name, None):
            yield Entry(str(path), "".join(text.split()), speaker=path.parent.name)
        elif (speaker := name[6:11]) in speakers:  # BAC009S0002W0122
            yield Dropped(f"{table}, line {number}", Reason.NO_AUDIO, f"no recording {name} below {folder}")
        elif speaker not in elsewhere:  # the lines of other splits are no fault
            yield Dropped(f"{table}, line {number}", Reason.UNUSED_TRANSCRIPT, f"no folder of {speaker} in wav/")
    yield from _without_transcript(audio)


COMMON_VOICE_COLUMNS = ("path", "sentence", "client_id")


def is_common_voice(source: Path) -> bool:
    return bool(_common_voice_tables(source))


def read_common_voice(source: Path, split: str | None) -> Items:
    """SPLIT.tsv with the columns path, sentence and client_id (no quoting: sentences hold quotes); clips/ beside it."""
    tables = {table.stem: table for table in _common_voice_tables(source)}
    only = source.stem if source.is_file() else None
    table = tables[_checked(split or only, sorted(tables), "Common Voice")]
    lines = lines_of(table)
    columns = next(lines)[1].split("\t")
    path, sentence, client = (columns.index(column) for column in COMMON_VOICE_COLUMNS)
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) > max(path, sentence, client):
            yield Entry(str(table.parent / "clips" / fields[path]), fields[sentence], speaker=fields[client])
        else:
            yield Dropped(f"{table}, line {number}", Reason.MALFORMED, f"{len(fields)} of {len(columns)} columns")


def _common_voice_tables(source: Path) -> list[Path]:
    tables = [source] if source.suffix == ".tsv" else sorted(source.glob("*.tsv"))
    return [table for table in tables if set(COMMON_VOICE_COLUMNS) <= set(_header(table))]


def _header(table: Path) -> list[str]:
    """Of any file: what is no UTF-8 may be a table of something else, and else who reads its texts says so."""
    _, line = next(lines_of(table, errors="replace"), (0, ""))
    return line.split("\t")


def _checked(split: str | None, splits: Sequence[str], corpus: str) -> str:
    if split is None or split not in splits:
        given = f"--split is {split!r}" if split else "--split is missing"
        raise ConfigError(f"{given}: this source of {corpus} has {', '.join(splits)}.")
    return split


def _audio_below(folder: Path, cure: str) -> dict[str, Path]:
    audio = audio_by_stem(folder)
    if not audio:
        raise ManifestError(f"{folder} holds no recording (WAV, FLAC, SPH and others): {cure}.")
    return audio


def _without_transcript(audio: dict[str, Path]) -> Items:
    for path in sorted(audio.values()):
        yield Dropped(str(path), Reason.NO_TRANSCRIPT)
