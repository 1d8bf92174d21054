"""A training that is told to end: by Ctrl-C or a scheduler, alone or with others, once or twice."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import training.trainer
from ds2_deploy.model.checkpoint import load_checkpoint
from tests.tones import losses, recipe
from training.data import leave_signals
from training.trainer import train

VARIED = ["augment.speeds=[0.9, 1.1]", "model.dropout=0.3", "workers=1"]

TOLD = """
import os, subprocess, sys
import training.trainer as trainer
from ds2_deploy.cli import main

times, number, steps, learn = int(sys.argv.pop(1)), int(sys.argv.pop(1)), 0, trainer.Learner.learn

def told(self, *arguments):
    global steps
    steps += 1
    if steps == 8 and self.processes.rank == self.processes.count - 1:
        for _ in range(times):  # to this one of several processes, or by another to one and its loader's
            subprocess.run(["kill", f"-{number}", str(os.getpid()) if self.processes.count > 1 else "0"])
    return learn(self, *arguments)

trainer.Learner.learn, trainer.CLOCK_STEPS = told, 4
main()
"""


@pytest.fixture(autouse=True)
def _listening():
    """A job in the background inherits deaf ears."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stopped(number, corpus, tmp_path, *launcher, times=1):
    """The tones, learnt in the folder `parts` until the signal comes in the eighth step, the third of epoch 2."""
    (tmp_path / "told.py").write_text(TOLD)
    alone = ["workers=0"] if launcher else []  # one that is forked beside Gloo's threads may hang, in CPython 3.11
    settings = [part for setting in [*VARIED, *alone] for part in ("--set", setting)]
    call = ["train", tmp_path / "tones.toml", "--train", corpus, "--valid", corpus, "--out", tmp_path / "parts"]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, [tmp_path / "told.py", times, int(number), *call, *settings])],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        start_new_session=True,
        timeout=120,
        capture_output=True,
        text=True,
    )


def position(run):
    found = load_checkpoint(run / "last.pt").training["position"]
    return found["epoch"], found["batch"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_was_told_to_end_repeats_the_uninterrupted_one(corpus, tmp_path, number, code):
    settings = recipe(tmp_path, *VARIED, epochs=3)
    ended = stopped(number, corpus, tmp_path)
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 5), ended.stderr
    assert ended.stderr.endswith("Stopped in epoch 2, batch 3: add --resume to go on.\n")
    assert position(tmp_path / "parts") == (1, 3)
    train(settings, [corpus], [corpus], tmp_path / "parts", resume=True)
    train(settings, [corpus], [corpus], tmp_path / "whole")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, other = (load_checkpoint(tmp_path / name / "last.pt").weights for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_second_ctrl_c_ends_it_at_once(corpus, tmp_path):
    recipe(tmp_path, epochs=3)
    ended = stopped(signal.SIGINT, corpus, tmp_path, times=2)
    assert (ended.returncode, "Stopped" in ended.stderr) == (130, False)
    assert position(tmp_path / "parts") == (1, 0)


def test_several_processes_end_after_the_same_step(corpus, tmp_path):
    """One alone is told, and torchrun tells the other as soon as the first has ended."""
    settings = recipe(tmp_path, *VARIED, epochs=3)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    ended = stopped(signal.SIGTERM, corpus, tmp_path, *torchrun)
    assert ended.returncode == 1
    assert "Stopped in epoch 2, batch 4: add --resume to go on.\n" in ended.stderr
    assert position(tmp_path / "parts") == (1, 4)
    train(settings, [corpus], [corpus], tmp_path / "parts", resume=True)
    assert [len(pair) for pair in losses(tmp_path / "parts")] == [2, 2, 2]


def test_validation_ends_between_two_batches_and_is_done_again(corpus, tmp_path, monkeypatch):
    settings, validate = recipe(tmp_path, epochs=2), training.trainer.validate

    def told(model, batches, *others):
        signal.raise_signal(signal.SIGINT)
        return validate(model, batches, *others)

    with monkeypatch.context() as patched:
        patched.setattr(training.trainer, "validate", told)
        with pytest.raises(KeyboardInterrupt):
            train(settings, [corpus], [corpus], tmp_path / "parts")
    assert position(tmp_path / "parts") == (0, 5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(settings, [corpus], [corpus], tmp_path / "parts", resume=True)
    train(settings, [corpus], [corpus], tmp_path / "whole")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def worker(heard):
    leave_signals(0)
    heard.put(os.getpid())
    signal.pause()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing says who sent a signal")
@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_a_loaders_worker_is_ended_by_the_training_alone(start_method):
    """By `fork`, and by `forkserver`, where its parent is another process (the rule from Python 3.14 on)."""
    context = multiprocessing.get_context(start_method)
    process = context.Process(target=worker, args=(heard := context.Queue(),), daemon=True)
    process.start()
    pid = str(heard.get(timeout=60))
    for number in ("INT", "TERM"):
        subprocess.run(["kill", f"-{number}", pid], check=True)
    process.join(0.3)
    assert process.is_alive()
    process.terminate()
    process.join(10)
    assert process.exitcode == 0
