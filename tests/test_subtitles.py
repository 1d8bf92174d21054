"""Subtitles, CTM and TSV: what other programs' readers find in them, and what a reader's eye can follow."""

import csv
import io
from itertools import pairwise

import numpy as np
import pytest
import webvtt

from ds2_deploy.decoding.protocol import TimedWord
from ds2_deploy.output.subtitles import LINE_CHARACTERS, LINES, LONGEST_S, cues, lines
from ds2_deploy.output.writers import Transcript, writer_class
from ds2_deploy.text.alphabet import Alphabet

WORDS = (
    TimedWord("hello", 0.5, 0.9, 0.9),
    TimedWord("world", 1.0, 1.4, 0.8),
    TimedWord("again", 3.0, 3.4, 0.75),  # after a pause
)


def spoken(seed: int) -> list[TimedWord]:
    """Words of any length, with pauses."""
    rng = np.random.default_rng(seed)
    words, now = [], 0.0
    for length in rng.integers(1, 14, 120):
        now += float(rng.choice([0.02, 0.1, 0.3, 1.5], p=[0.4, 0.3, 0.2, 0.1]))
        duration = float(rng.uniform(0.05, 0.12) * length)
        words.append(TimedWord("abcdefghijklmn"[:length], now, now + duration, 0.5))
        now += duration
    return words


def written(format_name: str, words: tuple[TimedWord, ...], path: str = "a.wav") -> str:
    out = io.StringIO()
    writer = writer_class(format_name)(out, single=True)
    writer.write(Transcript(path, " ".join(w.word for w in words), 5.0, (), words))
    writer.close()
    return out.getvalue()


@pytest.mark.parametrize("format_name", ["srt", "vtt"])
def test_another_programs_parser_reads_them(format_name: str) -> None:
    captions = webvtt.from_buffer(io.StringIO(written(format_name, WORDS)), format=format_name)
    assert [(c.start, c.end, c.text) for c in captions] == [
        ("00:00:00.500", "00:00:01.700", "hello world"),
        ("00:00:03.000", "00:00:03.833", "again"),
    ]


def test_markup_of_webvtt_is_escaped() -> None:
    assert "a&amp;b &lt;i&gt;" in written("vtt", (TimedWord("a&b", 0, 1, 1.0), TimedWord("<i>", 1, 2, 1.0)))


def test_hours_are_written_out() -> None:
    assert "01:02:03,456 --> 01:02:04,800" in written("srt", (TimedWord("a", 3723.456, 3724.5, 1.0),))


@pytest.mark.parametrize("seed", range(10))
def test_cues_can_be_read(seed: int) -> None:
    words = spoken(seed)
    found = list(cues(words))
    assert " ".join(cue.text for cue in found).split() == [word.word for word in words]
    for cue in found:
        assert len(lines(cue.text)) <= LINES
        assert all(len(line) <= LINE_CHARACTERS for line in lines(cue.text))
        assert 0 < cue.end_s - cue.start_s <= LONGEST_S + 0.5
    for before, after in pairwise(found):
        assert before.end_s <= after.start_s


def test_lines_are_nearly_equal_and_hold_everything() -> None:
    assert lines("one two three four five six seven eight nine") == ["one two three four five", "six seven eight nine"]
    assert "".join(lines("x" * 100)) == "x" * 100
    assert lines("short") == ["short"]


def test_chinese_has_no_spaces() -> None:
    words = [TimedWord(c, i / 2, i / 2 + 0.3, 1.0) for i, c in enumerate("卡拉ok厅12𠮷")]
    assert [cue.text for cue in cues(words, Alphabet.of("卡拉ok厅12𠮷").word_separator)] == ["卡拉ok厅12𠮷"]


def test_tsv_has_whispers_columns() -> None:
    rows = list(csv.reader(io.StringIO(written("tsv", WORDS)), delimiter="\t"))
    assert rows == [["start", "end", "text"], ["500", "1700", "hello world"], ["3000", "3833", "again"]]


def test_ctm_has_a_line_a_word() -> None:
    assert written("ctm", WORDS, "my calls/a b.wav").splitlines() == [
        "my_calls/a_b.wav 1 0.500 0.400 hello 0.900",
        "my_calls/a_b.wav 1 1.000 0.400 world 0.800",
        "my_calls/a_b.wav 1 3.000 0.400 again 0.750",
    ]


@pytest.mark.parametrize("format_name", ["srt", "vtt", "tsv", "ctm"])
def test_no_word_is_an_empty_file_of_its_format(format_name: str) -> None:
    assert written(format_name, ()) == {"vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n"}.get(format_name, "")
