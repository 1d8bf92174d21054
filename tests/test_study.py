"""The runner of studies: what it plans, shares, trains once, and makes of the logs."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import typer

from tests.tones import RECIPE

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import study
import study_report

STUDIES = Path(__file__).parent.parent / "benchmarks" / "studies"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("[!s]*.toml")), ids=lambda path: path.stem)
def test_committed_studies_can_be_planned(path, tmp_path):
    runs = study.planned(study.read_study(path), path, tmp_path)
    assert len({run.folder for run in runs}) < len(runs)  # the axes share their common variant


def write_study(tmp_path, corpus):
    (tmp_path / "tones.toml").write_text(RECIPE.format(epochs=2))
    text = f'''
recipe = "tones.toml"
train = ["{corpus}"]
valid = ["{corpus}"]
[[axis]]
name = "cell"
seeds = [1, 2]
[axis.variants]
gru = {{}}
[[axis]]
name = "rate"
[axis.variants]
usual = {{}}
absurd = {{ set = ["optimizer.learning_rate=1e30"], utterances = 9 }}
'''
    (tmp_path / "s.toml").write_text(text)
    return tmp_path / "s.toml"


STUB = """
import json, shutil, sys
from pathlib import Path
folder, other, *ends = sys.argv[1:]
if ends:
    sys.exit(*ends)
shutil.copy(Path(other, "last.pt"), folder)
with Path(other, "log.jsonl").open() as log, Path(folder, "log.jsonl").open("w") as ours:
    for entry in map(json.loads, log):
        print(json.dumps(entry | {"valid_loss": 1.5 * entry["valid_loss"]}), file=ours)
"""
"""A training that leaves another's weights with half as much loss again, or ends with an error."""


def test_a_study_trains_what_is_missing_and_counts_what_diverged(corpus, tmp_path, monkeypatch):
    """Of its trainings the first is one: the others are stubs that leave what a training leaves."""
    path = write_study(tmp_path, corpus)
    wanted = study.read_study(path)
    runs = study.planned(wanted, path, tmp_path / "work")
    folders = {(run.axis, run.variant, run.seed): run.folder for run in runs}
    first = folders["cell", "gru", 1]
    assert first == folders["rate", "usual", 1] != folders["cell", "gru", 2]
    command, calls = study.Runner.command, []

    def stubbed(self, run):
        calls.append(run)
        real = command(self, run)
        error = [f"ds2: Epoch 2 {study.DIVERGED}, so nothing was learnt."] if run.variant == "absurd" else []
        return real if run.folder == first else [sys.executable, "-c", STUB, str(run.folder), str(first), *error]

    monkeypatch.setattr(study.Runner, "command", stubbed)
    runner = study.Runner(wanted, tmp_path / "work", threads=1)
    for run in [*runs, *runs]:
        runner.run(run)
    assert len(calls) == len({run.folder for run in calls}) == len(set(folders.values())) == 3
    rows = {(row.axis, row.variant): row for row in study_report.results(wanted, runs).rows}
    loss = study_report.read_log(first)[-1]["valid_loss"]
    losses = [loss, 1.5 * loss]
    gru = rows["cell", "gru"]
    assert (gru.seeds, gru.diverged) == (2, 0)
    assert gru.loss.mean == pytest.approx(np.mean(losses))
    assert gru.loss.deviation == pytest.approx(np.std(losses, ddof=1))
    assert rows["rate", "usual"].loss == study_report.Spread(losses[0], None)
    assert (rows["rate", "absurd"].diverged, rows["rate", "absurd"].loss) == (1, None)
    part = next((tmp_path / "work").glob("m-*-9.jsonl")).read_text().splitlines()
    assert [Path(json.loads(line)["audio_filepath"]).stem for line in part] == [str(2 * i) for i in range(9)]
    table = study_report.table(study_report.results(wanted, runs))
    assert "| absurd | – |" in table


def test_manifests_of_one_name_have_parts_of_their_own(corpus, tmp_path, monkeypatch):
    monkeypatch.delenv("DS2_DATA", raising=False)
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / corpus.name
    twin.write_text(json.dumps({"audio_filepath": str(tmp_path / "x.wav"), "duration": 1.0, "text": "x"}) + "\n")
    runner = study.Runner(study.read_study(write_study(tmp_path, corpus)), tmp_path, threads=1)
    with ThreadPoolExecutor(4) as jobs:  # that ask for one and the same
        ours, *_ = jobs.map(lambda _: runner.manifest(str(corpus), 3), range(100))
    other = runner.manifest(str(twin), 3)
    assert len(ours.read_text().splitlines()) == 3
    assert len(other.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "error", "is_done"),
    [
        (0, "", True),
        (1, f"ds2: Epoch 1 {study.DIVERGED}, so nothing was learnt.", True),
        (1, "ds2: Cannot write last.pt: No space left on device.", False),
        (130, "", False),
        (-9, "", False),
    ],
)
def test_what_was_killed_or_had_no_disk_is_not_done(corpus, tmp_path, monkeypatch, code, error, is_done):
    path = write_study(tmp_path, corpus)
    wanted = study.read_study(path)
    run = study.planned(wanted, path, tmp_path / "work")[0]
    ends = f"import os, sys; print({error!r}, file=sys.stderr); os.kill(os.getpid(), {-code}) if {code} < 0 else 0"
    ends += f"; sys.exit({code})"
    monkeypatch.setattr(study.Runner, "command", lambda *_: [sys.executable, "-c", ends])
    run.folder.mkdir(parents=True)
    (run.folder / "stderr.txt").write_text(f"ds2: Epoch 1 {study.DIVERGED} in an earlier try.\n")
    study.Runner(wanted, tmp_path / "work", threads=1).run(run)
    assert (run.folder / study_report.DONE).exists() == is_done


def test_processor_time_is_that_of_all_tries(corpus, tmp_path, monkeypatch):
    path = write_study(tmp_path, corpus)
    wanted = study.read_study(path)
    run = study.planned(wanted, path, tmp_path / "work")[0]
    runner = study.Runner(wanted, tmp_path / "work", threads=1)
    busy = "import sys, time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nsys.exit({})"
    for code in (130, 130, 0):
        monkeypatch.setattr(study.Runner, "command", lambda *_, code=code: [sys.executable, "-c", busy.format(code)])
        runner.run(run)
    assert json.loads((run.folder / study_report.DONE).read_text())["cpu_s"] >= 0.9
    (run.folder / study_report.DONE).unlink()
    (run.folder / study.CPU).write_text("[3.0, null]")  # as a study leaves it that was killed itself
    runner.run(run)
    assert json.loads((run.folder / study_report.DONE).read_text())["cpu_s"] is None


def test_a_study_with_a_training_missing_is_not_saved(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study.Runner, "command", lambda *_: [sys.executable, "-c", "import sys; sys.exit(1)"])
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    with pytest.raises(typer.Exit):
        study.main(write_study(tmp_path, corpus), tmp_path / "work", jobs=4, threads=1, save=True)
    assert "3 of 3 trainings are not finished" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_seed_that_diverged_at_once_leaves_the_others_their_curve(tmp_path):
    runs = [study.Run("rate", name, seed, None, study.Variant(), tmp_path / f"{name}-{seed}")
            for name, seed in (("usual", 1), ("usual", 2), ("absurd", 1))]  # fmt: skip
    for run, code in zip(runs, (0, 1, 1), strict=True):
        run.folder.mkdir()
        (run.folder / study_report.DONE).write_text(json.dumps({"exit_code": code, "cpu_s": 4.0}))
    log = [dict.fromkeys(study_report.CURVES, 1 / epoch) | {"epoch": epoch, "seconds": 2.0} for epoch in (1, 2)]
    (runs[0].folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    usual, absurd = study_report.row(runs[:2]), study_report.row(runs[2:])
    assert (usual.diverged, usual.loss, usual.epoch_cpu_s) == (1, study_report.Spread(0.5, None), 2.0)
    assert (absurd.diverged, absurd.parameters, absurd.epoch_s) == (1, None, None)
    assert study_report.columns(usual, lambda entry: entry["valid_loss"]) == [[1.0], [0.5]]
    assert study_report.columns(absurd, lambda entry: entry["valid_loss"]) == []


def test_what_counts_as_diverged():
    fine = [{"epoch": 1, "valid_loss": 9.0, "valid_cer": 0.95, "blank_rate": 0.99},
            {"epoch": 2, "valid_loss": 5.0, "valid_cer": 0.5, "blank_rate": 0.8}]  # fmt: skip
    assert not study_report.diverged(fine, 0)
    assert study_report.first_words(fine) == 2
    assert study_report.first_words(fine[:1]) is None
    for log, code in (
        (fine, 1),
        ([], 0),
        ([fine[0], fine[1] | {"valid_loss": 9.5}], 0),
        ([fine[0], fine[1] | {"valid_loss": float("nan")}], 0),
        ([fine[0], fine[1] | {"blank_rate": 1.0}], 0),
    ):
        assert study_report.diverged(log, code)
