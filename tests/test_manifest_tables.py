"""`ds2 manifest` of tables as companies have them: which column is what, marks, quotes, encodings, paths."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ds2
from tests.test_manifest_command import write_audio, write_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the recordings wav/a.wav and wav/b.WAV."""
    for name in ("a.wav", "b.WAV"):
        write_audio(tmp_path / "wav" / name)
    return tmp_path


def made(ds2: Ds2, table: Path, *options: object) -> tuple[str, list[dict[str, Any]]]:
    """What is said, without what names the table, and the lines of the manifest."""
    out = table.parent / "m.jsonl"
    outcome = ds2("manifest", table, "--out", out, "--overwrite", "--headers-only", *options)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if outcome.out else []
    return outcome.err.replace(f"ds2: {table}: ", ""), lines


def told(lines: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Name, text and speaker of each."""
    return [(Path(x["audio_filepath"]).stem, x["text"], *([x["speaker"]] if "speaker" in x else [])) for x in lines]


AB = [("a", "one two"), ("b", "three")]
SPOKEN = [("a", "one two", "ann"), ("b", "three", "bob")]
GUESSED = (
    "audio from column 1, text from column 2, no speakers; the text's column is a guess: call it text in the first "
    "line.\n"
)
FILE_TEXT = "audio from column 'file', text from column 'text', no speakers.\n"


@pytest.mark.parametrize(
    ("table", "said", "lines"),
    [
        ("file,content,duration_s\na.wav,one two,1.00\nb,three,1.70",
         "audio from column 'file', text from column 'content', no speakers.\n", AB),
        ("Datei,Sprecher,Text\na,ann,one two\nb,bob,three",
         "audio from column 'Datei', text from column 'Text', speaker from column 'Sprecher'.\n", SPOKEN),
        ("Recording,Speaker,Text\na,ann,one two\nb,bob,three",
         "audio from column 'Recording', text from column 'Text', speaker from column 'Speaker'.\n", SPOKEN),
        ("ID,Speaker ID,File Name,Transcript,Comment\n1,ann,a,one two,ok\n2,bob,b,three,ok",
         "audio from column 'File Name', text from column 'Transcript', speaker from column 'Speaker ID'.\n", SPOKEN),
        ("text,file\none two,a.wav\nthree,b.wav", FILE_TEXT, AB),
        ("id,wav file,text\n1,a.wav,one two\n2,b.wav,three",
         "audio from column 'wav file', text from column 'text', no speakers.\n", AB),
        ("id,source,text\n1,a.wav,one two\n2,b.wav,three",
         "audio from column 'source', text from column 'text', no speakers.\n", AB),
        ("one two,a.wav\nthree,b.wav",
         "audio from column 2, text from column 1, no speakers; the text's column is a guess: "
         "call it text in the first line.\n", AB),
        ("a|raw|one two\nb|raw, too|three",
         "audio from column 1, text from column 3, no speakers; the text's column is a guess: "
         "call it text in the first line.\n", AB),
        ("a;one two\nb;three, four", GUESSED, [("a", "one two"), ("b", "three, four")]),
        ("a;one two, three\nb;three, four", GUESSED, [("a", "one two, three"), ("b", "three, four")]),
        ("a,one; two\nb,three; four", GUESSED, [("a", "one; two"), ("b", "three; four")]),
        ("a,file\nb,three", GUESSED, [("a", "file"), ("b", "three")]),
        ("file;speaker;\na;ann;one two\nb;bob;three",
         "has a header without a column of texts: file, speaker. Call it text.", []),
    ],
)  # fmt: skip
def test_what_a_table_has_where(ds2: Ds2, folder: Path, table: str, said: str, lines: list[tuple[str, ...]]) -> None:
    assert (found := made(ds2, write_text(folder / "t.csv", table)))[0].endswith(said + "\n" * (not lines)), found
    assert told(found[1]) == lines


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("a.wav,one two,agent7\nb,three,agent7", "the last, column 3, says 'agent7' in every line: name the columns"),
        ("file,label,pay\na,one,1\nb,two,1.70", "the last, column 'pay', holds numbers alone, such as '1': name the"),
        ("a.wav one two\nb.wav three", "has a first line of one column: a tab, |, comma or semicolon parts several."),
        ("file\na.wav", "has a first line of one column"),
        ("text,speaker\none,ann", "has a header without a column of recordings: text, speaker. Call it audio."),
    ],
)
def test_texts_that_are_none(ds2: Ds2, folder: Path, table: str, said: str) -> None:
    """They were taken for texts, without a word."""
    found = made(ds2, write_text(folder / "t.csv", table))
    assert said in found[0]
    assert not found[1]
    assert not (folder / "m.jsonl").exists()


@pytest.mark.parametrize(
    ("table", "encoding"),
    [
        ("file;length;text\r\na.wav;1,0;one two\r\nb.wav;0,5;three\r\n;;\r\n", "utf-8-sig"),
        ("file\ttext\r\na.wav\tone two\r\nb.wav\tthree\r\n", "utf-16"),
        ('file\ttext\na.wav\t"one\ntwo"\nb.wav\t"three"\n', "utf-8"),
        ("file,text\na.WAV,one two\nB,three\n", "utf-8"),
        ("file,text\nwav\\a.wav,one two\nwav/b.wav,three\n", "utf-8"),
    ],
)
def test_what_spreadsheets_write(ds2: Ds2, folder: Path, table: str, encoding: str) -> None:
    (folder / "t.csv").write_bytes(table.encode(encoding))
    said, lines = made(ds2, folder / "t.csv")
    assert (said, told(lines)) == (FILE_TEXT, AB)


def test_quotes_of_texts_stay(ds2: Ds2, folder: Path) -> None:
    """As in LJSpeech, where no spreadsheet has doubled them, nor ended them."""
    lines = made(ds2, write_text(folder / "t.csv", 'file|text\na|"one" two\nb|"three'))[1]
    assert told(lines) == [("a", '"one" two'), ("b", '"three')]
    lines = made(ds2, write_text(folder / "t.csv", 'file|text\na|"one\nb|three"'))[1]
    assert told(lines) == [("a", '"one'), ("b", 'three"')]
    lines = made(ds2, write_text(folder / "t.csv", 'file|text\na|"one ""two"""\nb|three'))[1]
    assert told(lines) == [("a", 'one "two"'), ("b", "three")]


def test_paths_of_another_machine(ds2: Ds2, folder: Path) -> None:
    """Found by as much of their ends as there is; a relative path is what it says, or is not there."""
    for name in ("x/1/c.wav", "x/2/c.wav"):
        write_audio(folder / name)
    rows = ["C:\\export\\wav\\a.wav,one two", "/srv/x/2/c.wav,in two", "/srv/c.wav,which", "y\\b.wav,no"]
    said, lines = made(ds2, write_text(folder / "t.csv", "\n".join(["file,text", *rows])))
    assert [(Path(x["audio_filepath"]).as_posix(), x["text"]) for x in lines] == [
        ("wav/a.wav", "one two"), ("x/2/c.wav", "in two"),
    ]  # fmt: skip
    assert (
        f"2 of which were found by their ends: C:\\export\\wav\\a.wav is taken for {folder / 'wav' / 'a.wav'}." in said
    )
    assert f"(/srv/c.wav may be {folder / 'x/1/c.wav'} or {folder / 'x/2/c.wav'}: name its path)" in said
    assert "(no recording y\\b.wav in the folder of t.csv or below)" in said


def test_tables_that_nobody_named(ds2: Ds2, folder: Path) -> None:
    for name in ("one.csv", "two.CSV", "three.tsv", "four.jsonl", "notes.md"):
        write_text(folder / name, "")
    said = ds2("manifest", folder, "--out", folder / "m.jsonl").err
    assert "It holds four.jsonl and one.csv and three.tsv and 1 more: where that lists the recordings, give" in said


def test_clean_texts(ds2: Ds2, folder: Path) -> None:
    write_text(folder / "t.csv", 'file,text\na,"“Don’t call 555, Ann!”"\nb,…\n')
    assert told(made(ds2, folder / "t.csv")[1]) == [("a", "“Don’t call 555, Ann!”"), ("b", "…")]
    said, lines = made(ds2, folder / "t.csv", "--strip-punctuation")
    assert told(lines) == [("a", "Don't call 555 Ann")]
    assert 'ds2: 1 text has digits, such as "Don\'t call 555 Ann": write them out as they are spoken.\n' in said
    assert "1 dropped: text is empty" in said


def test_copies_under_other_names(ds2: Ds2, tmp_path: Path) -> None:
    """Which would be learnt from and validated on; an utterance of the same length is none."""
    for name, seed in (("a", 1), ("copy of a", 1), ("c", 1), ("d", 2)):
        audio = write_audio(tmp_path / "in" / f"{name}.wav", seed=seed)
        write_text(audio.with_suffix(".txt"), "other words" if name == "c" else "words")
    outs = ("--out", tmp_path / "m.jsonl", "--overwrite")
    outcome = ds2("manifest", tmp_path / "in", *outs)
    assert outcome.err.splitlines() == [
        f"ds2: 1 dropped: a copy of another recording, with another text, first {tmp_path / 'in/c.wav'} "
        f"(of {tmp_path / 'in/a.wav'}, its text there: 'other words')",
        f"ds2: 1 dropped: a copy of another recording, first {tmp_path / 'in/copy of a.wav'} "
        f"(of {tmp_path / 'in/a.wav'})",
    ]
    assert (outcome.code, outcome.out) == (0, f"Wrote {tmp_path / 'm.jsonl'}: 2 utterances, 0.00 h.\n")
    assert ": 4 utterances" in ds2("manifest", tmp_path / "in", "--headers-only", *outs).out
