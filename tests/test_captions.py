"""Captions as lines, as a terminal shows them, and as JSON."""

import io
import json
import re

import pytest

from ds2_deploy.decoding.protocol import TimedWord
from ds2_deploy.output.captions import JsonCaptions, LineCaptions, TerminalCaptions, caption_writer
from ds2_deploy.streaming.stream import StreamResult


def growing(text: str, stable: str) -> StreamResult:
    return StreamResult(text, stable, False, 0.1, 0.2, -1.0)


def complete(text: str) -> StreamResult:
    return StreamResult(text, text, True, 0.12345, 0.2, -1.23456, (TimedWord("größer", 0.12345, 0.2, 0.98765),))


class Terminal(io.StringIO):
    """Shows what is left after carriage returns and erased lines, and counts flushes."""

    flushes = 0

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.flushes += 1

    @property
    def lines(self) -> list[str]:
        return [re.split(r"\r\x1b\[2K", line)[-1] for line in self.getvalue().split("\n")]


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")


def test_lines_are_of_complete_utterances_alone() -> None:
    out = io.StringIO()
    writer = caption_writer("text", out)
    assert type(writer) is LineCaptions
    writer.partial(growing("the cat", "the"))
    assert out.getvalue() == ""
    writer.final(complete("the cat sat"))
    writer.final(complete("größer"))
    assert out.getvalue() == "the cat sat\ngrößer\n"


def test_wide_characters_fill_two_columns_of_the_line_each() -> None:
    out = Terminal()
    TerminalCaptions(out).partial(growing("a一二三四五六七八九十", ""))  # 21 columns, of which 19 are to be used
    assert "一" not in out.getvalue()
    assert "二三四五六七八九十" in out.getvalue()


def test_each_line_is_seen_at_once() -> None:
    for writer_class in (LineCaptions, JsonCaptions, TerminalCaptions):
        out = Terminal()
        writer_class(out).final(complete("now"))
        assert out.flushes >= 1


def test_a_terminal_shows_the_word_that_may_change_dimmed() -> None:
    out = Terminal()
    writer = caption_writer("text", out)
    assert type(writer) is TerminalCaptions
    writer.partial(growing("the c", "the"))
    assert out.lines == ["the\x1b[2m c\x1b[0m"]
    writer.partial(growing("the cat", "the"))
    assert out.lines == ["the\x1b[2m cat\x1b[0m"]  # in place of the line before
    writer.final(complete("the cat sat"))
    writer.partial(growing("on", ""))
    assert out.lines == ["the cat sat", "\x1b[2mon\x1b[0m"]
    writer.final(complete("on a mat"))
    assert out.lines == ["the cat sat", "on a mat", ""]


@pytest.mark.parametrize("stable", ["", "the quick", "the quick brown fox"])
def test_a_terminal_shows_the_end_of_what_is_too_long(stable: str) -> None:
    text = "the quick brown fox jumps"
    out = Terminal()
    TerminalCaptions(out).partial(growing(text, stable))
    shown, dimmed = re.fullmatch(r"(.*)\x1b\[2m(.*)\x1b\[0m", out.lines[-1]).groups()  # type: ignore[union-attr]
    assert shown + dimmed == text[-19:]  # one less than the terminal is wide, so that it does not wrap
    assert dimmed == text[len(stable) :][-19:]


def test_a_final_longer_than_the_terminal_is_whole() -> None:
    out = Terminal()
    TerminalCaptions(out).final(complete("the quick brown fox jumps over"))
    assert out.lines == ["the quick brown fox jumps over", ""]


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()], ids=["pipe", "terminal"])
def test_json_is_an_object_a_change(out: io.StringIO) -> None:
    writer = caption_writer("jsonl", out)
    writer.partial(growing("grö", ""))
    writer.final(complete('größer "x"'))
    assert "größer" in out.getvalue()
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"text": "grö", "stable": "", "is_final": False, "start_s": 0.1, "end_s": 0.2, "score": -1.0, "words": []},
        {"text": 'größer "x"', "stable": 'größer "x"', "is_final": True, "start_s": 0.123, "end_s": 0.2,
         "score": -1.235,
             "words": [{"word": "größer", "start_s": 0.123, "end_s": 0.2, "confidence": 0.988}]},
    ]  # fmt: skip
