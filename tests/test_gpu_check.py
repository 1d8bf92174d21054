"""What `make gpu-check` does and writes, whatever becomes of its steps."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from ds2_deploy.model_folder import open_model
from export.parity import Difference, ParityReport
from tests.conftest import ConvModel, noise

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gpu_check
import gpu_report
import gpu_rows
from bounded import Spoken
from gpu_check import Asked, Check, FailedError, Step

FINE = Difference(
    backend="onnxruntime", precision="fp16", device="cuda:0", frames=100, max_abs=0.01, mean_abs=1e-3, equal_argmax=1.0,
    equal_lengths=True, max_abs_allowed=0.1, equal_argmax_required=0.999, different_words=2, wer=0.0233,
)  # fmt: skip


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Of the bundled models on the CPU, for a minute."""
    manifest = tmp_path / "an4" / "test.jsonl"
    manifest.parent.mkdir()
    manifest.write_text('{"audio_filepath": "a.flac", "duration": 1.0, "text": "a"}\n')
    models = [open_model(name) for name in ("default", "streaming")]
    asked = Asked(models, tmp_path, "cpu", [1, 4], 1.0, [2], ["an4"], times_heard=1, heard_s=1)
    return Check(asked, tmp_path / "out", minutes=1)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "2.33% | 2 | 1.0e-02 | 100.000% | ok |"),
        (
            {"max_abs": math.inf, "mean_abs": math.inf},
            "inf | 100.000% | differs infinitely, for a log-probability is no number",
        ),
        ({"equal_lengths": False, "max_abs": 0.0}, "0.0e+00 | 100.000% | gives other numbers of frames |"),
    ],
)
def test_a_parity_report_is_a_row_with_a_verdict(changes: dict[str, object], verdict: str) -> None:
    found = ParityReport(
        reference="torch", recordings=("a",), shapes=((1, 1),), passed=False, reference_words=80, reference_wer=0.02,
        differences=(msgspec.structs.replace(FINE, **changes),),
    )  # fmt: skip
    steps = {
        "about": {"ok": True, "result": [{"cudnn": 91002, "gpus": [{"driver_version": "580.1"}]}]},
        "parity m": {"ok": True, "result": msgspec.json.decode(found.to_json())},
        "throughput m torch fp32": {"ok": True, "result": [{"batch": 8, "seconds": 10.0, "reason": "no memory"}]},
        "streams m torch fp32": {"ok": False, "reason": "no GPU"},
        "training an4 bf16": {
            "ok": True,
            "result": {"epoch": 2, "audio_hours_per_hour": 484.4, "data_wait": 0.0123, "loss": 9.0},
        },
    }
    text = gpu_report.markdown({"gpu": "H200", "command": "gpu_check.py run m", "device": "cuda:0", "steps": steps})
    assert "- cudnn: 91002" in text
    assert "- driver_version: 580.1" in text
    assert "| m | torch fp32, the reference | 2.00% |" in text
    assert "| m | onnxruntime fp16 on cuda:0 | " in text
    assert verdict in text
    assert "| m torch fp32 | 8 × 10 | no memory |" in text
    assert "- streams m torch fp32: no GPU" in text
    assert "| an4 bf16 | 484 | 1.2% | 2 |" in text


def test_a_size_that_fails_says_why_and_the_others_go_on() -> None:
    def full() -> None:
        raise MemoryError("the GPU's memory is full")

    assert gpu_rows.timed(full, 1.0, math.inf) == {"reason": "MemoryError: the GPU's memory is full"}
    measured = gpu_rows.timed(lambda: None, 1.0, math.inf)
    assert measured["runs"] == gpu_rows.RUNS
    assert measured["p98"] is not None


def test_the_parts_of_a_run_are_medians() -> None:
    class Staged:
        name, device, runs = "onnxruntime", "cuda:0", 0

        def run_in_stages(self, audio: object, lengths: object) -> tuple[None, dict[str, float]]:
            self.runs += 1
            return None, {"h2d": self.runs, "compute": 10.0}

    nothing: Any = np.zeros(0)
    assert gpu_rows.parts_of(Staged(), nothing, nothing) == {"parts_ms": {"h2d": 3, "compute": 10.0}}


def test_the_most_telling_comes_first_and_tensorrt_last(check: Check) -> None:
    steps = list(check.plan())
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert names[:3] == ["about", "throughput default torch fp16", "throughput streaming torch fp16"]
    firsts = [next(i for i, step in enumerate(steps) if step.kinds == (kind,)) for kind in gpu_check.Kind]
    assert firsts == sorted(firsts)  # in the order in which they are told
    begun = names.index("build default --fp16")
    assert all(step.kinds == (gpu_check.Kind.tensorrt,) for step in steps[begun:])
    assert not any("tensorrt" in name for name in names[:begun])
    assert "streams streaming torch fp16" in names
    assert "streams default torch fp16" not in names


def test_what_is_over_time_is_told_and_saved(check: Check) -> None:
    check.end = time.monotonic() + 1.5
    steps = [
        Step((), "endless", lambda: check.call("-c", "import time; time.sleep(60)")),
        Step((), "late", lambda: check.call("-c", "print(1)")),
    ]
    began = time.monotonic()
    check.take(steps)
    assert time.monotonic() - began < 10
    saved = json.loads((check.out / "gpu-check.json").read_text())["steps"]
    assert saved["late"]["reason"] == "no time was left of --minutes"
    assert "- late: no time was left of --minutes" in (check.out / "gpu-check.md").read_text()
    assert sorted(path.name for path in check.out.iterdir()) == ["gpu-check.json", "gpu-check.log", "gpu-check.md"]


def test_a_step_that_ends_everything_leaves_what_was_not_reached(check: Check) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check.take([Step((), "first", lambda: 1), Step((), "second", interrupted), Step((), "third", lambda: 1)])
    saved = json.loads((check.out / "gpu-check.json").read_text())["steps"]
    assert saved["first"]["ok"]
    assert saved["third"] == {"ok": False, "reason": "it was not reached"}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal SIGSEGV: "),
        ("import sys; sys.exit('CUDA error: sticky')", "exit code 1: CUDA error: sticky"),
        ("raise RuntimeError('CUDA error: sticky\\nCompile with')", "exit code 1: RuntimeError: CUDA error: sticky"),
        ("import time; time.sleep(60)", "it was stopped after"),
    ],
)
def test_what_was_measured_before_a_crash_counts(
    check: Check, program: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "ROWS", "-c")
    check.end = time.monotonic() + 5
    *rows, last = check.rows("print('{\"batch\": 1}', flush=True)\n" + program)
    assert rows == [{"batch": 1}]
    assert last["reason"].startswith(reason)
    check.end = time.monotonic() + 1.5
    with pytest.raises(FailedError, match=reason):
        check.rows(program)


def test_all_that_a_step_said_is_in_the_log(check: Check) -> None:
    with pytest.raises(FailedError, match="exit code 1: ValueError: why"):
        check.call("-c", "print('so far'); raise ValueError('why')")
    log = (check.out / "gpu-check.log").read_text()
    assert "so far" in log
    assert "Traceback" in log
    assert "exit code 1: ValueError: why" in log


def test_tests_that_fail_are_named(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "F.\n===\nSKIPPED [1] a.py:1: no GPU\nFAILED a.py::test_b - assert 1 == 2\n1 failed, 1 passed in 0.1s"
    monkeypatch.setattr(gpu_check, "spoken", lambda *_, **__: Spoken(said, "", None))
    with pytest.raises(FailedError, match=r"FAILED a\.py::test_b - assert 1 == 2; 1 failed, 1 passed"):
        check.test()


def test_an_epoch_that_was_done_counts_where_the_training_ends_before_its_time(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = {"epoch": 1, "audio_hours_per_hour": 400.0, "data_wait": 0.1, "loss": 9.0, "valid_wer": 1.0}

    def spoken(*arguments: str, **_: object) -> Spoken:
        run = Path(arguments[arguments.index("--out") + 1])
        run.mkdir()
        (run / "log.jsonl").write_text(json.dumps(epoch) + "\n" + '{"epoch": 2, "audio')
        return Spoken("", "", "it was stopped after 120 s")

    monkeypatch.setattr(gpu_check, "spoken", spoken)
    found = check.epoch("an4", "fp32")
    assert (found["epoch"], found["audio_hours_per_hour"]) == (1, 400.0)
    assert found["reason"] == "it was stopped after 120 s"
    steps = {"training an4 fp32": {"ok": True, "result": found}}
    said = gpu_report.markdown({"gpu": "H200", "command": "x", "device": "cuda:0", "steps": steps})
    assert "| an4 fp32 | 400 | 10.0% | 1 |" in said
    assert "it was stopped after 120 s" in said
    monkeypatch.setattr(gpu_check, "spoken", lambda *_, **__: Spoken("", "", "exit code 1: no GPU"))
    with pytest.raises(FailedError, match="exit code 1: no GPU"):
        check.epoch("an4", "fp32")


def test_an_engine_that_nothing_can_run_is_not_built(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check.asked = check.asked._replace(device="cuda:0")
    monkeypatch.setattr(gpu_check, "spoken", lambda *_, **__: pytest.fail("a process"))
    monkeypatch.setattr(gpu_check, "installed", lambda _: True)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(FailedError, match="needs the package 'pycuda'"):
        next(step for step in check.plan() if step.name.startswith("build")).do()


def test_what_is_not_installed_costs_no_process(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check.asked = check.asked._replace(device="cuda:0")
    monkeypatch.setattr(gpu_check, "spoken", lambda *_, **__: pytest.fail("a process"))
    for name, answer in (("installed", False), ("installed_version", None)):
        monkeypatch.setattr(gpu_check, name, lambda _, answer=answer: answer)
    refused = set()
    for step in check.plan():
        kind, *rest = step.name.split()
        if kind == "export" or any(name.strip(",") in ("onnxruntime", "tensorrt") for name in rest):
            with pytest.raises(FailedError, match=r"onnxruntime-gpu is not|neither TensorRT"):
                step.do()
            refused.add(kind)
    assert refused == {"throughput", "recognition", "export", "parity", "streams"}


def test_whole_recordings_are_measured_as_they_are_transcribed(
    conv_model: ConvModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for name, samples in (("long", 16_000), ("short", 4_000)):
        soundfile.write(tmp_path / f"{name}.wav", noise(samples), 16_000)
        lines.append(json.dumps({"audio_filepath": f"{name}.wav", "duration": samples / 16_000, "text": "a"}))
    manifest = tmp_path / "both.jsonl"
    manifest.write_text("\n".join(lines))
    gpu_rows.recognition(str(conv_model.path), "onnxruntime", "fp32", "cpu", manifest, 3.0)
    row = json.loads(capsys.readouterr().out)
    assert (row["recordings"], row["seconds"]) == (6, 3.75)
    assert row["rtfx"] == pytest.approx(3750 / row["p50"])


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_what_a_step_has_started_ends_with_it(check: Check, tmp_path: Path) -> None:
    """A worker that went on would hold the GPU."""
    beats = tmp_path / "beats"
    child = f"import time\nwhile True: open({str(beats)!r}, 'a').write('.'); time.sleep(0.05)"
    started = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(2)"
    check.call("-c", started)
    length = beats.stat().st_size
    assert length > 0
    time.sleep(0.5)
    assert beats.stat().st_size == length


def test_a_model_without_graphs_gets_those_it_lacks(
    check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = check.asked.models[1]._replace(path=tmp_path / "streaming")
    model.path.mkdir()
    (model.path / "model.onnx").write_text("its own")

    def call(*arguments: str) -> str:
        out = Path(arguments[arguments.index("--out") + 1])
        out.mkdir()
        assert arguments[arguments.index("--precision") + 1] == "both"
        for name in ("model.onnx", "model.fp16.onnx", "stream.onnx", "stream.fp16.onnx"):
            (out / name).write_text("exported")
        return ""

    monkeypatch.setattr(check, "call", call)
    assert check.export(model) == "wrote model.fp16.onnx, stream.fp16.onnx, stream.onnx"
    assert (model.path / "model.onnx").read_text() == "its own"
    assert (model.path / "stream.fp16.onnx").read_text() == "exported"
    assert check.export(model) == "all graphs were there"


@pytest.mark.parametrize("only", [["tests"], ["streams", "tensorrt"]])
def test_only_what_was_asked_for_is_taken_and_only_reports_are_left(
    only: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def spoken(*arguments: str, **options: object) -> Spoken:
        taken.append(" ".join(arguments))
        copy = next((word for word in arguments if word.endswith("/streaming")), "nothing")
        return Spoken("", "", f"exit code 1: {copy} is not here")

    monkeypatch.setattr(gpu_check, "spoken", spoken)
    arguments = ["run", "streaming", "--out", str(tmp_path / "out"), "--dry-run"]
    for kind in only:
        arguments += ["--only", kind]
    assert CliRunner().invoke(gpu_check.app, arguments).exit_code == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["gpu-check.json", "gpu-check.log", "gpu-check.md"]
    steps = json.loads((tmp_path / "out" / "gpu-check.json").read_text())["steps"]
    assert ("tests" in steps, any(name.startswith("build") for name in steps)) == ("tests" in only, "tensorrt" in only)
    assert not any(name.startswith(("training", "throughput streaming torch")) for name in steps)
    told = {f"exit code 1: {name} is not here" for name in ("streaming", "nothing")}  # no temporary folder's path
    assert {step["reason"] for step in steps.values()} <= told
    assert len(taken) == len(steps)
