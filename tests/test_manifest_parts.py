"""`ds2 manifest` of what is part of a recording: rows with times, subtitles, channels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ds2_deploy.errors import ManifestError
from ds2_deploy.manifest import read_manifest
from ds2_deploy.output.writers import WRITERS, TimedWord, Transcript, Turn
from tests.conftest import Ds2
from tests.test_manifest_command import RATE, write_audio, write_text
from training.corpora.entry import seconds

Heard = list[tuple[str, int, int, int | None]]
"""Text, first and last sample of the recording, channel."""


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """A recording of 4 s with two channels."""
    return write_audio(tmp_path / "in" / "call.wav", 4 * RATE, channels=2)


def made(ds2: Ds2, source: Path, *, code: int = 0) -> tuple[str, list[dict[str, Any]]]:
    folder = source if source.is_dir() else source.parent
    out = folder / "m.jsonl"
    outcome = ds2("manifest", source, "--out", out, "--overwrite", "--audio-dir", folder.parent / "parts")
    assert outcome.code == code, outcome.err
    return outcome.err, [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def check(call: Path, lines: list[dict[str, Any]], heard: Heard) -> None:
    """Sample for sample."""
    samples, _ = soundfile.read(call, dtype="int16")
    assert [line["text"] for line in lines] == [text for text, *_ in heard]
    for line, (_, first, last, channel) in zip(lines, heard, strict=True):
        written, _ = soundfile.read(call.parent / line["audio_filepath"], dtype="int16")
        np.testing.assert_array_equal(written, samples[first:last] if channel is None else samples[first:last, channel])
        assert line["recording"] == "call.wav"


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("file,start,end,text", ["0.5,1.5,one", "1.5,3.25,two"]),
        ("file,text,Start Time,End Time", ["one,0:00.5,00:00:01.500", "two,00:00:01.5,0:0:3.25"]),
        ("file;Beginn;Dauer;text", ["0,5;1,0;one", "1,5;1,75;two"]),
        ("file,offset,duration,text", ["0.5,1,one", "1.5,1.75,two"]),
    ],
)
def test_rows_with_times(ds2: Ds2, call: Path, header: str, rows: list[str]) -> None:
    mark = ";" if ";" in header else ","
    table = write_text(call.with_name("t.csv"), "\n".join([header, *(f"call{mark}{row}" for row in rows)]))
    said, lines = made(ds2, table)
    check(call, lines, [("one", 8000, 24000, None), ("two", 24000, 52000, None)])
    assert (said.count("\n"), "start from column " in said) == (1, True)


def test_rows_that_are_no_parts(ds2: Ds2, call: Path) -> None:
    rows = ["call,1,0.5,one", "call,soon,2,two", "call,3,-1,three", "call,,,all of it"]
    said, lines = made(ds2, write_text(call.with_name("t.csv"), "\n".join(["file,start,end,text", *rows])), code=1)
    assert [line["text"] for line in lines] == ["all of it"]
    assert "3 dropped: line cannot be understood" in said
    assert "line 2 (it begins at 1 s and ends at 0.5 s)" in said
    write_text(call.with_name("t.csv"), "file,start,text\ncall,1,one")
    outcome = ds2("manifest", call.with_name("t.csv"), "--out", call.with_name("n.jsonl"))
    assert outcome.err.endswith("has a column of starts and none of ends: add one called end, or duration.\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1,5", 1.5), ("1:30", 90), ("1:02:03.5", 3723.5), ("0:0:0", 0)],
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "1:2:x", "2024-01-01 10:00:00"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="is no time in a recording: write seconds, or h:mm:ss"):
        seconds(text)


def test_subtitles_beside_a_recording(ds2: Ds2, call: Path) -> None:
    srt = "1\n00:00:00,500 --> 00:00:01,500\n<i>one</i>\nmore\n\n2\n00:00:01,500 --> 00:00:03,250 X1:0\n{\\an8}two\n"
    write_text(call.with_suffix(".srt"), srt.replace("\n", "\r\n"))
    _, lines = made(ds2, call.parent)
    check(call, lines, [("one more", 8000, 24000, None), ("two", 24000, 52000, None)])
    call.with_suffix(".srt").unlink()
    vtt = "WEBVTT\n\nNOTE made by hand\n\n00:00.500 --> 00:01.500 align:start\n<v Ann Lee>one &amp; more\n\n" \
          "two\n00:00:01.500 --> 00:00:03.250\n- two\n\n00:03.000 --> 00:02.000\nback\n"  # fmt: skip
    write_text(call.with_suffix(".vtt"), vtt)
    said, lines = made(ds2, call.parent, code=1)
    check(call, lines, [("one & more", 8000, 24000, None), ("- two", 24000, 52000, None)])
    assert [line.get("speaker") for line in lines] == ["Ann Lee", None]
    assert "call.wav (call.vtt: it begins at 3 s and ends at 2 s)" in said
    write_text(call.with_suffix(".vtt"), "WEBVTT\n")
    outcome = ds2("manifest", call.parent, "--out", call.with_name("n.jsonl"))
    assert "(call.vtt holds no subtitles)" in outcome.err


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_of_transcribe_come_back(ds2: Ds2, call: Path, kind: str) -> None:
    """Of both channels, with what marks them."""
    turns = (
        Turn(1, (TimedWord("one", 0.5, 1.0, 1.0), TimedWord("two", 1.0, 1.5, 1.0))),
        Turn(0, (TimedWord("three", 2.5, 3.5, 1.0),)),
    )
    with call.with_suffix(f".{kind}").open("w") as file:
        WRITERS[kind](file, single=True).write(Transcript("call.wav", "", 4.0, turns=turns))
    _, lines = made(ds2, call.parent)
    check(call, lines, [("one two", 8000, 28800, 1), ("three", 40000, 60800, 0)])  # which linger for 0.3 s
    assert not any("speaker" in line for line in lines)


def manifest(folder: Path, *entries: dict[str, Any]) -> Path:
    return write_text(folder / "old.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))


def test_channels_of_manifests_and_tables(ds2: Ds2, call: Path) -> None:
    whole = {"audio_filepath": "call.wav", "duration": 1.0, "text": "one", "channel": 0}
    part = whole | {"channel": 1, "text": "two", "offset": 0.5}
    source = manifest(call.parent, whole, part, whole | {"channel": 2, "text": "three"})
    heard: Heard = [("one", 0, 64000, 0), ("two", 8000, 24000, 1)]
    said, lines = made(ds2, source, code=1)
    check(call, lines, heard)
    assert "call.wav has no channel 2: it has 2, counted from 0" in said
    with pytest.raises(ManifestError, match=r"names channel 0 of call.wav: cut the parts with ds2 manifest"):
        read_manifest(source)
    rows = "file,channel,start,end,text\ncall,0,,,one\ncall,1,0.5,1.5,two\ncall,left,,,three\n"
    said, lines = made(ds2, write_text(call.with_name("t.csv"), rows), code=1)
    check(call, lines, heard)
    assert "('left' is no channel: write 0, 1 and so on, or call the column otherwise)" in said


def test_what_is_called_channel_and_is_none(ds2: Ds2, tmp_path: Path) -> None:
    """The only channel of a recording is all of it; words in a manifest or a table say something else."""
    entries = [{"audio_filepath": f"{name}.wav", "duration": 1.0, "text": name} for name in ("a", "b")]
    for entry, channel in zip(entries, (0, "phone"), strict=True):
        write_audio(tmp_path / entry["audio_filepath"])
        entry["channel"] = channel
    out = tmp_path / "m.jsonl"
    assert ds2("manifest", manifest(tmp_path, *entries), "--out", out).code == 0
    assert [utterance.path.name for utterance in read_manifest(out)] == ["a.wav", "b.wav"]
    assert len(read_manifest(manifest(tmp_path, entries[1]))) == 1
    table = write_text(tmp_path / "t.csv", "file,channel,text\na,phone,one\nb,mic,two\n")
    outcome = ds2("manifest", table, "--out", out, "--overwrite")
    assert outcome.err.startswith(f"ds2: {table}: audio from column 'file', text from column 'text', no speakers.\n")
    assert [utterance.text for utterance in read_manifest(out)] == ["one", "two"]


def test_one_channel_of_transcribe_comes_back(ds2: Ds2, call: Path) -> None:
    for channel in (0, 1):
        with call.with_name("heard.jsonl").open("a") as file:
            WRITERS["jsonl"](file, single=True).write(Transcript(str(call), f"side {channel}", 4.0, channel=channel))
    _, lines = made(ds2, call.with_name("heard.jsonl"))
    check(call, lines, [("side 0", 0, 64000, 0), ("side 1", 0, 64000, 1)])
