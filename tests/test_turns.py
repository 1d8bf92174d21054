"""Calls: turns in the order of speaking, in every format, and through the command line."""

import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webvtt

from ds2_deploy.audio.load import channels_of, load_audio, to_read_again
from ds2_deploy.decoding.protocol import TimedWord
from ds2_deploy.errors import AudioError
from ds2_deploy.output.turns import turns
from ds2_deploy.output.writers import Transcript, writer_class
from tests.conftest import ConvModel, Ds2, noise

AGENT = (
    TimedWord("good", 0.5, 0.8, 0.9),
    TimedWord("morning", 0.9, 1.4, 0.9),
    TimedWord("yes", 4.0, 4.3, 0.9),
)
CALLER = (TimedWord("hello", 1.2, 1.6, 0.8), TimedWord("there", 1.7, 2.0, 0.8))


def written(format_name: str) -> str:
    out = io.StringIO()
    writer = writer_class(format_name)(out, single=True)
    writer.write(Transcript("call.wav", "", 5.0, turns=turns([AGENT, CALLER])))
    writer.close()
    return out.getvalue()


def test_turns_end_at_pauses_and_stand_in_the_order_of_their_beginnings() -> None:
    found = [(turn.channel, turn.start_s, turn.end_s, turn.text) for turn in turns([AGENT, CALLER])]
    assert found == [(0, 0.5, 1.4, "good morning"), (1, 1.2, 2.0, "hello there"), (0, 4.0, 4.3, "yes")]
    assert turns([(), ()]) == ()


def test_text_and_json_of_a_call() -> None:
    assert written("text") == "0\tgood morning\n1\thello there\n0\tyes\n"
    found = json.loads(written("json"))
    assert found["text"] == "good morning hello there yes"
    assert found["turns"][1] == {"channel": 1, "start_s": 1.2, "end_s": 2.0, "text": "hello there"}
    assert [(word["channel"], word["word"]) for word in found["words"]] == [
        (0, "good"), (0, "morning"), (1, "hello"), (1, "there"), (0, "yes"),
    ]  # fmt: skip


@pytest.mark.parametrize(("format_name", "marks"), [("srt", ["[0] ", "[1] ", "[0] "]), ("vtt", ["", "", ""])])
def test_subtitles_of_a_call_say_who_speaks(format_name: str, marks: list[str]) -> None:
    captions = webvtt.from_buffer(io.StringIO(written(format_name)), format=format_name)
    said = ["good morning", "hello there", "yes"]
    assert [caption.text for caption in captions] == [mark + text for mark, text in zip(marks, said, strict=True)]
    if format_name == "vtt":
        assert [caption.voice for caption in captions] == ["Channel 0", "Channel 1", "Channel 0"]


def test_ctm_of_a_call_has_one_channel_after_the_other() -> None:
    assert [line.split()[1:5:3] for line in written("ctm").splitlines()] == [
        ["1", "good"], ["1", "morning"], ["1", "yes"], ["2", "hello"], ["2", "there"],
    ]  # fmt: skip


def subtitles(words: tuple[TimedWord, ...], channel: int, separator: str = " ") -> list[list[str]]:
    """The lines of each subtitle of one who speaks alone, as SubRip has them."""
    out = io.StringIO()
    spoken = turns([()] * channel + [words], separator)
    writer_class("srt")(out, single=True).write(Transcript("call.wav", "", 5.0, turns=spoken, word_separator=separator))
    return [cue.splitlines()[2:] for cue in out.getvalue().split("\n\n")[:-1]]


def test_a_long_turn_has_lines_of_the_same_length_after_its_mark() -> None:
    words = tuple(TimedWord("abcdef", 0.4 * i, 0.4 * i + 0.3, 1.0) for i in range(10))
    assert subtitles(words, 0) == [["[0] " + " ".join(["abcdef"] * 5), " ".join(["abcdef"] * 5)]]


@pytest.mark.parametrize("separator", [" ", ""])
@pytest.mark.parametrize("channel", [0, 12])
def test_lines_of_calls_are_no_longer_with_their_mark(channel: int, separator: str) -> None:
    lengths = np.random.default_rng(channel).integers(1, 10, 300)
    words = tuple(TimedWord("abcdefghi"[:n], 0.1 * i, 0.1 * i + 0.1, 1.0) for i, n in enumerate(lengths))
    found = subtitles(words, channel, separator)
    assert all(shown[0].startswith(f"[{channel}] ") and len(shown) <= 2 for shown in found)
    assert 38 < max(len(line) for shown in found for line in shown) <= 42
    text = separator.join(separator.join(shown).removeprefix(f"[{channel}] ") for shown in found)
    assert text == separator.join(word.word for word in words)


def test_turns_of_a_language_without_spaces_are_joined_as_it_writes() -> None:
    words = tuple(TimedWord(c, 0.1 * i, 0.1 * i + 0.1, 1.0) for i, c in enumerate("你好"))
    out = io.StringIO()
    spoken = turns([words, tuple(word._replace(start_s=5.0, end_s=5.1) for word in words[:1])], "")
    writer_class("jsonl")(out, single=True).write(Transcript("call.wav", "", 6.0, turns=spoken, word_separator=""))
    found = json.loads(out.getvalue())
    assert (found["text"], found["turns"][0]["text"]) == ("你好你", "你好")


def test_a_silent_call_has_no_turns() -> None:
    out = io.StringIO()
    writer_class("json")(out, single=True).write(Transcript("call.wav", "", 5.0, turns=()))
    found = json.loads(out.getvalue())
    assert (found["turns"], found["words"], found["text"]) == ([], [], "")
    out = io.StringIO()
    writer_class("text")(out, single=True).write(Transcript("call.wav", "", 5.0, turns=()))
    assert out.getvalue() == ""


def test_channels_of_a_file_and_of_what_can_be_read_once(tmp_path: Path) -> None:
    samples = noise(4000, channels=3)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(path.read_bytes()), daemon=True).start()
    for file in (path, path.open("rb"), tmp_path / "pipe"):
        found = channels_of(to_read_again(file))
        assert [channel.number for channel in found] == [0, 1, 2]
        for channel, expected in zip(found, samples.T, strict=True):
            np.testing.assert_array_equal(load_audio(channel, 16000), expected)


def test_each_channel_of_a_call_is_heard_apart(ds2: Ds2, conv_model: ConvModel, tmp_path: Path) -> None:
    samples = noise(8000, channels=2)
    soundfile.write(tmp_path / "call.wav", samples, 16000, subtype="PCM_16")
    code, out, err = ds2("transcribe", tmp_path / "call.wav", "--channel", "each", "--format", "json",
                         "--model", conv_model.path)  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)
    for channel in (0, 1):
        said = " ".join(word["word"] for word in found["words"] if word["channel"] == channel)
        assert said == conv_model.text(samples[:, channel])
    assert found["duration_s"] == 0.5
    for options, said in (([], {}), (["--channel", 1], {"channel": 1, "text": conv_model.text(samples[:, 1])})):
        call = ["transcribe", tmp_path / "call.wav", "--format", "json", "--model", conv_model.path]
        told = json.loads(ds2(*call, *options).out)
        assert told.get("channel") == said.get("channel")
        assert told["text"] == said.get("text", conv_model.text(samples.mean(axis=1)))


def test_what_can_be_read_once_and_is_no_audio_says_so_with_its_name(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(b"no audio"), daemon=True).start()
    file = to_read_again(pipe)
    for _ in range(2):
        with pytest.raises(AudioError, match=f"Cannot decode {pipe}"):
            channels_of(file)


def test_a_call_that_cannot_be_read_is_one_line(ds2: Ds2, conv_model: ConvModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", noise(8000, channels=2), 16000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    paths = (tmp_path / "bad.wav", tmp_path / "good.wav", tmp_path / "none.wav")
    code, out, err = ds2("transcribe", *paths, "--channel", "each", "--model", conv_model.path)
    assert code == 1
    assert [line.count(name) for line, name in zip(err.splitlines(), ("bad.wav", "none.wav"), strict=True)] == [1, 1]
    assert {line.split("\t")[0] for line in out.splitlines()} == {str(tmp_path / "good.wav")}
