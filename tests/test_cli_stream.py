"""`ds2 stream` and `ds2 transcribe --stream` as a user meets them: stdout, stderr and exit codes."""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

from ds2_deploy import runtime
from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.cli import main
from ds2_deploy.commands.stream import _caption
from ds2_deploy.errors import InferenceError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.output.captions import LineCaptions
from ds2_deploy.streaming.endpoint import EndpointConfig
from tests.conftest import Ds2
from tests.fake_stream import (
    CHUNK,
    METADATA,
    FakeStreamBackend,
    Samples,
    audio_of,
    babble,
    own_stream,
    text_of,
)

WriteWav = Callable[..., tuple[Path, npt.NDArray[np.float32]]]
SPEECH = "_" * 5 + "h_i_ _a_l_l_" + "_" * 80 + "y_o_" + "_" * 10  # a pause of 1.6 s


class Broken(FakeStreamBackend):
    """A model that fails on the third chunk."""

    def __init__(self, model: object = None, **options: object) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        self.before_step = self.fail_later

    def fail_later(self) -> None:
        if len(self.rows) == 3:
            raise RuntimeError("no luck")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that says what the model is; its backend is the fake one."""
    monkeypatch.setattr(runtime, "STREAM_BACKENDS", {"onnxruntime": "tests.fake_stream:FakeStreamBackend"})
    return model_folder(tmp_path / "model", METADATA)


def model_folder(path: Path, metadata: ModelMetadata) -> Path:
    path.mkdir()
    (path / "metadata.json").write_text(metadata.to_json())
    return path


def raw(samples: Samples) -> bytes:
    return (samples * 2**15).astype("<i2").tobytes()


def test_raw_samples_to_lines(ds2: Ds2, model: Path) -> None:
    assert ds2("stream", "-", "--model", model, stdin=raw(audio_of(SPEECH))) == (0, "hi all\nyo\n", "")
    assert ds2("stream", "--model", model, stdin=raw(audio_of(SPEECH))).out == "hi all\nyo\n"  # - may be left out


def test_rules_of_the_command_line(ds2: Ds2, model: Path) -> None:
    def lines(*options: object) -> str:
        return ds2("stream", "--model", model, *options, stdin=raw(audio_of(SPEECH))).out

    assert lines("--no-endpoint") == "hi allyo\n"  # of one utterance; no space was heard
    assert lines("--rule2-min-trailing-silence", "1.8") == "hi allyo\n"
    assert lines("--rule2-min-trailing-silence", "1.8", "--rule1-min-trailing-silence", "1.4") == "hi all\nyo\n"
    assert lines("--rule3-min-utterance-length", "0.2") == "hi\nall\nyo\n"  # cut at frames 10, 20, 30, ...


def test_jsonl_is_an_object_a_change(ds2: Ds2, model: Path) -> None:
    code, out, err = ds2("stream", "--model", model, "--format", "jsonl", stdin=raw(audio_of(SPEECH)))
    objects = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    finals = [fields for fields in objects if fields["is_final"]]
    assert [(f["text"], f["stable"], f["start_s"], f["end_s"]) for f in finals] == [
        ("hi all", "hi all", 0.1, 0.32), ("yo", "yo", 1.94, 2.0)
    ]  # fmt: skip
    assert all(
        set(fields) == {"text", "stable", "is_final", "start_s", "end_s", "score", "words"} for fields in objects
    )


def test_another_rate(ds2: Ds2, model: Path) -> None:
    samples = np.round(babble(8000) * 2**14) / np.float32(2**15)
    code, out, _ = ds2("stream", "--model", model, "--rate", "8000", "--no-endpoint", stdin=raw(samples))
    assert (code, out) == (0, text_of(soxr.resample(samples, 8000, 16000)) + "\n")


def test_a_pipe_that_brings_nothing(ds2: Ds2, model: Path) -> None:
    code, out, err = ds2("stream", "--model", model, stdin=b"")
    assert (code, out) == (1, "")
    assert err == "ds2: Standard input holds no sample: whatever should send audio sent none.\n"


@pytest.mark.parametrize("data", [bytes(2), bytes(20000)])
def test_nothing_said_is_nothing_written(ds2: Ds2, model: Path, data: bytes) -> None:
    assert ds2("stream", "--model", model, stdin=data) == (0, "", "")
    assert ds2("stream", "--model", model, "--format", "jsonl", stdin=data) == (0, "", "")


def test_a_file_is_played(ds2: Ds2, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    path = tmp_path / "a.wav"
    soundfile.write(path, audio_of(SPEECH), 16000, subtype="PCM_16")
    assert ds2("stream", path, "--model", model) == (0, "hi all\nyo\n", "")
    assert max(slept) > 1.5  # of more than 2 s, this test using up little
    soundfile.write(path, babble(16000), 16000, subtype="PCM_16")
    once = ds2("stream", path, "--model", model, "--no-endpoint")
    assert once.out == text_of(babble(16000)) + "\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": msgspec.structs.replace(METADATA.model, bidirectional=True)}, "model.bidirectional is true"),
        ({"feature": FeatureConfig(normalization="utterance")}, "feature.normalization is 'utterance'"),
    ],
)
@pytest.mark.parametrize("command", [["stream", "-"], ["transcribe", "--stream"]])
def test_models_that_cannot_stream_say_why(
    ds2: Ds2, tmp_path: Path, write_wav: WriteWav, changes: dict[str, object], words: str, command: list[str]
) -> None:
    path, _ = write_wav("a.wav", 1000)
    folder = model_folder(tmp_path / "offline", msgspec.structs.replace(METADATA, **changes))
    files = [path] if command[0] == "transcribe" else []
    code, out, err = ds2(*command, *files, "--model", folder, stdin=bytes(1000))
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--format", "srt"],
        ["--decoder", "fancy"],
        ["--device", "gpu"],
        ["--backend", "tpu"],
        ["--precision", "fp8"],
        ["--rate", "0"],
        ["--rate", "high"],
        ["--rule1-min-trailing-silence", "-1"],
        ["--rule2-min-trailing-silence", "nan"],
        ["--rule3-min-utterance-length", "inf"],
        ["--no-endpoint", "--rule2-min-trailing-silence", "1.2"],
        ["more", "than", "one"],
        ["--no-such-option"],
    ],
)
def test_wrong_calls(ds2: Ds2, model: Path, options: list[str]) -> None:
    code, out, err = ds2("stream", "--model", model, *options, stdin=bytes(1000))
    assert (code, out) == (2, "")
    assert err


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_on_stdin_is_a_wrong_call(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ds2", "stream", "--model", str(model)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Terminal()))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "arecord" in capsys.readouterr().err


def test_sources_that_cannot_be_used(ds2: Ds2, model: Path, tmp_path: Path) -> None:
    for source, stdin, words in [
        (tmp_path / "missing.wav", b"", "There is no file"),
        (model / "metadata.json", b"", "Cannot decode"),
        ("-", b"fLaC" + bytes(100), "a FLAC file, not raw samples"),
    ]:
        code, out, err = ds2("stream", source, "--model", model, stdin=stdin)
        assert (code, out) == (1, "")
        assert words in err
        assert len(err.splitlines()) == 1


def test_a_model_that_fails_is_one_line(ds2: Ds2, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "STREAM_BACKENDS", {"onnxruntime": "tests.test_cli_stream:Broken"})
    code, _, err = ds2("stream", "--model", model, stdin=raw(babble(20000)))
    assert code == 1
    assert "no luck" in err
    assert len(err.splitlines()) == 1


def test_models_that_are_not_there(ds2: Ds2, tmp_path: Path) -> None:
    code, out, err = ds2("stream", "--model", tmp_path / "nothing", stdin=bytes(100))
    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_what_was_said_before_a_model_failed_is_written() -> None:
    """All in one piece, as a pipe brings it."""
    backend, out = FakeStreamBackend(), io.StringIO()
    samples = audio_of(SPEECH)

    def fail() -> None:
        if len(backend.rows) == len(samples) // CHUNK:
            raise InferenceError("no luck")

    backend.before_step = fail
    with pytest.raises(InferenceError, match="no luck"):
        _caption(own_stream(backend, endpoint=EndpointConfig()), iter([samples]), 16000, LineCaptions(out))
    assert out.getvalue() == "hi all\n"


# --- Ctrl-C, the usual end ------------------------------------------------------------------------------------------


def interrupted(pieces: Iterator[Samples], backend: FakeStreamBackend) -> str:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        _caption(own_stream(backend), pieces, 16000, LineCaptions(out))
    return out.getvalue()


def test_ctrl_c_while_listening_writes_what_was_said() -> None:
    def pieces() -> Iterator[Samples]:
        yield audio_of("h_i_ _a_l_l_")
        raise KeyboardInterrupt

    assert interrupted(pieces(), FakeStreamBackend()) == "hi all\n"


def test_ctrl_c_while_the_model_steps_writes_what_was_said() -> None:
    backend = FakeStreamBackend()

    def interrupt_once() -> None:
        if len(backend.rows) == 4:
            raise KeyboardInterrupt

    backend.before_step = interrupt_once
    samples = audio_of("h_i_ _a_l_l_" + "_" * 40)
    pieces = (samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK))
    assert interrupted(pieces, backend) == "hi all\n"


# --- transcribe --stream --------------------------------------------------------------------------------------------


def test_transcribe_by_streams(ds2: Ds2, model: Path, write_wav: WriteWav) -> None:
    files = [write_wav(f"{i}.wav", 5000 + 3000 * i, seed=i) for i in range(3)]
    path, samples = files[0]
    assert ds2("transcribe", "--stream", "--model", model, path) == (0, f"{text_of(samples)}\n", "")
    several = ds2("transcribe", "--stream", "--model", model, *(path for path, _ in files))
    assert several == (0, "".join(f"{path}\t{text_of(samples)}\n" for path, samples in files), "")
    stdin = ds2("transcribe", "--stream", "--model", model, "-", stdin=path.read_bytes())
    assert stdin.out == f"{text_of(samples)}\n"


def test_transcribe_by_streams_reports_what_failed(ds2: Ds2, model: Path, write_wav: WriteWav, tmp_path: Path) -> None:
    path, samples = write_wav("a.wav", 5000)
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF and nothing")
    code, out, err = ds2("transcribe", "--stream", "--model", model, damaged, path)
    assert (code, out) == (1, f"{path}\t{text_of(samples)}\n")
    assert "damaged.wav" in err
    assert len(err.splitlines()) == 1


def test_streams_have_no_batches(ds2: Ds2, model: Path, write_wav: WriteWav) -> None:
    path, _ = write_wav("a.wav", 5000)
    code, out, err = ds2("transcribe", "--stream", "--batch-seconds", "5", "--model", model, path)
    assert (code, out) == (2, "")
    assert "--batch-seconds" in err


def test_a_file_knows_its_own_rate(ds2: Ds2, model: Path, write_wav: WriteWav) -> None:
    path, _ = write_wav("a.wav", 5000)
    assert ds2("stream", path, "--rate", "44100", "--model", model).code == 2
