"""`ds2 transcribe`, `ds2 info` and `ds2 doctor` as a user meets them: streams, exit codes, files."""

import errno
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.metadata import ModelMetadata, Provenance
from tests.conftest import ConvModel, Ds2

WriteWav = Callable[..., tuple[Path, npt.NDArray[np.float32]]]
DS2 = [sys.executable, "-m", "ds2_deploy"]


@pytest.fixture
def transcribe(ds2: Ds2, conv_model: ConvModel) -> Ds2:
    return lambda *arguments, **options: ds2("transcribe", "--model", conv_model.path, *arguments, **options)


@pytest.fixture
def texts(conv_model: ConvModel, write_wav: WriteWav) -> dict[str, str]:
    """Recordings in a folder and its subfolder, by path, with the text each must give."""
    names = ["in/b.wav", "in/a.wav", "in/sub/c.WAV"]
    files = [write_wav(name, 4000 + 1000 * i, seed=i) for i, name in enumerate(names)]
    return {str(path): conv_model.text(samples) for path, samples in files}


def lines(texts: dict[str, str]) -> str:
    return "".join(f"{path}\t{text}\n" for path, text in texts.items())


def test_one_file_prints_its_transcript_alone(transcribe: Ds2, texts: dict[str, str]) -> None:
    path, text = next(iter(texts.items()))
    assert transcribe(path) == (0, f"{text}\n", "")
    assert transcribe("-", stdin=Path(path).read_bytes()) == (0, f"{text}\n", "")


def test_several_print_their_paths_in_the_order_given(transcribe: Ds2, texts: dict[str, str]) -> None:
    assert transcribe(*texts) == (0, lines(texts), "")
    assert transcribe(*reversed(texts)).out == lines(dict(reversed(texts.items())))


def test_folders_and_globs(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    b, a, c = texts
    folder = Path(a).parent
    (folder / "notes.txt").write_text("not audio")
    (folder / "._a.wav").write_bytes(b"what macOS leaves")
    assert transcribe(folder) == (0, lines({a: texts[a], b: texts[b]}), "")
    assert transcribe(folder, "--recursive").out == lines({a: texts[a], b: texts[b], c: texts[c]})
    assert transcribe(folder / "sub").out == lines({c: texts[c]})  # a folder's recordings always have names
    assert transcribe(folder / "*.wav").out == lines({a: texts[a], b: texts[b]})
    assert transcribe(tmp_path / "**" / "*.[wW][aA][vV]").out == lines({a: texts[a], b: texts[b], c: texts[c]})
    literal = folder / "odd [1].wav"
    Path(a).rename(literal)
    assert transcribe(literal).out == f"{texts[a]}\n"
    for name in ("x1", "x[1]"):  # the pattern means the first, and the second is a folder of the very name
        (folder / name).mkdir()
    Path(b).rename(folder / "x1" / "b.wav")
    assert transcribe(folder / "x[1]" / "*.wav").out == f"{texts[b]}\n"


def untimed(found: dict[str, Any]) -> dict[str, Any]:
    """Without the words, which are those of the text, one after the other within the recording."""
    words = found.pop("words")
    assert [word["word"] for word in words] == found["text"].split()
    times = [time for word in words for time in (word["start_s"], word["end_s"])]
    assert times == sorted(times)
    assert not times or (times[0] >= 0 and times[-1] <= found["duration_s"])
    assert all(0 < word["confidence"] <= 1 for word in words)
    return found


def test_json_of_one_and_of_several(transcribe: Ds2, texts: dict[str, str]) -> None:
    objects = [
        {"path": path, "text": text, "duration_s": 0.25 + i / 16} for i, (path, text) in enumerate(texts.items())
    ]
    objects[1]["duration_s"] = round(5000 / 16000, 3)
    one, several = transcribe("--format", "json", next(iter(texts))), transcribe("--format", "json", *texts)
    assert untimed(json.loads(one.out)) == objects[0]
    assert [untimed(found) for found in json.loads(several.out)] == [
        objects[0],
        objects[1],
        {**objects[2], "duration_s": 0.375},
    ]
    assert [json.loads(line) for line in transcribe("--format", "jsonl", *texts).out.splitlines()] == json.loads(
        several.out
    )


@pytest.mark.parametrize("format_name", ["srt", "vtt", "tsv"])
def test_subtitles_are_a_file_a_recording(
    transcribe: Ds2, texts: dict[str, str], tmp_path: Path, format_name: str
) -> None:
    refused = transcribe("--format", format_name, *texts)
    assert (refused.code, refused.out) == (2, "")
    assert "--output-dir" in refused.err
    assert transcribe("--format", format_name, "--output-dir", tmp_path / "out", *texts).code == 0
    [first, *_] = texts
    assert transcribe("--format", format_name, first).out == (
        tmp_path / "out" / f"{Path(first).stem}.{format_name}"
    ).read_text(encoding="utf-8")
    assert len(list((tmp_path / "out").iterdir())) == len(texts)


@pytest.mark.parametrize("format_name", ["text", "json", "jsonl"])
def test_failures_are_a_line_each_and_the_others_are_printed(
    transcribe: Ds2, texts: dict[str, str], tmp_path: Path, format_name: str
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    empty = tmp_path / "empty folder"
    empty.mkdir()
    wrong = [tmp_path / "missing.wav", bad, empty, tmp_path / "*.mp3", tmp_path / f"{'x' * 300}.wav"]
    outcome = transcribe(*texts, *wrong, "--format", format_name)
    assert outcome.code == 1
    assert outcome.out == transcribe(*texts, "--format", format_name).out
    failures = outcome.err.splitlines()
    assert len(failures) == 5
    assert all(any(str(path) in line for line in failures) for path in wrong)


def test_a_json_array_without_members(transcribe: Ds2, tmp_path: Path) -> None:
    outcome = transcribe(tmp_path / "a.wav", tmp_path / "b.wav", "--format", "json")
    assert (outcome.code, json.loads(outcome.out)) == (1, [])


@pytest.mark.parametrize("samples", [0, 1, 319])
def test_too_short_is_an_empty_transcript(transcribe: Ds2, write_wav: WriteWav, samples: int) -> None:
    path, _ = write_wav("short.wav", samples)
    assert transcribe(path) == (0, "\n", "")


def test_closed_streams(conv_model: ConvModel, texts: dict[str, str]) -> None:
    """As daemons have them: nobody reads, and that is no error."""
    call = shlex.join([*DS2, "transcribe", "--model", str(conv_model.path), *texts])
    assert subprocess.run(f"{call} >&-", shell=True, capture_output=True, check=False).returncode == 0
    without = subprocess.run(
        f"{call} $'noth\\xffing.wav' 2>&-",
        executable="/bin/bash",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert without.returncode == 1
    assert without.stdout == lines(texts)


def test_a_pipe_called_like_a_pattern(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    path, text = next(iter(texts.items()))
    os.mkfifo(tmp_path / "p[1].wav")
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "p[1].wav").write_bytes, Path(path).read_bytes())
        assert transcribe(tmp_path / "p[1].wav") == (0, f"{text}\n", "")


def test_an_empty_name_is_not_the_folder_one_is_in(transcribe: Ds2, texts: dict[str, str]) -> None:
    assert transcribe("", *texts) == (1, lines(texts), "ds2: An empty name names no recording.\n")


def test_a_closed_folder_is_told_and_the_others_are_heard(
    transcribe: Ds2, texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hidden one is nobody's concern."""
    a, scandir, corpus = next(iter(texts)), os.scandir, tmp_path / "corpus"
    for name in ("mine", "theirs", ".cache"):
        (corpus / name).mkdir(parents=True)
        shutil.copy(a, corpus / name / "a.wav")

    def closed(path: str) -> object:
        if str(path).endswith(("theirs", ".cache")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    outcome = transcribe(corpus, "--recursive")
    assert (outcome.code, outcome.out) == (1, lines({str(corpus / "mine" / "a.wav"): texts[a]}))
    assert outcome.err == f"ds2: Cannot read the folder {corpus / 'theirs'}: Permission denied.\n"


def test_a_folder_without_audio(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    outcome = transcribe(tmp_path)  # its recordings lie deeper
    assert (outcome.code, outcome.out) == (1, "")
    assert "--recursive" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "PATH"),
        (["x.wav", "--format", "docx"], "no format 'docx'"),
        (["x.wav", "--decoder", "fancy"], "choose greedy, beam, flashlight"),
        (["x.wav", "--device", "gpu"], "no device 'gpu'"),
        (["x.wav", "--backend", "tpu"], "tpu"),
        (["-", "x.wav", "-"], "- is named twice"),
        (["x.wav", "--skip-existing"], "--output-dir"),
        (["x.wav", "--channel", "-1"], "--channel"),
        (["x.wav", "--stream", "--batch-seconds", "9"], "--stream"),
    ],
)
def test_a_wrong_call(transcribe: Ds2, arguments: list[str], words: str) -> None:
    outcome = transcribe(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err


def test_an_unknown_command(ds2: Ds2) -> None:
    assert ds2("transscribe").code == 2


def test_channel_out_of_range(transcribe: Ds2, texts: dict[str, str]) -> None:
    outcome = transcribe(next(iter(texts)), "--channel", 5)
    assert outcome.code == 1
    assert "no channel 5" in outcome.err


@pytest.mark.parametrize("arguments", [["--backend", "tensorrt"], ["--device", "cuda:77"], ["--model", "nothing"]])
def test_what_cannot_be_had_is_one_line(transcribe: Ds2, texts: dict[str, str], arguments: list[str]) -> None:
    outcome = transcribe(next(iter(texts)), *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert len(outcome.err.splitlines()) == 1
    assert "Traceback" not in outcome.err
    assert "Traceback" in transcribe(next(iter(texts)), *arguments, "--debug").err


def test_output_dir_keeps_the_structure_of_a_folder(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    b, a, c = texts
    out = tmp_path / "out"
    assert transcribe(Path(a).parent, "-r", "--output-dir", out) == (0, "", "")
    written = {str(file.relative_to(out)): file.read_text() for file in out.rglob("*") if file.is_file()}
    assert written == {"a.txt": f"{texts[a]}\n", "b.txt": f"{texts[b]}\n", "sub/c.txt": f"{texts[c]}\n"}
    transcribe(tmp_path / "in" / "*" / "c.WAV", "--output-dir", tmp_path / "glob", "--format", "json")
    assert json.loads((tmp_path / "glob" / "sub" / "c.json").read_text())["text"] == texts[c]
    transcribe("-", "--output-dir", out, stdin=Path(a).read_bytes())
    assert (out / "stdin.txt").read_text() == f"{texts[a]}\n"


def test_a_name_too_long_does_not_stop_the_others(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome = transcribe(f"{'x' * 300}.wav", *texts, "--output-dir", tmp_path / "out", "--skip-existing")
    assert outcome.code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.txt", "b.txt", "c.txt"]


def test_a_name_as_long_as_it_may_be_has_its_file(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    path = Path(next(iter(texts)))
    longest = path.rename(path.with_name("录" * 83 + "xx.wav"))  # 255 bytes, as many as .txt gives
    assert transcribe(longest, "--output-dir", tmp_path / "out") == (0, "", "")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["录" * 83 + "xx.txt"]


def test_a_file_that_cannot_be_written_by_its_name_does_not_stop_the_others(
    transcribe: Ds2, texts: dict[str, str], tmp_path: Path
) -> None:
    b, a, _ = texts
    (tmp_path / "out" / "b.txt").mkdir(parents=True)
    longest = Path(a).rename(Path(a).with_name("x" * 251 + ".wav"))
    outcome = transcribe(b, longest, *list(texts)[2:], "--output-dir", tmp_path / "out", "--format", "jsonl")
    assert (outcome.code, (tmp_path / "out" / "c.jsonl").exists()) == (1, True)
    assert re.fullmatch("ds2: Cannot write .*xxx.jsonl: File name too long.\n", outcome.err)
    outcome = transcribe(b, *list(texts)[2:], "--output-dir", tmp_path / "out")
    assert (outcome.code, (tmp_path / "out" / "c.txt").exists()) == (1, True)
    assert "b.txt: Is a directory" in outcome.err


def test_a_closed_standard_input(conv_model: ConvModel) -> None:
    for command in ("transcribe", "stream"):
        shell = f"{' '.join(DS2)} {command} - <&-"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "ds2: Standard input is closed: nothing can be heard from there.\n"


def test_a_transcript_beside_its_recording_is_not_overwritten(transcribe: Ds2, texts: dict[str, str]) -> None:
    """As corpora have what was said."""
    b, a, _ = texts
    truth = Path(b).with_suffix(".txt")
    truth.write_text("by hand")
    code, out, err = transcribe(a, b, "--output-dir", truth.parent)
    assert (code, out, truth.read_text()) == (1, "", "by hand")
    assert "b.txt is there, beside its recording, and may be the transcript" in err
    assert not Path(a).with_suffix(".txt").exists()
    assert transcribe(a, b, "--output-dir", truth.parent, "--skip-existing").code == 0
    assert truth.read_text() == "by hand"
    assert transcribe(b, "--output-dir", truth.parent, "--format", "json").code == 0


def test_skip_existing(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    b, a, _ = texts
    (tmp_path / "b.txt").write_text("kept")
    assert transcribe(a, b, "--output-dir", tmp_path, "--skip-existing").code == 0
    assert (tmp_path / "b.txt").read_text() == "kept"
    assert (tmp_path / "a.txt").read_text() == f"{texts[a]}\n"
    assert transcribe(a, b, "--output-dir", tmp_path, "--skip-existing", "--model", "not needed any more").code == 0
    transcribe(b, "--output-dir", tmp_path)
    assert (tmp_path / "b.txt").read_text() == f"{texts[b]}\n"


def test_two_recordings_for_one_file(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    a = next(iter(texts))
    outcome = transcribe(a, a, "--output-dir", tmp_path / "out")
    assert (outcome.code, outcome.err) == (1, f"ds2: {a} is named twice: name each recording once.\n")
    folder = Path(a).parent.parent  # below which it has another file than by itself
    outcome = transcribe(folder, a, "--recursive", "--output-dir", tmp_path / "out")
    assert (outcome.code, outcome.err) == (1, f"ds2: {a} is named twice: name each recording once.\n")
    elsewhere = tmp_path / "elsewhere" / Path(a).name
    elsewhere.parent.mkdir()
    elsewhere.touch()
    outcome = transcribe(a, elsewhere, "--output-dir", tmp_path / "out")
    assert outcome.code == 1
    assert "would both be written" in outcome.err
    assert "name the folder above them" in outcome.err
    assert not (tmp_path / "out").exists()
    twin = Path(a).with_suffix(".flac")  # for which the folder above does not help
    twin.touch()
    outcome = transcribe(a, twin, "--output-dir", tmp_path / "out")
    assert outcome.err.endswith(": transcribe them into different folders.\n")


def test_output_that_cannot_be_written(transcribe: Ds2, texts: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = transcribe(next(iter(texts)), "--output-dir", tmp_path / "file")
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == 1
    assert "Cannot write" in outcome.err


def test_names_that_are_not_utf_8(conv_model: ConvModel, texts: dict[str, str], tmp_path: Path) -> None:
    a = next(iter(texts))
    odd = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    Path(a).rename(Path(os.fsdecode(odd)))
    arguments = ["transcribe", "--model", str(conv_model.path), odd, str(tmp_path / "missing.wav")]
    outcome = subprocess.run([*DS2, *arguments], capture_output=True, check=False)
    assert outcome.stdout == odd + b"\t" + texts[a].encode() + b"\n"


def test_verbose_says_what_runs_anywhere_on_the_line(conv_model: ConvModel, texts: dict[str, str]) -> None:
    arguments = ["--verbose", "transcribe", "--model", str(conv_model.path), next(iter(texts))]
    for order in (arguments, [*arguments[1:], arguments[0]]):
        outcome = subprocess.run([*DS2, *order], capture_output=True, text=True, check=True)
        assert "runs on onnxruntime" in outcome.stderr
        assert outcome.stdout == f"{next(iter(texts.values()))}\n"


def test_interrupted_keeps_what_was_finished(conv_model: ConvModel, texts: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")  # nobody writes to it, so the command waits
    a = next(iter(texts))
    arguments = ["transcribe", "--model", str(conv_model.path), a, str(tmp_path / "never"), "--format", "json"]
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background inherits deaf ears
    with subprocess.Popen(
        [*DS2, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, preexec_fn=listening
    ) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 30)[0]
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()  # or a failure would wait for ever
    assert process.returncode == 130
    assert [entry["text"] for entry in json.loads(out)] == [texts[a]]
    assert b"Traceback" not in err


def test_a_closed_pipe_is_quiet(conv_model: ConvModel, texts: dict[str, str]) -> None:
    arguments = ["transcribe", "--model", str(conv_model.path), *[next(iter(texts))] * 50, "--batch-seconds", "0.1"]
    reader, writer = os.pipe()
    os.close(reader)
    outcome = subprocess.run([*DS2, *arguments], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert outcome.stderr == b""
    assert outcome.returncode == 1


def test_the_progress_bar_is_for_terminals_and_leaves_stdout_alone(
    conv_model: ConvModel, texts: dict[str, str]
) -> None:
    terminal, theirs = os.openpty()
    arguments = ["transcribe", "--model", str(conv_model.path), *texts]
    outcome = subprocess.run([*DS2, *arguments], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    os.close(theirs)
    assert outcome.stdout == lines(texts)
    assert b"3/3" in os.read(terminal, 2**16)
    os.close(terminal)


def test_info_of_a_model(ds2: Ds2, conv_model: ConvModel) -> None:
    outcome = ds2("info", conv_model.path)
    assert outcome.code == 0
    assert "16000 Hz" in outcome.out
    assert "bidirectional is true" in outcome.out
    facts = json.loads(ds2("info", conv_model.path, "--json").out)
    assert ModelMetadata.from_json(json.dumps(facts["metadata"]), "info") == conv_model.metadata
    assert (facts["can_stream"], facts["stream_unit_s"]) == (False, None)
    assert facts["files"]["model.onnx"] == (conv_model.path / "model.onnx").stat().st_size
    assert facts["parameters"] is None


def test_info_says_in_which_chunks_a_model_streams(ds2: Ds2) -> None:
    """The windows of `streaming` move by one output frame, of 2 x 10 ms."""
    assert "yes, in chunks of 20 ms or a multiple of it" in ds2("info", "streaming").out
    assert json.loads(ds2("info", "streaming", "--json").out)["stream_unit_s"] == 0.02


def test_info_says_what_a_model_has_learnt_from(ds2: Ds2, conv_model: ConvModel, tmp_path: Path) -> None:
    def rows(language: str = "en", **provenance: Any) -> dict[str, str]:
        made = msgspec.structs.replace(conv_model.metadata, language=language, provenance=Provenance(**provenance))
        (tmp_path / "metadata.json").write_text(made.to_json())
        return dict(re.split("  +", line, maxsplit=1) for line in ds2("info", tmp_path).out.splitlines())

    trained = rows(recipe="an4", epochs=3, audio_hours=0.5, seed=7, train=("an4/a.jsonl", "an4/b.jsonl"))
    assert trained["trained"] == "3 epochs, 0.50 h of audio, recipe an4, seed 7, validation WER unknown"
    assert trained["learnt from"] == "an4/a.jsonl, an4/b.jsonl"
    assert rows(recipe="mean of 0.5 all, 0.5 people")["trained"] == "mean of 0.5 all, 0.5 people"
    assert (rows()["trained"], rows()["learnt from"]) == ("unknown", "unknown")
    for language, rate in (("en", "WER 50.00%"), ("en-phonemes", "PER 50.00%"), ("zh", "CER 10.00%")):
        measured = rows(language, epochs=3, valid_wer=0.5, valid_cer=0.1)
        assert measured["trained"].endswith(f"validation {rate}")


def test_info_counts_parameters_as_torch_does(ds2: Ds2, conv_model: ConvModel, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from ds2_deploy.model.checkpoint import Checkpoint, save_weights
    from ds2_deploy.model.deepspeech2 import DeepSpeech2

    model = DeepSpeech2(conv_model.metadata)
    expected = sum(parameter.numel() for parameter in model.parameters())
    (tmp_path / "metadata.json").write_text(conv_model.metadata.to_json())
    save_weights(model, tmp_path / "model.safetensors")
    assert json.loads(ds2("info", tmp_path, "--json").out)["parameters"] == expected
    checkpoint = tmp_path / "best.pt"
    Checkpoint(metadata=conv_model.metadata, weights=model.state_dict()).save(checkpoint)
    assert json.loads(ds2("info", checkpoint, "--json").out)["parameters"] == expected
    for header in (b"", b"[]", b'{"a": []}', b'{"a": {"shape": ["x"]}}', b'{"a": ' + b"[" * 100_000):
        size = len(header) or 16  # one of nothing is cut off
        (tmp_path / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header)
        code, _, err = ds2("info", tmp_path)
        assert (code, err.count("\n")) == (1, 1)
        assert re.search(r"Cannot read the weights .*model\.safetensors: .*; export the model again\.$", err)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 8)
    assert "Cannot read the weights" in ds2("info", tmp_path).err


@pytest.mark.parametrize("name", ["model.onnx", "metadata.json", "engines/plan.json"])
def test_info_of_a_file_in_a_model_folder_names_the_folder(
    ds2: Ds2, conv_model: ConvModel, tmp_path: Path, name: str
) -> None:
    shutil.copytree(conv_model.path, folder := tmp_path / "conv")
    (folder / "engines").mkdir()
    (folder / "engines" / "plan.json").write_text("{}")
    outcome = ds2("info", folder / name)
    assert (outcome.code, outcome.out) == (1, "")
    assert f"{folder / name} is a file of the model folder {folder}: " in outcome.err


@pytest.mark.parametrize("name", ["nothing", "text.pt"])
def test_info_of_what_is_no_model(ds2: Ds2, tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    (tmp_path / "text.pt").write_text("no checkpoint")
    outcome = ds2("info", tmp_path / name)
    assert (outcome.code, outcome.out) == (1, "")
    assert len(outcome.err.splitlines()) == 1
    assert name in outcome.err


def test_a_package_that_does_not_load_is_not_called_missing(
    conv_model: ConvModel, texts: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open')")
    (tmp_path / "broken" / "kenlm.py").write_text("raise ImportError('undefined symbol', name='kenlm')")
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "lm.arpa").touch()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "broken")}
    call = [*DS2, "transcribe", *texts, "--model", str(conv_model.path)]
    beam = ["--decoder", "beam", "--lm", str(tmp_path / "lm")]
    for options, words in (
        (["--backend", "torch"], "The backend torch does not load: libcudart.so.12: cannot open."),
        (beam, "The package 'kenlm' is installed but does not load: undefined symbol."),
    ):
        outcome = subprocess.run([*call, *options], capture_output=True, text=True, check=False, env=environment)
        assert outcome.returncode == 1
        assert words in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_doctor_tries_a_session_on_the_gpu(ds2: Ds2, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver and a build for CUDA are not enough: here a build for the CPU stands for libraries that are missing."""
    monkeypatch.setattr("ds2_deploy.runtime.ort_backend.choose_device", lambda *_: "cuda:0")
    checks = {check["name"]: check for check in json.loads(ds2("doctor", "--json").out)["checks"]}
    assert not checks["onnxruntime on a GPU"]["works"]
    assert "could not start CUDA on cuda:0" in checks["onnxruntime on a GPU"]["detail"]


def test_doctor_names_what_is_missing_and_the_cure(ds2: Ds2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = ds2("doctor", "--json")
    assert outcome.code == 0
    checks = {check["name"]: check for check in json.loads(outcome.out)["checks"]}
    assert checks["read audio"]["works"]
    assert not checks["onnxruntime on the CPU"]["works"]
    assert "pip install 'ds2_deploy[cpu]'" in checks["onnxruntime on the CPU"]["detail"]
    monkeypatch.setitem(sys.modules, "loky", None)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    checks = {check["name"]: check for check in json.loads(ds2("doctor", "--json").out)["checks"]}
    assert "pip install 'ds2_deploy[lm]'" in checks["beam search"]["detail"]
    assert "pip install pycuda" in checks["run engines"]["detail"]
    monkeypatch.setattr("ds2_deploy.doctor.pycuda_driver", lambda: None)
    monkeypatch.setattr("ds2_deploy.doctor.trt.installed", lambda _: True)
    monkeypatch.setattr("ds2_deploy.doctor.gpus", list)
    checks = {check["name"]: check for check in json.loads(ds2("doctor", "--json").out)["checks"]}
    assert not checks["run engines"]["works"]
    assert "finds no GPU" in checks["run engines"]["detail"]
    text = ds2("doctor").out
    assert all(f"{check['name']}" in text and check["detail"] in text for check in checks.values())
