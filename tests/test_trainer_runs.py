"""What a training does beside learning: accumulation, checkpoints inside an epoch, the best ones, warnings."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ds2_deploy.model.checkpoint
import training.data
import training.learner
import training.trainer
from ds2_deploy.errors import ConfigError, OutputError
from ds2_deploy.metrics import Errors
from ds2_deploy.model.checkpoint import load_checkpoint
from tests.tones import losses, recipe
from training.run_folder import read_log
from training.sampler import BatchSampler
from training.trainer import train
from training.validation import Validation


def weights(path):
    return load_checkpoint(path).weights


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_accumulated_batches_are_one_large_batch(corpus, tmp_path, optimizer):
    """Without batch normalisation, whose statistics are a batch's own; in the first, sorted epoch both see the same."""
    plain = ["model.batch_norm=false", f"optimizer.name={optimizer}", "optimizer.learning_rate=1e-3"]
    train(recipe(tmp_path, *plain, "batch_size=6", epochs=1), [corpus], [corpus], tmp_path / "large")
    small = recipe(tmp_path, *plain, "batch_size=3", "accumulate=2", epochs=1)
    train(small, [corpus], [corpus], tmp_path / "small")
    large, small = weights(tmp_path / "large/last.pt"), weights(tmp_path / "small/last.pt")
    assert all(torch.allclose(large[name], small[name], atol=2e-5) for name in large)


KILLED = """
import os, signal, sys
from pathlib import Path
import training.trainer as trainer
from training.recipe import load_recipe
steps = 0
learn = trainer.Learner.learn
def killed(self, *arguments):
    global steps
    steps += 1
    if steps == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, *arguments)
trainer.Learner.learn = killed
trainer.CLOCK_STEPS = 1
out, corpus = map(Path, sys.argv[2:])
trainer.train(load_recipe(sys.argv[1], {overrides!r}), [corpus], [corpus], out)
"""


def test_a_run_killed_inside_an_epoch_repeats_the_uninterrupted_one(corpus, tmp_path):
    """kill -9 in the eighth of ten steps; saved after each step, with dropout, augmentation and a plateau."""
    varied = ["augment.speeds=[0.9, 1.1]", "augment.time_masks=1", "model.dropout=0.3", "dropout_from=0.1"]
    overrides = [*varied, "schedule.name=plateau", "checkpoint_minutes=1e-9", "augment.gain_db=[-3.0, 3.0]"]
    settings = recipe(tmp_path, *overrides, epochs=3)
    train(settings, [corpus], [corpus], tmp_path / "whole")
    (tmp_path / "killed.py").write_text(KILLED.format(overrides=overrides))
    arguments = [tmp_path / "killed.py", tmp_path / "tones.toml", tmp_path / "parts", corpus]
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL
    first_epoch, second = ended.stderr.split("WER")
    assert first_epoch.count("of 5 batches, saved") == 5
    assert second.count("epoch   2/3  loss") == second.count("of 5 batches, saved") == 2
    checkpoint = load_checkpoint(tmp_path / "parts/last.pt")
    position = checkpoint.training["position"]
    assert (position["epoch"], position["batch"]) == (1, 2)
    assert 0 < position["waited_s"] < position["seconds"]
    position |= {"seconds": 200.0, "waited_s": 100.0}
    checkpoint.save(tmp_path / "parts/last.pt")
    train(settings, [corpus], [corpus], tmp_path / "parts", resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    entry = read_log(tmp_path / "parts")[1]
    assert 100 < entry["data_wait"] * entry["seconds"] < entry["seconds"] - 100  # the parts before and after together
    one, other = weights(tmp_path / "whole/last.pt"), weights(tmp_path / "parts/last.pt")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_goes_on_when_nobody_reads_along(corpus, tmp_path):
    recipe(tmp_path, epochs=2)
    options = ["--train", corpus, "--valid", corpus, "--out", tmp_path / "run"]
    call = [sys.executable, "-m", "ds2_deploy", "train", tmp_path / "tones.toml", *options]
    reading, writing = os.pipe()
    os.close(reading)  # as of `2>&1 | head -1`, from the first line on
    assert subprocess.run(list(map(str, call)), stderr=writing, timeout=120, check=False).returncode == 0
    os.close(writing)
    assert len(read_log(tmp_path / "run")) == 2


def scripted(monkeypatch, *results):
    """Validation results in the order given: word errors of ten words, or a whole Validation."""
    coming = iter(results)

    def validate(*_):
        result = next(coming)
        if isinstance(result, Validation):
            return result
        return Validation(loss=float(result), errors=Errors(result, 10, 1, 10), blank_rate=0.5, output_length=3.0)

    monkeypatch.setattr(training.trainer, "validate", validate)


def test_the_best_checkpoints_are_kept_and_averaged(corpus, tmp_path, monkeypatch):
    scripted(monkeypatch, 5, 2, 4, 3, 9, 1)
    settings = recipe(tmp_path, "selection.keep=3", epochs=5)
    train(settings, [corpus], [corpus], tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pt")) == [
        "average.pt", "best.pt", "epoch-0002.pt", "epoch-0003.pt", "epoch-0004.pt", "last.pt",
    ]  # fmt: skip
    kept = [weights(tmp_path / f"run/epoch-000{epoch}.pt") for epoch in (2, 3, 4)]
    average = load_checkpoint(tmp_path / "run/average.pt")
    for name, tensor in average.weights.items():
        assert torch.allclose(tensor, torch.stack([one[name] for one in kept]).mean(0), atol=1e-6)
    assert (average.metadata.provenance.valid_wer, average.metadata.provenance.valid_cer) == (0.1, 0.1)
    assert all(torch.equal(tensor, kept[0][name]) for name, tensor in weights(tmp_path / "run/best.pt").items())


def test_chinese_is_chosen_by_characters_and_babbling_is_not(corpus, tmp_path, monkeypatch):
    """Its texts are one word each; above 100% of errors the later epoch counts."""
    results = [
        Validation(loss=9.0, errors=Errors(10, 10, wrong, 100), blank_rate=0.5, output_length=3.0)
        for wrong in (130, 180, 60, 70)
    ]
    settings = recipe(tmp_path, "language=zh", "alphabet=''", epochs=2)
    for name, some in (("babbling", results[:2]), ("learnt", results[2:])):
        scripted(monkeypatch, *some)
        train(settings, [corpus], [corpus], tmp_path / name)
    assert load_checkpoint(tmp_path / "babbling/best.pt").metadata.provenance.epochs == 2
    assert load_checkpoint(tmp_path / "learnt/best.pt").metadata.provenance.epochs == 1
    assert recipe(tmp_path, "language=zh", "selection.by=wer").selected_by == "wer"


def test_the_validation_loss_may_choose(corpus, tmp_path, monkeypatch):
    results = [
        Validation(loss=loss, errors=Errors(wrong, 10, 1, 10), blank_rate=0.5, output_length=3.0)
        for loss, wrong in [(3.0, 1), (1.0, 9), (2.0, 5)]
    ]
    scripted(monkeypatch, *results)
    train(recipe(tmp_path, "selection.by=loss", epochs=3), [corpus], [corpus], tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/best.pt").metadata.provenance.epochs == 2


def test_a_training_stops_early_and_a_resumed_one_stays_stopped(corpus, tmp_path, monkeypatch, capsys):
    scripted(monkeypatch, 5, 4, 4, 6, 1)
    settings = recipe(tmp_path, "selection.patience=2", epochs=9)
    train(settings, [corpus], [corpus], tmp_path / "run")
    train(settings, [corpus], [corpus], tmp_path / "run", resume=True)
    assert [entry["epoch"] for entry in read_log(tmp_path / "run")] == [1, 2, 3, 4]
    assert "Stopped: no better wer, nor a lower loss, in 2 epochs." in capsys.readouterr().err


def test_a_finished_training_that_is_resumed_says_so(corpus, tmp_path, monkeypatch, capsys):
    scripted(monkeypatch, 5)
    settings = recipe(tmp_path, epochs=1)
    train(settings, [corpus], [corpus], tmp_path / "run")
    assert "All 1 epochs are learnt" not in capsys.readouterr().err
    train(settings, [corpus], [corpus], tmp_path / "run", resume=True)
    assert "All 1 epochs are learnt: --set epochs=N with a higher N learns more." in capsys.readouterr().err


def test_noise_that_is_not_there_is_told_at_once(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("training.trainer.feature_statistics", lambda *_: pytest.fail("listened first"))
    settings = ["augment.noise=nowhere", "augment.noise_probability=1", "feature.normalization=global"]
    with pytest.raises(ConfigError, match=r"nowhere.*--set augment.noise_probability=0 does without"):
        train(recipe(tmp_path, *settings), [corpus], [corpus], tmp_path / "run")


def test_an_epoch_with_a_lower_loss_is_no_standstill(corpus, tmp_path, monkeypatch):
    """While a network says blanks alone every word is wrong, whatever it learns; of such epochs the latest is kept."""
    blanks = [
        Validation(loss=loss, errors=Errors(10, 10, 10, 10), blank_rate=1.0, output_length=0.0)
        for loss in (9.0, 8.0, 7.0, 6.0, 6.5, 6.2)
    ]
    scripted(monkeypatch, *blanks)
    settings = ["selection.patience=2", "schedule.name=plateau", "schedule.patience=0", "schedule.warmup=0"]
    train(recipe(tmp_path, *settings, epochs=9), [corpus], [corpus], tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert [entry["valid_loss"] for entry in log] == [9.0, 8.0, 7.0, 6.0, 6.5, 6.2]
    assert len({entry["learning_rate"] for entry in log[:5]}) == 1
    assert log[5]["learning_rate"] < log[4]["learning_rate"]
    assert load_checkpoint(tmp_path / "run/best.pt").metadata.provenance.epochs == 6


def test_an_epoch_goes_on_with_its_own_batches_alone(corpus, tmp_path, monkeypatch):
    """Or some utterances would come twice, and others not at all: with batch_seconds they depend on the processes."""

    class KilledError(Exception):
        pass

    def killed(*_):
        raise KilledError

    settings = recipe(tmp_path, "checkpoint_minutes=1e-9", epochs=1)
    monkeypatch.setattr(training.trainer, "validate", killed)
    monkeypatch.setattr(training.trainer, "CLOCK_STEPS", 1)
    with pytest.raises(KilledError):
        train(settings, [corpus], [corpus], tmp_path / "run")
    monkeypatch.undo()
    with monkeypatch.context() as others:
        others.setattr(BatchSampler, "fingerprint", "others")
        with pytest.raises(ConfigError, match=r"stopped within epoch 1, whose batches are others now: start as many"):
            train(settings, [corpus], [corpus], tmp_path / "run", resume=True)
    train(settings, [corpus], [corpus], tmp_path / "run", resume=True)
    assert len(read_log(tmp_path / "run")) == 1


def test_a_collapse_is_told_from_a_slow_start(corpus, tmp_path, monkeypatch, capsys):
    silent = Validation(loss=9.0, errors=Errors(10, 10, 10, 10), blank_rate=1.0, output_length=0.0)
    scripted(monkeypatch, silent, silent)
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "slow")
    assert "collapsed" not in capsys.readouterr().err
    scripted(monkeypatch, silent, 7, silent)
    train(recipe(tmp_path, epochs=3), [corpus], [corpus], tmp_path / "collapsed")
    assert capsys.readouterr().err.count("collapsed to blanks") == 1


def test_a_loss_that_is_not_finite_names_its_utterances(corpus, tmp_path, monkeypatch, capsys):
    """The second utterance's loss is made NaN in the third step: that step is left out and the others are taken."""
    steps, original = [], training.learner.TrainingStep.forward

    def poisoned(self, batch, windows):
        steps.append(batch)
        found = original(self, batch, windows)
        return found * torch.tensor([1.0, float("nan"), *[1.0] * (len(found) - 2)]) if len(steps) == 3 else found

    monkeypatch.setattr(training.learner.TrainingStep, "forward", poisoned)
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    (entry,) = read_log(tmp_path / "run")
    assert entry["skipped_steps"] == 1
    assert entry["loss"] < 1e3
    path = corpus.parent / f"{int(steps[2].indices[1])}.wav"
    assert f"the loss of 1 of {len(steps[2].indices)} utterances is not finite ({path})" in capsys.readouterr().err


def test_a_full_disk_loses_nothing(corpus, tmp_path, monkeypatch):
    settings = recipe(tmp_path, epochs=3)
    saves, original = [], torch.save

    def full(content, path):
        saves.append(path)
        if len(saves) == 3:  # best.pt and last.pt of the first epoch fit
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(content, path)

    monkeypatch.setattr(ds2_deploy.model.checkpoint.torch, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train(settings, [corpus], [corpus], tmp_path / "run")
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.pt",
        "last.pt",
        "log.jsonl",
        "recipe.toml",
    ]
    train(settings, [corpus], [corpus], tmp_path / "run", resume=True)
    assert [entry["epoch"] for entry in read_log(tmp_path / "run")] == [1, 2, 3]
    train(settings, [corpus], [corpus], tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_dropout_grows(corpus, tmp_path, monkeypatch):
    seen, original = [], training.learner.TrainingStep.forward

    def recorded(self, batch, windows):
        seen.append(self.model.encoder.rnn[0].dropout.p)
        return original(self, batch, windows)

    monkeypatch.setattr(training.learner.TrainingStep, "forward", recorded)
    settings = recipe(tmp_path, "dropout_from=0.1", "model.dropout=0.4", epochs=4)
    train(settings, [corpus], [corpus], tmp_path / "run")
    assert sorted(set(seen)) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert seen == sorted(seen)


def test_norm_statistics_rest_from_a_share_of_the_epochs_on(corpus, tmp_path):
    settings = recipe(tmp_path, "norm_frozen_from=0.5", "selection.keep=4", epochs=4)
    train(settings, [corpus], [corpus], tmp_path / "run")
    epochs = [load_checkpoint(tmp_path / f"run/epoch-{n:04}.pt").weights for n in range(1, 5)]
    running = [name for name in epochs[0] if ".running_" in name]
    same = [all(torch.equal(a[n], b[n]) for n in running) for a, b in itertools.pairwise(epochs)]
    assert same == [False, True, True]  # 1 to 2; 2 to 3, 3 to 4
    assert not torch.equal(epochs[2]["encoder.output.weight"], epochs[3]["encoder.output.weight"])


def test_tensorboard_has_scalars_and_transcripts(corpus, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run", tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    logged = [event.value for event in events.Scalars("valid_loss")]
    assert logged == pytest.approx([entry["valid_loss"] for entry in read_log(tmp_path / "run")])
    (text,) = {event.tensor_proto.string_val[0] for event in events.Tensors("transcripts/text_summary")[-1:]}
    assert read_log(tmp_path / "run")[-1]["samples"][0][0].encode() in text


def test_time_spent_waiting_for_data_is_told(corpus, tmp_path, monkeypatch):
    original = training.data.Speech.__getitem__

    def slow(self, keys):
        time.sleep(0.2)
        return original(self, keys)

    monkeypatch.setattr(training.data.Speech, "__getitem__", slow)
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    (entry,) = read_log(tmp_path / "run")
    assert 1.0 <= entry["data_wait"] * entry["seconds"] <= entry["seconds"]


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", "WER  50.0%  CER  10.0%"), ("en-phonemes", "PER  50.0%  CER  10.0%"), ("zh", "CER  10.0%  WER  50.0%")],
)
def test_an_epoch_is_measured_as_its_language_is(corpus, tmp_path, monkeypatch, capsys, language, said):
    measured = Validation(loss=1.0, errors=Errors(5, 10, 1, 10), blank_rate=0.5, output_length=3.0)
    scripted(monkeypatch, measured, measured, measured)
    settings = recipe(tmp_path, f"language={language}", "alphabet=''", "selection.keep=2", epochs=2)
    train(settings, [corpus], [corpus], tmp_path / "run")
    err = capsys.readouterr().err
    assert err.count(f"  {said}  ") == 2
    assert f"average of epochs 1, 2: valid 1.00  {said}\n" in err
