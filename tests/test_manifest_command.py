"""`ds2 manifest`: every layout in miniature, what is dropped, exit codes; real corpora against their manifests."""

import errno
import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import soundfile

from ds2_deploy.audio.find import find_recordings
from ds2_deploy.commands.manifest import manifest
from ds2_deploy.errors import AudioError, OutputError
from ds2_deploy.manifest import read_manifest
from tests.conftest import Ds2, noise, read_only
from tests.test_files import largest_file
from tests.test_imports import loaded_by
from training.corpora.build import split_off
from training.corpora.check import Limits, ManifestLine
from training.corpora.entry import Reason, audio_files
from training.corpora.formats import FORMATS
from training.corpora.parts import write_flac

RATE = 16000


def write_audio(
    path: Path, samples: int = 16000, *, rate: int = RATE, seed: int | None = None, channels: int | None = None
) -> Path:
    """Another noise for each path, unless a seed is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(os.fsencode(path)) if seed is None else seed
    soundfile.write(path, noise(samples, seed=seed, channels=channels), rate)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def line(audio: str, duration: float, text: str, speaker: str = "") -> dict[str, Any]:
    return {"audio_filepath": audio, "duration": duration, "text": text} | ({"speaker": speaker} if speaker else {})


def unhashed(entry: dict[str, Any]) -> dict[str, Any]:
    """A line with the name of a part's file without the hash in it, which is of an absolute path."""
    return entry | {"audio_filepath": re.sub(r"-[0-9a-f]{12}\.flac$", "-.flac", entry["audio_filepath"])}


@pytest.fixture
def make(ds2: Ds2, tmp_path: Path) -> Callable[..., tuple[int, list[dict[str, Any]], dict[str, Any]]]:
    """`make(source, options...)`: exit code, lines of the manifest, report."""

    def run(source: Path, *options: object) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
        out, report = tmp_path / "m.jsonl", tmp_path / "r.json"
        outcome = ds2("manifest", source, "--out", out, "--report", report, "--overwrite", *options)
        assert outcome.code < 2, outcome.err
        assert outcome.out == "" or outcome.out.startswith(f"Wrote {out}: ")
        return outcome.code, lines_of(out) if outcome.out else [], json.loads(report.read_text())

    return run


Make = Callable[..., tuple[int, list[dict[str, Any]], dict[str, Any]]]


def dropped(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(Path(item["item"]).name, item["reason"]) for item in report["dropped"]]


def librispeech(root: Path) -> Path:
    chapter = root / "LibriSpeech" / "train-clean-5" / "1088" / "134315"
    write_text(chapter / "1088-134315.trans.txt", "1088-134315-0000 AS YOU KNOW\n1088-134315-0001 THE APOLOGIES \n")
    write_audio(chapter / "1088-134315-0000.flac", 20001)
    write_audio(chapter / "1088-134315-0001.wav", 16000, rate=8000)
    other = root / "LibriSpeech" / "dev-clean" / "84" / "121123"
    write_text(other / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR\n")
    write_audio(other / "84-121123-0000.flac")
    return root / "LibriSpeech"


def test_librispeech(make: Make, tmp_path: Path) -> None:
    source = librispeech(tmp_path)
    train = "LibriSpeech/train-clean-5/1088/134315/1088-134315-000"
    dev = line("LibriSpeech/dev-clean/84/121123/84-121123-0000.flac", 1.0, "GO DO YOU HEAR", "84")
    expected = [
        line(f"{train}0.flac", 1.2501, "AS YOU KNOW", "1088"),  # 20001 / 16000 = 1.2500625
        line(f"{train}1.wav", 2.0, "THE APOLOGIES", "1088"),
    ]
    code, lines, report = make(source)
    assert (code, lines) == (0, [dev, *expected])
    assert report == {
        "format": "librispeech", "notes": [], "kept": 3, "kept_s": 4.25, "counts": {}, "dropped": [],
    }  # fmt: skip
    for options in (
        [source, "--split", "train-clean-5"],
        [source / "train-clean-5"],
        [source / "train-clean-5/1088/134315"],
    ):
        assert make(*options)[:2] == (0, expected)
    (source / "train-clean-5/1088/134315/1088-134315-0001.wav").rename(source / "train-clean-5/1088/134315/x.wav")
    code, lines, report = make(source)
    assert (code, len(lines)) == (1, 2)
    assert dropped(report) == [
        ("1088-134315.trans.txt, line 2", Reason.NO_AUDIO),
        ("x.wav", Reason.NO_TRANSCRIPT),
    ]


def test_an4(make: Make, ds2: Ds2, tmp_path: Path) -> None:
    root = tmp_path / "an4"
    write_text(
        root / "etc/an4_train.transcription", "<s> YES </s> (an1-fash-b)\n<s>  RUBOUT G M </s> (an2-fash-b)\nNO ID\n"
    )
    write_text(root / "etc/an4_test.transcription", "NINE (an3-menk-b)\nZERO (an4-menk-b)\n")
    write_audio(root / "wav/an4_clstk/fash/an1-fash-b.wav")
    write_text(root / "wav/an4_clstk/fash/an1-fash-b.sph", "a copy that was converted")
    write_audio(root / "wav/an4_clstk/fash/an2-fash-b.flac")
    write_audio(root / "wav/an4test_clstk/menk/an3-menk-b.wav")
    code, lines, report = make(root, "--split", "train")
    assert (code, dropped(report)) == (1, [("an4_train.transcription, line 3", Reason.MALFORMED)])
    assert lines == [
        line("an4/wav/an4_clstk/fash/an1-fash-b.wav", 1.0, "YES", "fash"),
        line("an4/wav/an4_clstk/fash/an2-fash-b.flac", 1.0, "RUBOUT G M", "fash"),
    ]
    code, lines, report = make(root, "--split", "test")
    assert lines == [line("an4/wav/an4test_clstk/menk/an3-menk-b.wav", 1.0, "NINE", "menk")]
    assert (code, dropped(report)) == (1, [("an4_test.transcription, line 2", Reason.NO_AUDIO)])
    outcome = ds2("manifest", root, "--out", tmp_path / "new.jsonl")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--split is missing: this source of AN4 has test, train." in " ".join(outcome.err.split())


def test_a_folder_of_another_format(ds2: Ds2, tmp_path: Path) -> None:
    write_audio(tmp_path / "corpus/a.wav")
    outcome = ds2("manifest", tmp_path / "corpus", "--format", "an4", "--out", tmp_path / "new.jsonl")
    assert outcome.code == 1
    assert "is no corpus of the format an4: it holds no etc/an4_*.transcription." in " ".join(outcome.err.split())


def test_a_release_in_raw_says_what_to_do(ds2: Ds2, tmp_path: Path) -> None:
    write_text(tmp_path / "etc/an4_train.transcription", "<s> YES </s> (an1-fash-b)\n")
    write_text(tmp_path / "wav/an4_clstk/fash/an1-fash-b.raw", "samples")
    outcome = ds2("manifest", tmp_path, "--split", "train", "--out", tmp_path / "m.jsonl")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "holds no recording" in outcome.err
    assert "convert headerless .raw files to WAV first" in outcome.err


def test_a_folder_that_cannot_be_read_ends_the_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest without its recordings would look whole."""
    for speaker in ("S0002", "S0003"):
        write_audio(tmp_path / speaker / "a.wav")
    scandir = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("S0003"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(AudioError, match="S0003: Permission denied"):
        audio_files(tmp_path)


def test_aishell(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "data_aishell"
    ids = [f"BAC009S000{speaker}W010{n}" for speaker in (2, 3) for n in (1, 2)]
    texts = ["而 对 楼市", "甚至 出现", "北京", "天 气"]
    write_text(
        root / "transcript/aishell_transcript_v0.8.txt", "".join(f"{i} {t}\n" for i, t in zip(ids, texts, strict=True))
    )
    write_audio(root / f"wav/train/S0002/{ids[0]}.wav")
    write_audio(root / "wav/train/S0002/BAC009S0002W0999.wav")
    write_audio(root / f"wav/test/S0003/{ids[2]}.wav")
    write_audio(root / f"wav/test/S0003/{ids[3]}.wav")
    code, lines, report = make(root, "--split", "train")
    assert lines == [line(f"data_aishell/wav/train/S0002/{ids[0]}.wav", 1.0, "而对楼市", "S0002")]
    assert (code, dropped(report)) == (
        1,
        [("aishell_transcript_v0.8.txt, line 2", Reason.NO_AUDIO), ("BAC009S0002W0999.wav", Reason.NO_TRANSCRIPT)],
    )
    code, lines, report = make(root, "--split", "test")
    assert (code, [entry["text"] for entry in lines], report["dropped"]) == (0, ["北京", "天气"], [])
    (root / "wav/train").rename(root / "train-on-another-disk")  # its speaker is none of another split, but gone
    code, lines, report = make(root, "--split", "test")
    assert (code, len(lines)) == (0, 2)
    assert dropped(report) == [(f"aishell_transcript_v0.8.txt, line {n}", Reason.UNUSED_TRANSCRIPT) for n in (1, 2)]
    (root / "wav/train").symlink_to(root / "train-on-another-disk")
    assert len(make(root, "--split", "train")[1]) == 1


def test_common_voice(make: Make, ds2: Ds2, tmp_path: Path) -> None:
    root = tmp_path / "cv" / "de"
    header = "client_id\tpath\tsentence\tup_votes\n"
    rows = 'c1\ta.wav\tEr sagte: "Größe\t2\nc2\tb.wav\t\t2\nc2\tmissing.wav\tHallo\t2\nc3\tshort row\n'
    write_text(root / "train.tsv", header + rows)
    write_text(root / "reported.tsv", "sentence\treason\nx\ty\n")
    write_text(root / "test.tsv", "path\tsentence\tclient_id\nb.wav\tHallo\tc2\n")
    for name in ("a", "b", "unlisted"):
        write_audio(root / "clips" / f"{name}.wav")
    expected = [line("cv/de/clips/a.wav", 1.0, 'Er sagte: "Größe', "c1")]
    for options in ([root / "train.tsv"], [root, "--split", "train"]):
        code, lines, report = make(*options)
        assert (code, lines) == (1, expected)
        assert dropped(report) == [
            ("train.tsv, line 5", Reason.MALFORMED),
            ("b.wav", Reason.EMPTY_TEXT),
            ("missing.wav", Reason.NO_AUDIO),
        ]
    assert make(root / "test.tsv")[:2] == (0, [line("cv/de/clips/b.wav", 1.0, "Hallo", "c2")])
    (root / "latin.tsv").write_bytes((header + "c1\ta.wav\tGröße\t2\n").encode("latin-1"))
    outcome = ds2("manifest", root, "--split", "latin", "--out", tmp_path / "new.jsonl")
    assert (outcome.code, "latin.tsv: it is not UTF-8" in outcome.err) == (1, True)
    (root / "latin.tsv").unlink()
    for source, split, listed in ((root, "reported", "test, train"), (root / "test.tsv", "train", "test")):
        outcome = ds2("manifest", source, "--split", split, "--out", tmp_path / "new.jsonl")
        assert outcome.code == 2
        assert f"this source of Common Voice has {listed}." in " ".join(outcome.err.split())


def cut(name: str, path: str, start_s: float, duration_s: float, texts: list[str], **changes: Any) -> dict[str, Any]:
    """A MonoCut as lhotse 1.x serialises it, of a recording of 3 s; several texts share it evenly."""
    step = duration_s / max(len(texts), 1)
    supervisions = [
        {
            "id": f"{name}/{i}",
            "recording_id": "r",
            "start": i * step,
            "duration": step,
            "channel": 0,
            "text": text,
            "speaker": "s",
        }
        for i, text in enumerate(texts)
    ]
    source = {"type": "file", "channels": [0], "source": path}
    recording = {"id": "r", "sources": [source], "sampling_rate": RATE, "num_samples": 48000, "duration": 3.0}
    return {
        "id": name, "start": start_s, "duration": duration_s, "channel": 0, "supervisions": supervisions,
        "recording": recording, "type": "MonoCut",
    } | changes  # fmt: skip


def test_recordings_of_nothing_are_no_training_data(make: Make, tmp_path: Path) -> None:
    """Digital silence, or two channels that cancel each other out, with a text all the same."""
    write_audio(tmp_path / "in" / "fine.wav")
    sound = noise(16000)
    for name, samples in (("silent", np.zeros(16000, np.float32)), ("cancelling", np.stack([sound, -sound], axis=1))):
        soundfile.write(tmp_path / "in" / f"{name}.wav", samples, RATE)
    for name in ("fine", "silent", "cancelling"):
        write_text(tmp_path / "in" / f"{name}.txt", "yes")
    code, lines, report = make(tmp_path / "in")
    assert [Path(entry["audio_filepath"]).name for entry in lines] == ["fine.wav"]
    assert (code, dropped(report)) == (1, [(f"{name}.wav", Reason.SILENT) for name in ("cancelling", "silent")])
    assert all("digital silence alone" in item["detail"] for item in report["dropped"])
    entries = [line("silent.wav", 0.5, f"part {i}") | {"offset": 0.25} for i in range(1)]
    source = write_text(tmp_path / "in" / "old.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    code, _, report = make(source, "--audio-dir", tmp_path / "parts")
    assert (code, dropped(report)) == (1, [("silent.wav", Reason.SILENT)])


def test_lhotse_cuts(make: Make, ds2: Ds2, tmp_path: Path) -> None:
    samples, _ = soundfile.read(write_audio(tmp_path / "long.flac", 48000), dtype="int16")
    cuts = [
        cut("whole", "long.flac", 0, 3.0, ["the whole"]),
        cut("part", str(tmp_path / "long.flac"), 0.5, 1.25, ["a part"]),
        cut("several", "long.flac", 1.0, 2.0, ["first", "second"]),
        cut("beyond", "long.flac", 2.0, 2.0, ["too far"]),
        cut("silent", "long.flac", 0, 1.0, []),
        cut("mixed", "long.flac", 0, 1.0, ["x"], type="MixedCut"),
        cut("missing", "missing.flac", 0, 1.0, ["x"]),
    ]
    source = tmp_path / "cuts.jsonl.gz"
    source.write_bytes(gzip.compress("".join(json.dumps(entry) + "\n" for entry in cuts).encode()))
    outcome = ds2("manifest", source, "--out", tmp_path / "new.jsonl")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--audio-dir says where" in " ".join(outcome.err.split())
    code, lines, report = make(source, "--audio-dir", tmp_path / "parts")
    assert [unhashed(entry) for entry in lines] == [
        line("long.flac", 3.0, "the whole", "s"),
        line("parts/long-0000500-.flac", 1.25, "a part", "s") | {"recording": "long.flac"},
        line("parts/long-0001000-.flac", 1.0, "first", "s") | {"recording": "long.flac"},
        line("parts/long-0002000-.flac", 1.0, "second", "s") | {"recording": "long.flac"},
    ]
    for entry, first, last in ((lines[1], 8000, 28000), (lines[3], 32000, 48000)):
        written, rate = soundfile.read(tmp_path / entry["audio_filepath"], dtype="int16")
        assert rate == RATE
        np.testing.assert_array_equal(written, samples[first:last])
    assert (code, dropped(report)) == (
        1,
        [
            ("cuts.jsonl.gz, line 5", Reason.NO_TRANSCRIPT),
            ("cuts.jsonl.gz, line 6", Reason.MALFORMED),
            ("long.flac", Reason.UNREADABLE),
            ("missing.flac", Reason.NO_AUDIO),
        ],
    )
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        Path(entry["audio_filepath"]).name for entry in lines[1:]
    ]


def test_windows_of_a_longer_text_are_dropped(make: Make, tmp_path: Path) -> None:
    """As lhotse's `cut_into_windows` leaves them: the supervision keeps its length and reaches beyond the cut."""
    write_audio(tmp_path / "long.flac", 48000)

    def window(name: str, start_s: float, from_s: float, said_s: float) -> dict[str, Any]:
        entry = cut(name, "long.flac", start_s, 1.0, [f"text {name}"])
        entry["supervisions"][0] |= {"start": from_s, "duration": said_s}
        return entry

    cuts = [
        window("before", 1.0, -0.5, 1.2),
        window("after", 1.0, 0.2, 0.9),
        window("within", 1.0, 0.2, 0.5),
        window("rounded", 2.0, -0.0005, 1.001),
    ]
    source = write_text(tmp_path / "cuts.jsonl", "".join(json.dumps(entry) + "\n" for entry in cuts))
    code, lines, report = make(source, "--audio-dir", tmp_path / "parts")
    assert (code, [(entry["text"], entry["duration"]) for entry in lines]) == (
        0, [("text within", 1.0), ("text rounded", 1.0)],
    )  # fmt: skip
    assert dropped(report) == [("long.flac", Reason.BEYOND)] * 2
    assert report["dropped"][0]["detail"] == "supervision before/0, -0.500 to 0.700 s of a cut of 1.000 s"


def test_a_supervision_without_text_is_dropped_alone(make: Make, tmp_path: Path) -> None:
    write_audio(tmp_path / "long.flac", 48000)
    null, missing = cut("null", "long.flac", 0, 3.0, [""]), cut("several", "long.flac", 0, 3.0, ["said", ""])
    null["supervisions"][0]["text"] = None
    del missing["supervisions"][1]["text"]
    source = write_text(tmp_path / "cuts.jsonl", json.dumps(null) + "\n" + json.dumps(missing) + "\n")
    code, lines, report = make(source, "--audio-dir", tmp_path / "parts")
    assert (code, [entry["text"] for entry in lines]) == (0, ["said"])
    assert dropped(report) == [("long.flac", Reason.EMPTY_TEXT)] * 2


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
)
def test_cuts_sound_as_their_recording(make: Make, tmp_path: Path, kind: str, subtype: str) -> None:
    """A loud one, which lossy formats take beyond full scale, at half the rate of its samples."""
    samples = np.append(np.sign(noise(16000)).repeat(3)[:15997], np.float32([1.0, -1.0, 0.5])).astype(np.float32)
    soundfile.write(tmp_path / "long.snd", samples, RATE, format=kind, subtype=subtype)
    heard, _ = soundfile.read(tmp_path / "long.snd", dtype="float32")
    assert np.abs(heard).max() >= 1.0
    source = write_text(tmp_path / "cuts.jsonl", json.dumps(cut("part", "long.snd", 0.25, 0.5, ["a part"])))
    _, lines, _ = make(source, "--audio-dir", tmp_path / "parts")
    written, _ = soundfile.read(tmp_path / lines[0]["audio_filepath"])
    np.testing.assert_allclose(written, heard[4000:12000].clip(-1, 1), atol=2**-15)


@pytest.mark.parametrize("runs", [1, 2])
def test_pieces_of_one_recording_are_not_parted(make: Make, tmp_path: Path, runs: int) -> None:
    """Whether they are cut and split at once or one after the other."""
    entries = []
    for name in ("a", "b", "c", "d"):
        write_audio(tmp_path / f"{name}.wav", 4 * RATE)
        entries += [line(f"{name}.wav", 1.0, f"text {name} {second}") | {"offset": second} for second in range(4)]
    source = write_text(tmp_path / "o.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    valid = tmp_path / "v.jsonl"
    if runs == 2:
        make(source, "--audio-dir", tmp_path / "parts")
        source = (tmp_path / "m.jsonl").rename(tmp_path / "cut.jsonl")
    _, train, _ = make(source, "--audio-dir", tmp_path / "parts", "--valid-share", 0.5, "--valid-out", valid)
    held = lines_of(valid)
    assert (len(train), len(held)) == (8, 8)
    assert not {entry["text"].split()[1] for entry in train} & {entry["text"].split()[1] for entry in held}


def test_parts_are_below_the_folder_that_is_named(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that is relative: a manifest's paths are from its own folder, not from the current one."""
    write_audio(tmp_path / "a.wav", 48000)
    source = write_text(tmp_path / "in.jsonl", json.dumps(line("a.wav", 1.0, "a part") | {"offset": 1.0}))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _, lines, _ = make(source, "--audio-dir", Path("../there/parts"))
    assert read_manifest(tmp_path / "m.jsonl")[0].path == tmp_path / lines[0]["audio_filepath"]
    assert (tmp_path / lines[0]["audio_filepath"]).is_file()
    assert unhashed(lines[0])["audio_filepath"] == "there/parts/a-0001000-.flac"


def test_parts_of_two_manifests_share_a_folder(make: Make, tmp_path: Path) -> None:
    """With --overwrite, as the refusal of a folder that is there says, and whatever their ids."""
    samples, _ = soundfile.read(write_audio(tmp_path / "long.flac", 48000), dtype="int16")
    heard = []
    for start in (0.5, 1.5):
        several = cut("x", "long.flac", start, 1.5, ["one", "two"])
        several["supervisions"][0]["id"], several["supervisions"][1]["id"] = "a/b", "a_b"
        _, lines, _ = make(write_text(tmp_path / "c.jsonl", json.dumps(several)), "--audio-dir", tmp_path / "parts")
        heard += [(entry, round(RATE * (start + 0.75 * i))) for i, entry in enumerate(lines)]
    assert len({entry["audio_filepath"] for entry, _ in heard}) == 4
    for entry, first in heard:
        written, _ = soundfile.read(tmp_path / entry["audio_filepath"], dtype="int16")
        np.testing.assert_array_equal(written, samples[first : first + 12000])


def test_what_is_known_of_a_piece_is_kept(make: Make, tmp_path: Path) -> None:
    """Its score, and what it was cut from, even where that is gone, or where it is cut again."""
    write_audio(tmp_path / "a.wav", 48000)
    known = {"score": -0.25, "recording": "book.mp3"}
    entries = [line("a.wav", 3.0, "whole") | known, line("a.wav", 1.0, "again") | known | {"offset": 1.0}]
    source = write_text(tmp_path / "in.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    code, lines, _ = make(source, "--audio-dir", tmp_path / "parts")
    assert (code, [unhashed(entry) for entry in lines]) == (
        0, [line("a.wav", 3.0, "whole") | known, line("parts/a-0001000-.flac", 1.0, "again") | known],
    )  # fmt: skip


def test_a_cut_of_one_channel_is_that_channel(make: Make, tmp_path: Path) -> None:
    samples, _ = soundfile.read(write_audio(tmp_path / "stereo.wav", 48000, channels=2), dtype="int16")
    entry = cut("right", "stereo.wav", 0, 3.0, ["right"], channel=1)
    entry["recording"]["sources"][0]["channels"] = [0, 1]
    code, lines, _ = make(write_text(tmp_path / "cuts.jsonl", json.dumps(entry)), "--audio-dir", tmp_path / "parts")
    assert (code, [entry["text"] for entry in lines]) == (0, ["right"])
    written, _ = soundfile.read(tmp_path / lines[0]["audio_filepath"], dtype="int16")
    np.testing.assert_array_equal(written, samples[:, 1])


def test_a_text_beside_every_recording(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "Aufnahmen ü"
    for name, text in (
        ("a.wav", "two\nlines\u3000 and  spaces\n"),
        ("sub/a.wav", "same stem"),
        ("sub/日本.flac", "こんにちは"),
    ):
        write_text(write_audio(root / name).with_suffix(".txt"), text)
    write_text(write_audio(root / "l.wav").with_suffix(".lab"), "a label file")
    write_audio(root / "a.flac")
    write_audio(root / "alone.wav")
    write_text(root / "README.txt", "who made it")
    write_audio(root / "latin.wav").with_suffix(".txt").write_bytes("Größe".encode("latin-1"))
    code, lines, report = make(root)
    assert lines == [
        line("Aufnahmen ü/a.flac", 1.0, "two lines and spaces"),
        line("Aufnahmen ü/l.wav", 1.0, "a label file"),
        line("Aufnahmen ü/sub/a.wav", 1.0, "same stem"),
        line("Aufnahmen ü/sub/日本.flac", 1.0, "こんにちは"),
    ]
    assert code == 1  # for the text that cannot be read
    assert dropped(report) == [
        ("a.wav", Reason.DUPLICATE),
        ("alone.wav", Reason.NO_TRANSCRIPT),
        ("latin.wav", Reason.MALFORMED),
        ("README.txt", Reason.UNUSED_TRANSCRIPT),
    ]
    (root / "latin.wav").unlink()
    assert make(root)[0] == 0  # what is left out is the corpus's choice


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("transcripts.txt", "a.wav\tone, two\nsub/b.wav\tthree\n"),
        ("metadata.csv", 'a|1, "2|one, two\nb|3|three\n'),
        ("metadata.csv", 'file_name,transcription\na.wav,"one, two"\nsub/b.wav,three\n'),
        ("other.tsv", "path\ttext\na\tone, two\nb.wav\tthree\n"),
    ],
)
def test_one_table_for_all(make: Make, tmp_path: Path, name: str, table: str) -> None:
    root = tmp_path / "in"
    write_audio(root / "a.wav")
    write_audio(root / "sub" / "b.wav")
    path = write_text(root / name, table)
    code, lines, report = make(path if name == "other.tsv" else root)
    assert lines == [line("in/a.wav", 1.0, "one, two"), line("in/sub/b.wav", 1.0, "three")]
    assert (code, report["format"], report["dropped"]) == (0, "folder", [])


def test_links_to_folders_are_followed_once(make: Make, tmp_path: Path) -> None:
    """To other disks, to each other, upwards, and to nowhere; a folder that lies below goes by its own name."""
    root, disk = tmp_path / "in", tmp_path / "disk"
    for path in (root / "a.wav", root / "z" / "b.wav", disk / "c.wav", disk / "d" / "e.wav"):
        write_text(write_audio(path).with_suffix(".txt"), f"text {path.stem}")
    for link, target in (
        (root / "link", disk),
        (root / "again", disk / "d"),
        (root / "first", root / "z"),
        (root / "z" / "up", root),
        (disk / "round", disk),
        (root / "nowhere", tmp_path / "gone"),
    ):
        link.symlink_to(target)  # fmt: skip
    code, lines, report = make(root)
    assert (code, report["dropped"]) == (0, [])
    assert [entry["audio_filepath"] for entry in lines] == [
        "in/a.wav", "in/again/e.wav", "in/link/c.wav", "in/z/b.wav",
    ]  # fmt: skip
    write_text(disk / "alone.txt", "of nothing")
    assert dropped(make(root)[2]) == [("alone.txt", Reason.UNUSED_TRANSCRIPT)]
    found, _ = find_recordings([str(root)], recursive=False)
    assert [recording.name for recording in found] == [str(root / "a.wav")]


def test_what_phones_record_is_to_be_converted(make: Make, tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.wav")
    write_text(tmp_path / "in" / "a.txt", "yes")
    for name in ("in/b.m4a", "out/c.M4A", "out/d.mp4"):
        write_text(tmp_path / name, "no sound that is read")
    write_text(tmp_path / "in" / "b.txt", "yes")
    (found,) = make(tmp_path / "in")[2]["dropped"]
    assert found["detail"] == "b.m4a beside it is not read: convert it to WAV first"
    _, (error,) = find_recordings([str(tmp_path / "out")], recursive=False)
    assert str(error).endswith("convert its .m4a and .mp4 files to WAV first.")


def test_a_subset_of_librispeech_may_be_a_link(make: Make, tmp_path: Path) -> None:
    source = librispeech(tmp_path)
    whole, dev = make(source)[1], make(source, "--split", "dev-clean")[1]
    (source / "dev-clean").rename(tmp_path / "elsewhere")
    (source / "dev-clean").symlink_to(tmp_path / "elsewhere")
    assert (make(source)[1], make(source, "--split", "dev-clean")[1]) == (whole, dev)
    assert len(whole) == len(dev) + 2 == 3


def test_a_header_says_which_column_is_the_text(make: Make, ds2: Ds2, tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.wav")
    write_text(tmp_path / "in" / "metadata.csv", "file_name,Transcription,speaker_id,split\na.wav,one two,p225,train\n")
    code, lines, _ = make(tmp_path / "in")
    assert (code, lines) == (0, [line("in/a.wav", 1.0, "one two", "p225")])
    write_text(tmp_path / "in" / "metadata.csv", "file_name,label,speaker\na.wav,one two,p225\n")
    assert make(tmp_path / "in")[1] == [line("in/a.wav", 1.0, "one two", "p225")]
    write_text(tmp_path / "in" / "metadata.csv", "\nfile_name,label,speaker\na.wav,one two,p225\n")
    assert make(tmp_path / "in")[:2] == (0, [line("in/a.wav", 1.0, "one two", "p225")])
    write_text(tmp_path / "in" / "metadata.csv", "file_name,text,speaker\na.wav,one two\n")
    assert dropped(make(tmp_path / "in")[2])[0] == ("metadata.csv, line 2", Reason.MALFORMED)
    write_text(tmp_path / "in" / "metadata.csv", "path,client_id\na.wav,p225\n")
    outcome = ds2("manifest", tmp_path / "in", "--out", tmp_path / "none.jsonl")
    assert (outcome.code, "has a header without a column of texts: path, client_id" in outcome.err) == (1, True)
    write_text(tmp_path / "in" / "metadata.csv", "id|text|normalized_text|length\na|1 2|one two|7\n")
    assert make(tmp_path / "in")[1] == [line("in/a.wav", 1.0, "one two")]


def test_a_table_of_something_else_does_not_matter(make: Make, tmp_path: Path) -> None:
    """It is looked at, for it may be Common Voice's, and need not be text."""
    write_audio(tmp_path / "in" / "a.wav")
    write_text(tmp_path / "in" / "a.txt", "one two")
    (tmp_path / "in" / "notes.tsv").write_bytes("name\tremark\n".encode("utf-16"))
    assert make(tmp_path / "in")[:2] == (0, [line("in/a.wav", 1.0, "one two")])


def test_faults_of_a_table(make: Make, tmp_path: Path) -> None:
    for name in ("a.wav", "x/b.wav", "y/b.wav", "unnamed.wav"):
        write_audio(tmp_path / name)
    rows = [
        "a\tfine",
        "b\twhich of two",
        "y/b.wav\tby path",
        "gone\tnot there",
        "no separator " * 40,
        "a.wav\tagain",
        "a\tb\tc",
    ]
    write_text(tmp_path / "transcripts.txt", "\n".join(rows))
    code, lines, report = make(tmp_path)
    assert (code, lines) == (1, [line("a.wav", 1.0, "fine"), line("y/b.wav", 1.0, "by path")])
    assert dropped(report) == [
        ("transcripts.txt, line 2", Reason.MALFORMED),
        ("transcripts.txt, line 4", Reason.NO_AUDIO),
        ("transcripts.txt, line 5", Reason.MALFORMED),
        ("a.wav", Reason.DUPLICATE),
        ("transcripts.txt, line 7", Reason.MALFORMED),
        ("unnamed.wav", Reason.NO_TRANSCRIPT),
        ("b.wav", Reason.NO_TRANSCRIPT),
    ]


def test_a_manifest_again_mends_durations_and_paths(make: Make, ds2: Ds2, tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.wav", 24000)
    write_audio(tmp_path / "in" / "b.wav", 32000)
    write_audio(tmp_path / "in" / "c.wav", 16000)
    entries = [
        line("a.wav", 99.0, "a lie", "s1"),
        line("../in/b.wav", 2.0, "true"),
        line("b.wav", 0.5, "a part") | {"offset": 1.0},
        line("b.wav", 2.0, "another text"),
        line("b.wav", 0.75, "the beginning") | {"offset": 0},
        line("c.wav", 1.0, "all of it") | {"offset": 0.0},
        {"audio_filepath": "b.wav", "duration": 2.0},
        {"audio_filepath": 3, "text": "a number"},
    ]
    broken = "{broken\n" + "[" * 200_000 + "\n"
    source = write_text(tmp_path / "in" / "old.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries) + broken)
    code, lines, report = make(source, "--audio-dir", tmp_path / "parts")
    assert [unhashed(entry) for entry in lines] == [
        line("in/a.wav", 1.5, "a lie", "s1"),
        line("in/b.wav", 2.0, "true"),
        line("parts/b-0001000-.flac", 0.5, "a part") | {"recording": "in/b.wav"},
        line("parts/b-0000000-.flac", 0.75, "the beginning") | {"recording": "in/b.wav"},
        line("in/c.wav", 1.0, "all of it"),
    ]
    assert (code, dropped(report)) == (
        1,
        [
            ("b.wav", Reason.DUPLICATE),
            ("old.jsonl, line 7", Reason.MALFORMED),
            ("old.jsonl, line 8", Reason.MALFORMED),
            ("old.jsonl, line 9", Reason.MALFORMED),
            ("old.jsonl, line 10", Reason.MALFORMED),
        ],
    )
    details = [drop["detail"] for drop in report["dropped"]]
    assert details[1:] == [
        "it has no field 'text'",
        "something in it is of a wrong type",
        "it is not JSON: Expecting property name enclosed in double quotes",
        "it is nested too deep",
    ]
    outcome = ds2("evaluate", "default", source)
    assert (outcome.code, "old.jsonl names a part of b.wav, from 1 s on" in outcome.err) == (1, True)


def test_what_was_transcribed_comes_back(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where its paths were named: beside the lines or in the current folder."""
    for name in ("in/a.wav", "here/in/b.wav"):
        write_audio(tmp_path / name)
    monkeypatch.chdir(tmp_path / "here")
    words = [{"word": "one", "start_s": 0.1, "end_s": 0.3, "confidence": 0.9}]
    heard = [
        {"path": path, "text": "one", "duration_s": 9.0, "words": words} for path in ("a.wav", "in/b.wav", "c.wav")
    ]
    source = write_text(tmp_path / "in" / "t.jsonl", "".join(json.dumps(entry) + "\n" for entry in heard))
    code, lines, report = make(source)
    assert (code, report["format"]) == (1, "manifest")
    assert lines == [line("in/a.wav", 1.0, "one"), line("here/in/b.wav", 1.0, "one")]
    assert dropped(report) == [("c.wav", Reason.NO_AUDIO)]


def test_parts_that_are_all_of_a_recording_come_once(make: Make, tmp_path: Path) -> None:
    """Whatever their durations say, which are not theirs."""
    write_audio(tmp_path / "a.wav", 48000)
    ways: list[dict[str, Any]] = [{"offset": 0}, {}, {"offset": 0.0, "duration": 3.01}, {"offset": 0, "duration": 2.98}]
    entries = [line("a.wav", 3.0, f"text {i}") | way for i, way in enumerate(ways)]
    source = write_text(tmp_path / "in.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    code, lines, report = make(source)
    assert (code, lines) == (0, [line("a.wav", 3.0, "text 0")])
    assert dropped(report) == [("a.wav", Reason.DUPLICATE)] * 3
    assert sorted(item["detail"] for item in report["dropped"]) == [f"its text there: 'text {i}'" for i in (1, 2, 3)]


def test_a_last_piece_ends_with_its_recording(make: Make, tmp_path: Path) -> None:
    """Durations rounded to 10 ms, as many tools write them; more than rounding is refused."""
    samples, _ = soundfile.read(write_audio(tmp_path / "a.wav", 47937), dtype="int16")  # 2.99606 s
    entries = [
        line("a.wav", 1.0, "last") | {"offset": 2.0},
        line("a.wav", 1.03, "rounder") | {"offset": 1.99},
        line("a.wav", 1.04, "the last again") | {"offset": 2.0},
        line("a.wav", 1.06, "beyond") | {"offset": 2.0},
        line("a.wav", 1.0, "after it") | {"offset": 3.0},
        line("a.wav", 0.11, "short") | {"offset": 2.9},
    ]
    source = write_text(tmp_path / "in.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    code, lines, report = make(source, "--audio-dir", tmp_path / "parts")
    assert (code, [(entry["text"], entry["duration"]) for entry in lines]) == (
        1, [("last", 0.9961), ("rounder", 1.0061)],
    )  # fmt: skip
    written, _ = soundfile.read(tmp_path / lines[0]["audio_filepath"], dtype="int16")
    np.testing.assert_array_equal(written, samples[32000:])
    again = (Path(lines[0]["audio_filepath"]).name, Reason.DUPLICATE)
    assert dropped(report) == [again, *[("a.wav", Reason.UNREADABLE)] * 2, ("a.wav", Reason.TOO_SHORT)]


def test_recordings_that_are_none(make: Make, tmp_path: Path) -> None:
    for name in ("fine", "cut", "empty", "text"):
        write_text(write_audio(tmp_path / f"{name}.flac", 48000).with_suffix(".txt"), "some words")
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.flac").write_bytes(b"")
    (tmp_path / "text.flac").write_text("not audio")
    code, lines, report = make(tmp_path)
    assert (code, lines) == (1, [line("fine.flac", 3.0, "some words")])
    assert dropped(report) == [(f"{name}.flac", Reason.UNREADABLE) for name in ("cut", "empty", "text")]
    assert "cut off" in report["dropped"][0]["detail"]
    _, lines, _ = make(tmp_path, "--headers-only")
    assert [entry["audio_filepath"] for entry in lines] == ["cut.flac", "fine.flac"]  # what decoding is for


def test_limits_drop_and_are_no_failure(make: Make, ds2: Ds2, tmp_path: Path) -> None:
    cases = {
        "none": (0, "x"),
        "short": (1599, "x"),
        "least": (1600, "x"),
        "most": (32000, "xx"),
        "long": (32001, "xx"),
        "fast": (16000, "y" * 11),
        "fastest": (16000, "y" * 10),
        "slow": (32000, "x"),
        "blank": (16000, " \n"),
    }
    for name, (samples, text) in cases.items():
        write_text(write_audio(tmp_path / f"{name}.wav", samples).with_suffix(".txt"), text)
    code, lines, report = make(
        tmp_path, "--max-seconds", 2, "--max-chars-per-second", 10, "--min-chars-per-second", 0.6
    )
    assert (code, [entry["audio_filepath"] for entry in lines]) == (0, ["fastest.wav", "least.wav", "most.wav"])
    assert dict(dropped(report)) == {
        "none.wav": Reason.TOO_SHORT,
        "short.wav": Reason.TOO_SHORT,
        "long.wav": Reason.TOO_LONG,
        "fast.wav": Reason.TOO_FAST,
        "slow.wav": Reason.TOO_SLOW,
        "blank.wav": Reason.EMPTY_TEXT,
    }
    assert report["counts"][Reason.TOO_SHORT] == 2
    fault = Limits(min_chars_per_second=1).fault(2.0, "x")
    assert fault == (Reason.TOO_SLOW, "1 characters in 2.00 s; allowed are 1 to 40 a second")
    outcome = ds2("manifest", tmp_path, "--out", tmp_path / "n.jsonl", "--min-seconds", 3, "--max-seconds", 2)
    assert (outcome.code, "min_seconds is 3.0 and max_seconds 2.0" in " ".join(outcome.err.split())) == (2, True)


def test_nothing_is_too_short_whatever_is_allowed(make: Make, tmp_path: Path) -> None:
    for name, samples in (("none", 0), ("one", 1)):
        write_text(write_audio(tmp_path / f"{name}.wav", samples).with_suffix(".txt"), "x")
    code, lines, report = make(tmp_path, "--min-seconds", 0, "--max-chars-per-second", 1e9)
    assert (code, [entry["audio_filepath"] for entry in lines]) == (0, ["one.wav"])
    assert dropped(report) == [("none.wav", Reason.TOO_SHORT)]


def test_the_summary_names_reasons_counts_and_first_examples(ds2: Ds2, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_text(write_audio(tmp_path / f"{name}.wav", 16000).with_suffix(".txt"), "x" if name == "a" else "")
    outcome = ds2("manifest", tmp_path, "--out", tmp_path / "m.jsonl")
    assert outcome == (
        0,
        f"Wrote {tmp_path / 'm.jsonl'}: 1 utterances, 0.00 h.\n",
        f"ds2: 2 dropped: text is empty, first {tmp_path / 'b.wav'}\n",
    )


@pytest.mark.parametrize(
    "fault",
    ["missing", "empty folder", "unknown file", "nothing usable", "its manifest", "pipe", "not UTF-8", "cut gzip"],
)
def test_a_source_that_gives_nothing_is_one_sentence_and_no_file(ds2: Ds2, tmp_path: Path, fault: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    if fault == "missing":
        source /= "nowhere"
    elif fault == "unknown file":
        source = write_text(source / "x.jsonl", '{"some": "thing"}\n')
    elif fault == "nothing usable":
        write_audio(source / "a.wav")
    elif fault == "its manifest":
        write_text(write_audio(source / "a.wav").with_name("told.jsonl"), "{}")
    elif fault == "pipe":
        os.mkfifo(source := source / "fifo")
    elif fault == "not UTF-8":
        write_audio(source / "a.wav")
        (source / "transcripts.txt").write_bytes("a\tGröße".encode("latin-1"))
    elif fault == "cut gzip":
        source /= "cuts.jsonl.gz"
        source.write_bytes(gzip.compress(json.dumps(cut("a", "b", 0, 1, ["x"])).encode())[:-20])
    outcome = ds2("manifest", source, "--out", tmp_path / "m.jsonl")
    assert (outcome.code, outcome.out) == (1, "")
    sentences = {
        "missing": "There is no file or folder",
        "empty folder": "no corpus of a known layout; looked for: a manifest",
        "unknown file": "no corpus of a known layout; looked for: a manifest",
        "nothing usable": f"read as folder, holds nothing usable: {tmp_path / 'm.jsonl'} is not written.",
        "its manifest": "is not written. It holds told.jsonl: where that lists the recordings, give it as SOURCE.",
        "pipe": "fifo is a pipe, which has no layout: say --format manifest, or lhotse for a cut set.",
        "not UTF-8": "is not UTF-8 text. Convert it (iconv -f cp1252 -t utf-8), or save it in Excel as CSV UTF-8.",
        "cut gzip": "Cannot read",
    }
    assert sentences[fault] in outcome.err.splitlines()[-1]
    assert ("It holds" in outcome.err) == (fault == "its manifest")
    assert not (tmp_path / "m.jsonl").exists()


def test_existing_files_are_kept_without_overwrite(ds2: Ds2, tmp_path: Path) -> None:
    write_text(write_audio(tmp_path / "in" / "a.wav").with_suffix(".txt"), "x")
    out = write_text(tmp_path / "m.jsonl", "precious")
    refused = ds2("manifest", tmp_path / "in", "--out", out)
    assert (refused.code, refused.err) == (1, f"ds2: {out} exists already: add --overwrite, or choose another path.\n")
    assert out.read_text() == "precious"
    assert ds2("manifest", tmp_path / "in", "--out", out, "--overwrite").code == 0
    assert len(lines_of(out)) == 1
    assert ds2("manifest", tmp_path / "in", "--out", out, "--report", out, "--overwrite").code == 2


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("--out", "file/x", "/file: it is not a folder"),
        ("--valid-out", "folder", "it is a folder"),
        ("--report", "file/x/y", "/file is not a folder"),
        ("--audio-dir", "file", "it is not a folder"),
        ("--audio-dir", "new", "Read-only file system"),
        ("--out", "new/x", "Read-only file system"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is_read(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    write_text(tmp_path / "file", "")
    monkeypatch.setattr("training.corpora.build.audit", lambda *_, **__: pytest.fail("read all the same"))
    if words == "Read-only file system":
        monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    outs = {"--out": tmp_path / "m.jsonl", "--valid-out": tmp_path / "v.jsonl"} | {option: tmp_path / name}
    outcome = ds2("manifest", tmp_path, *itertools.chain(*outs.items()), "--valid-share", "0.5", "--overwrite")
    assert (outcome.code, outcome.out) == (1, "")
    assert re.fullmatch(f"ds2: Cannot write.*{words}.\n", outcome.err)


def test_a_manifest_may_go_to_a_pipe(tmp_path: Path) -> None:
    write_text(write_audio(tmp_path / "in" / "a.wav").with_suffix(".txt"), "x")
    command = [sys.executable, "-m", "ds2_deploy", "manifest", str(tmp_path / "in"), "--out", "/dev/stdout"]
    outcome = subprocess.run([*command, "--overwrite"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout.splitlines()[0]) == line(str(tmp_path / "in" / "a.wav"), 1.0, "x")


def test_paths_below_the_manifest_are_relative_and_others_absolute(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = write_audio(tmp_path / "data" / "a.wav")
    write_text(audio.with_suffix(".txt"), "x")
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    for out, expected in (("../m.jsonl", "data/a.wav"), ("m.jsonl", str(audio)), ("../data/m.jsonl", "a.wav")):
        assert ds2("manifest", "../data", "--out", out).code == 0
        assert lines_of(Path(out))[0]["audio_filepath"] == expected
        assert read_manifest(Path(out))[0].path.resolve() == audio


def test_a_name_that_is_no_text_reads_back_as_the_same_file(make: Make, tmp_path: Path) -> None:
    name = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    try:
        audio = write_audio(tmp_path / "a.wav").rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    write_text(audio.with_suffix(".txt"), "x")
    assert make(tmp_path)[0] == 0
    assert read_manifest(tmp_path / "m.jsonl")[0].path == audio


def test_any_number_of_workers_gives_the_same_file(ds2: Ds2, tmp_path: Path) -> None:
    for i in range(40):
        write_text(write_audio(tmp_path / "in" / f"{i}.wav", 4000 * (1 + i % 7)).with_suffix(".txt"), f"number {i}")
    for workers in (1, 5):
        assert ds2("manifest", tmp_path / "in", "--out", tmp_path / f"{workers}.jsonl", "--workers", workers).code == 0
    assert (tmp_path / "1.jsonl").read_text() == (tmp_path / "5.jsonl").read_text()


def test_quotes_in_a_table(ds2: Ds2, make: Make, tmp_path: Path) -> None:
    """One that ends and has letters behind it is meant as it stands; one that never ends swallows what follows, up to
    the next one or to the end."""
    for name in ("a", "b", "c"):
        write_audio(tmp_path / "in" / f"{name}.wav")
    table = tmp_path / "in" / "metadata.csv"
    write_text(table, 'a.wav,"yes" she said\nb.wav,no\n')
    assert [line["text"] for line in make(tmp_path / "in")[1]] == ["yes she said", "no"]
    write_text(table, 'a.wav,"two\nlines, one ""text"""\nb.wav,no\n')
    assert [line["text"] for line in make(tmp_path / "in")[1]] == ['two lines, one "text"', "no"]
    for rows in ('a.wav,"yes\nb.wav,no\n', 'a.wav,"yes\nb.wav,no\nc.wav,"ok"\n', 'b.wav,no\na.wav,"yes'):
        write_text(table, rows)
        outcome = ds2("manifest", tmp_path / "in", "--out", tmp_path / "m.jsonl", "--overwrite")
        assert outcome.code == 1
        assert 'metadata.csv has a quote that never ends: a.wav,"yes.' in outcome.err


def test_two_names_of_one_file(ds2: Ds2, tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").symlink_to("m.jsonl")
    options = ("--out", tmp_path / "m.jsonl", "--valid-out", tmp_path / "v.jsonl", "--valid-share", "0.5")
    outcome = ds2("manifest", tmp_path, *options)
    assert outcome.code == 2
    assert "must be different paths" in outcome.err


def test_whole_speakers_are_split_off() -> None:
    rng = np.random.default_rng(3)
    told = [ManifestLine(f"/{i}.wav", float(rng.uniform(1, 5)), "x", f"s{rng.integers(30)}") for i in range(400)]
    total_s = sum(u.duration_s for u in told)
    splits = set()
    for seed in range(5):
        train, valid, by = split_off(told, 0.1, seed)
        assert by == "30 speakers"
        assert sorted(train + valid) == sorted(told)
        assert train == [u for u in told if u in set(train)]  # in order
        assert not {u.speaker for u in train} & {u.speaker for u in valid}
        assert 0.05 * total_s < sum(u.duration_s for u in valid) <= 0.1 * total_s
        assert split_off(told, 0.1, seed) == (train, valid, by)
        splits.add(tuple(valid))
    assert len(splits) == 5
    unknown = [ManifestLine(f"/{i}.wav", 1.0, "x", "") for i in range(10)]
    assert [len(part) for part in split_off(unknown, 0.2, 0)[:2]] == [8, 2]
    pieces = [ManifestLine(f"/{i}.flac", 1.0, "x", "", recording=f"/long-{i // 5}.wav") for i in range(10)]
    train, valid, by = split_off(pieces, 0.5, 0)
    assert by == "recordings: no speakers are named"
    assert [len(train), len(valid)] == [5, 5]
    assert not {u.recording for u in train} & {u.recording for u in valid}
    large, small = [ManifestLine("/a", 9.0, "x", "a")], [ManifestLine("/b", 8.0, "x", "b")]
    assert split_off(large + small, 0.01, 0) == (large, small, "2 speakers")
    some = split_off(large + small + unknown, 0.5, 0)
    assert some.by == "2 speakers, and by recordings where none is named"


def test_what_one_speaker_says_is_split_by_recordings() -> None:
    told = [ManifestLine(f"/{i}.flac", 1.0, "x", "ann", recording=f"/long-{i // 5}.wav") for i in range(20)]
    train, valid, by = split_off(told, 0.25, 0)
    assert (len(train), len(valid), by) == (15, 5, "recordings: the only speaker is in both")
    assert not {u.recording for u in train} & {u.recording for u in valid}


def test_a_second_manifest_for_validation(ds2: Ds2, tmp_path: Path) -> None:
    source = librispeech(tmp_path)
    outs = ["--out", tmp_path / "t.jsonl", "--valid-out", tmp_path / "v.jsonl"]
    outcome = ds2("manifest", source, *outs, "--valid-share", 0.3)
    assert outcome.code == 0
    assert outcome.out.count("Wrote") == 2
    assert [entry["speaker"] for entry in lines_of(tmp_path / "t.jsonl")] == ["1088", "1088"]
    assert [entry["speaker"] for entry in lines_of(tmp_path / "v.jsonl")] == ["84"]
    assert ds2("manifest", source, *outs).code == 2
    assert outcome.err == f"ds2: {tmp_path / 't.jsonl'} and {tmp_path / 'v.jsonl'} are split by 2 speakers.\n"
    alone = ds2("manifest", source / "dev-clean", *outs, "--valid-share", 0.3, "--overwrite")
    assert (alone.code, "cannot split what one recording holds" in alone.err) == (1, True)


def test_the_format_can_be_forced_and_every_format_is_offered(make: Make, ds2: Ds2, tmp_path: Path) -> None:
    choices = get_type_hints(manifest)["format_name"]
    assert set(get_args(get_args(choices)[0])) == FORMATS.keys()
    source = librispeech(tmp_path)
    code, lines, report = make(source / "dev-clean", "--format", "folder")
    assert (code, lines, dropped(report)[0]) == (1, [], ("84-121123-0000.flac", Reason.NO_TRANSCRIPT))
    refused = ds2("manifest", source, "--format", "folder", "--split", "x", "--out", tmp_path / "n.jsonl")
    assert (refused.code, "it has no splits" in " ".join(refused.err.split())) == (2, True)


def test_no_torch_is_needed(tmp_path: Path) -> None:
    assert not {"torch", "onnxruntime"} & loaded_by("import training.corpora.build, training.corpora.formats")
    write_text(write_audio(tmp_path / "a.wav").with_suffix(".txt"), "x")
    code = "import sys; sys.modules['torch'] = None; from ds2_deploy.cli import main; main()"
    command = [sys.executable, "-c", code, "manifest", str(tmp_path), "--out", str(tmp_path / "m.jsonl")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")


def by_file(lines: list[dict[str, Any]]) -> dict[str, tuple[float, str, str]]:
    return {
        Path(entry["audio_filepath"]).name: (entry["duration"], entry["text"].lower(), entry["speaker"])
        for entry in lines
    }


def test_an4_is_what_its_manifests_say(make: Make, ds2_data: Path) -> None:
    root = ds2_data / "an4"
    for split, names in (("train", ["train", "valid"]), ("test", ["test"])):
        code, lines, report = make(root, "--split", split)
        truth = by_file([entry for name in names for entry in lines_of(root / f"{name}.jsonl")])
        assert (code, report["dropped"], len(lines)) == (0, [], len(truth))
        assert by_file(lines) == truth


def test_librispeech_is_what_its_manifest_says(make: Make, ds2_data: Path, tmp_path: Path) -> None:
    """Its transcripts as published, from the manifest of a speaker, beside links to the recordings."""
    root = ds2_data / "librispeech-mini"
    truth = [entry for entry in lines_of(root / "train.jsonl") if entry["speaker"] == "1088"][::4]
    for entry in truth:
        path = root / entry["audio_filepath"]
        chapter = tmp_path / "train-clean-5" / path.parent.parent.name / path.parent.name
        chapter.mkdir(parents=True, exist_ok=True)
        (chapter / path.name).symlink_to(path)
        with (chapter / f"{path.stem.rpartition('-')[0]}.trans.txt").open("a") as file:
            file.write(f"{path.stem} {entry['text'].upper()}\n")
    code, lines, report = make(tmp_path)
    assert (code, report["dropped"], len(lines)) == (0, [], len(truth))
    assert by_file(lines) == {
        name: (pytest.approx(duration, abs=1e-3), text, speaker)
        for name, (duration, text, speaker) in by_file(truth).items()
    }


def test_nobodys_name_is_null_or_not_there(make: Make, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        write_audio(tmp_path / f"{name}.wav")
    speakers: list[dict[str, Any]] = [{"speaker": None}, {}, {"speaker": 0}, {"speaker": "s"}]
    lines = [line(f"{name}.wav", 1.0, "text") | speaker for name, speaker in zip("abcd", speakers, strict=True)]
    source = write_text(tmp_path / "old.jsonl", "".join(json.dumps(one) + "\n" for one in lines))
    assert [utterance.speaker for utterance in read_manifest(source)] == ["", "", "0", "s"]
    assert [one.get("speaker") for one in make(source)[1]] == [None, None, "0", "s"]


@pytest.mark.parametrize("fault", ["channels", "numbers"])
def test_parts_that_cannot_be_written(make: Make, tmp_path: Path, fault: str) -> None:
    samples = noise(32000, channels=9 if fault == "channels" else 1)
    if fault == "numbers":
        samples[20000] = np.nan
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    write_audio(tmp_path / "fine.wav", 32000)
    lines = [line(name, 0.5, "a part") | {"offset": 1.0} for name in ("long.wav", "fine.wav")]
    source = write_text(tmp_path / "old.jsonl", "".join(json.dumps(one) + "\n" for one in lines))
    code, kept, report = make(source, "--audio-dir", tmp_path / "parts")
    assert (code, len(kept)) == (1, 1)
    words = "9 channels, and a FLAC file holds 8" if fault == "channels" else "NaN or infinite from 1.000 to 1.500 s"
    assert words in report["dropped"][0]["detail"]


@pytest.mark.parametrize("room", range(0, 66000, 6000))
def test_a_flac_file_is_whole_wherever_the_disk_is_full(tmp_path: Path, room: int) -> None:
    """Also in its last block, of which libsndfile does not tell."""
    samples = noise(32000)
    write_flac(tmp_path / "whole.flac", samples, RATE)
    size = (tmp_path / "whole.flac").stat().st_size
    with pytest.raises(OutputError, match="Cannot write"), largest_file(size - room - 1):
        write_flac(tmp_path / "part.flac", samples, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.flac"]
