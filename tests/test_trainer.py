"""Training: the loss falls, a resumed run repeats an uninterrupted one, two processes do what one does."""

import json
import math
import os
import re
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch

import training.learner
import training.step
import training.trainer
from ds2_deploy.errors import AudioError, ConfigError, ManifestError, ModelError, OutputError, TrainingError
from ds2_deploy.locking import alone_with
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_weights
from ds2_deploy.runtime.protocol import pad_batch
from tests.tones import losses, recipe
from training.data import Batch
from training.learner import Learner
from training.precision import AUTOCAST, allow_tf32, is_scaled
from training.recipe import load_recipe
from training.run_folder import read_log
from training.step import ctc_losses
from training.trainer import train
from training.validation import Validation

WINDOWS = ["model.window=2", "model.window_context=3", "augment.windows=[[2, 3], [1, 9], [0, 0]]"]


def teacher(corpus, tmp_path):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "teacher")
    return [f"teacher.model={tmp_path / 'teacher/last.pt'}", "teacher.later_frames=1"]


def test_learns_to_read_tones(corpus, reading):
    log = read_log(reading)
    assert log[-1]["loss"] < 0.2 * log[0]["loss"]
    assert log[-1]["valid_cer"] < 0.1
    assert 0.2 < log[-1]["blank_rate"] < 0.95
    best = load_checkpoint(reading / "best.pt")
    assert best.metadata.provenance.valid_wer == pytest.approx(min(entry["valid_wer"] for entry in log), abs=1e-5)
    assert best.metadata.provenance.train == (f"{corpus.parent.name}/m.jsonl",)
    assert len(best.metadata.statistics.mean) == 20


def test_a_resumed_run_repeats_the_uninterrupted_one(corpus, tmp_path, monkeypatch):
    overrides = ["augment.speeds=[0.9, 1.1]", "augment.time_masks=1", "model.dropout=0.3", "workers=1", *WINDOWS]
    whole = recipe(tmp_path, *overrides, *teacher(corpus, tmp_path), epochs=4)
    train(whole, [corpus], [corpus], tmp_path / "whole")

    class KilledError(Exception):
        pass

    original = training.trainer.validate

    def killed_in_the_third_epoch(*arguments, **keywords):
        if (tmp_path / "parts/log.jsonl").exists() and len(read_log(tmp_path / "parts")) == 2:
            raise KilledError
        return original(*arguments, **keywords)

    monkeypatch.setattr(training.trainer, "validate", killed_in_the_third_epoch)
    with pytest.raises(KilledError):
        train(whole, [corpus], [corpus], tmp_path / "parts")
    monkeypatch.undo()
    train(whole, [corpus], [corpus], tmp_path / "parts", resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, other = (load_checkpoint(tmp_path / name / "last.pt").weights for name in ("whole", "parts"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def averaged(run, said):
    """What a training that keeps its best epochs says of their average: the loss; and the weights."""
    (loss,) = re.findall(r"average of epochs [\d, ]+: valid ([\d.]+) ", said)
    return float(loss), load_checkpoint(run / "average.pt").weights


def test_two_processes_give_the_losses_of_one(corpus, tmp_path, capsys):
    """15 steps with the same global batches, windows and teacher: 18 utterances in batches of 4 or 5, also in unequal
    shares, and two batches a step, of which gradients are averaged once; so are the best epochs' weights."""
    changed = [*WINDOWS, *teacher(corpus, tmp_path), "accumulate=2", "selection.keep=2"]
    five = recipe(tmp_path, *changed, epochs=5)
    capsys.readouterr()
    train(five, [corpus], [corpus], tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = ["-m", "ds2_deploy", "train", tmp_path / "tones.toml", "--train", corpus, "--valid", corpus]
    settings = [part for setting in changed for part in ("--set", setting)]
    done = subprocess.run(
        [*torchrun, *map(str, command), *settings, "--out", str(tmp_path / "two"), "--device", "cpu"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "two")) == 5
    told = [[said for said, _ in read_log(tmp_path / name)[0]["samples"]] for name in ("one", "two")]
    assert told[0] == told[1]  # whichever process validated them
    assert np.allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=1e-4)
    one, other = averaged(tmp_path / "one", capsys.readouterr().err), averaged(tmp_path / "two", done.stderr)
    assert other[0] == pytest.approx(one[0], abs=0.011)  # both processes had the average
    for name, weight in one[1].items():
        torch.testing.assert_close(other[1][name], weight, rtol=1e-3, atol=1e-4)


def test_init_from_starts_with_the_weights_and_a_fresh_schedule(corpus, tmp_path):
    train(recipe(tmp_path, epochs=6), [corpus], [corpus], tmp_path / "first")
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
    first, (begun, second) = read_log(tmp_path / "first"), read_log(tmp_path / "second")
    assert second["loss"] < 0.7 * first[0]["loss"]
    heard = ("valid_loss", "valid_wer", "valid_cer", "valid_distance", "blank_rate", "output_length", "samples")
    assert begun == {"epoch": 0, "best": True} | {name: first[-1][name] for name in heard}


def test_weights_that_no_epoch_beats_stay_the_best(ds2, corpus, tmp_path):
    """Whoever trains them too hard gets them back; a training that goes on does not hear them again."""
    train(recipe(tmp_path, epochs=4), [corpus], [corpus], tmp_path / "first")
    recipe(tmp_path, epochs=1)
    call = ["train", tmp_path / "tones.toml", "--train", corpus, "--valid", corpus, "--out", tmp_path / "second"]
    call += ["--init-from", tmp_path / "first/last.pt"]
    said = ds2(*call, "--set", "selection.by=loss", "--set", "optimizer.learning_rate=10").err
    assert re.search(r"\nepoch   0/1 {15}valid +[\d.]+  WER .*  as it begins  best\nepoch   1/1  loss .* left\n", said)
    assert "No epoch was better than the weights it began with, which best.pt has" in said
    first, best = load_checkpoint(tmp_path / "first/last.pt"), load_checkpoint(tmp_path / "second/best.pt")
    assert all(torch.equal(first.weights[name], tensor) for name, tensor in best.weights.items())
    assert best.metadata.provenance == first.metadata.provenance
    assert ds2(*call, "--resume", "--set", "epochs=2").code == 0
    assert [entry["epoch"] for entry in read_log(tmp_path / "second")] == [0, 1, 2]


def test_weights_to_begin_with_are_heard_once_where_their_training_is_stopped(corpus, tmp_path, monkeypatch, capsys):
    """They may be among the best, but are no part of the best ones' mean."""
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "first")
    begin = {"init_from": tmp_path / "first/last.pt"}
    settings = recipe(tmp_path, "selection.keep=3", epochs=2)

    def killed(*_):
        raise KeyboardInterrupt

    for part in ("validate", "Training.learn_epoch"):  # within epoch 0, and after it
        with monkeypatch.context() as patched:
            patched.setattr(f"training.trainer.{part}", killed)
            with pytest.raises(KeyboardInterrupt):
                train(settings, [corpus], [corpus], tmp_path / "second", **begin)
    assert [entry["epoch"] for entry in read_log(tmp_path / "second")] == [0]
    train(settings, [corpus], [corpus], tmp_path / "second", resume=True)
    train(settings, [corpus], [corpus], tmp_path / "whole", **begin)
    parts, whole = read_log(tmp_path / "second"), read_log(tmp_path / "whole")
    assert [entry["valid_loss"] for entry in parts] == [entry["valid_loss"] for entry in whole]
    assert len(parts) == 3
    assert capsys.readouterr().err.count("\naverage of epochs 1, 2: valid ") == 2


def test_a_model_folder_can_be_trained_further_with_other_dropout(corpus, tmp_path):
    train(recipe(tmp_path, epochs=6), [corpus], [corpus], tmp_path / "first")
    first = load_checkpoint(tmp_path / "first/last.pt")
    (tmp_path / "model").mkdir()
    save_weights(first.model(), tmp_path / "model/model.safetensors")
    (tmp_path / "model/metadata.json").write_text(first.metadata.to_json())
    still = recipe(tmp_path, "optimizer.learning_rate=1e-30", "model.dropout=0.1", "norm_frozen_from=0", epochs=1)
    train(still, [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "model")
    second = load_checkpoint(tmp_path / "second/last.pt")
    assert second.metadata.model.dropout == 0.1
    for name, weight in first.weights.items():
        torch.testing.assert_close(second.weights[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize(("before", "after"), [(3, 8), (8, 3), (0, 3), (3, 0)])
def test_a_net_goes_on_with_another_lookahead(corpus, tmp_path, before, after):
    """A longer one, whose new frames weigh nothing, is the same network; a shorter one loses the farthest frames."""
    forward = "model.bidirectional=false"
    train(recipe(tmp_path, forward, f"model.lookahead={before}", epochs=3), [corpus], [corpus], tmp_path / "first")
    unmoved = ("optimizer.learning_rate=1e-30", "norm_frozen_from=0")
    still = recipe(tmp_path, forward, f"model.lookahead={after}", *unmoved, epochs=1)
    train(still, [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
    first, second = (load_checkpoint(tmp_path / name / "last.pt") for name in ("first", "second"))
    name = "encoder.lookahead.conv.weight"
    if before and after:
        common = min(before, after)
        torch.testing.assert_close(
            second.weights[name][..., :common], first.weights[name][..., :common], rtol=0, atol=0
        )
    if after > before:
        audio, lengths = torch.randn(1, 16000).mul(0.1), torch.tensor([16000])
        one, other = (checkpoint.model()(audio, lengths)[0] for checkpoint in (first, second))
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_a_net_of_both_directions_learns_to_stream(corpus, tmp_path, capsys):
    """By windows and with another normalisation it keeps its weights."""
    utterance = recipe(tmp_path, "feature.normalization=utterance", epochs=3)
    train(utterance, [corpus], [corpus], tmp_path / "first")
    windows = ("model.window=2", "model.window_context=3", "feature.normalization=running", "norm_frozen_from=0")
    still = recipe(tmp_path, *windows, "optimizer.learning_rate=1e-30", epochs=1)
    train(still, [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
    said = capsys.readouterr().err
    assert (
        f"Different from {tmp_path / 'first/last.pt'}: feature.normalization utterance -> running, "
        "model.window 0 -> 2, model.window_context 0 -> 3.\n"
    ) in said
    assert "will not" not in said
    first, second = (load_checkpoint(tmp_path / name / "last.pt") for name in ("first", "second"))
    assert first.metadata.streaming_obstacles
    assert not second.metadata.streaming_obstacles
    assert second.metadata.statistics is not None
    for name, weight in first.weights.items():
        torch.testing.assert_close(second.weights[name], weight, rtol=0, atol=0)
    train(utterance, [corpus], [corpus], tmp_path / "back", init_from=tmp_path / "second/last.pt")
    assert (
        f"{tmp_path / 'second/last.pt'} can stream, this model will not: feature.normalization is 'utterance', which "
        "needs the whole recording; model.bidirectional is true: the backward direction starts at the end.\n"
    ) in capsys.readouterr().err
    for other, name, problem in (
        (("feature.normalization=whitening",), "first", "another feature than the recipe's: normalization"),
        ((*windows, "feature.mel_bands=12"), "first", "another feature than the recipe's: mel_bands"),
        ((*windows, "feature.mel_bands=12"), "second", "another feature than the recipe's: mel_bands"),
        (("model.cell=lstm",), "first", "another model than the recipe's: cell 'gru' there, 'lstm' here"),
    ):
        start = tmp_path / name / "last.pt"
        with pytest.raises(ModelError, match=problem):
            train(recipe(tmp_path, *other), [corpus], [corpus], tmp_path / "third", init_from=start)


@pytest.mark.parametrize(
    ("before", "problem"),
    [
        (
            ("model.bidirectional=true", "model.lookahead=0"),
            "another model than the recipe's: .*bidirectional True there",
        ),
        (("model.rnn_size=16",), "another model than the recipe's: rnn_size 16 there, 24 here"),
    ],
)
def test_another_lookahead_does_not_hide_another_network(corpus, tmp_path, before, problem):
    forward = ("model.bidirectional=false", "model.lookahead=3")
    train(recipe(tmp_path, *forward, *before, epochs=1), [corpus], [corpus], tmp_path / "first")
    with pytest.raises(ModelError, match=problem):
        train(recipe(tmp_path, *forward), [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
    assert not (tmp_path / "second").exists()


def test_a_net_with_longer_frames_goes_on_with_shorter_ones(corpus, tmp_path, capsys):
    """Strides in time have no weights; what it has learnt from counts as learnt."""
    slow = ("model.conv=[{channels = 4, kernel = [5, 5], stride = [2, 4]}]",)
    fast = ("model.conv=[{channels = 4, kernel = [5, 5], stride = [2, 2]}]", "optimizer.learning_rate=1e-30")
    train(recipe(tmp_path, *slow, epochs=1), [corpus], [corpus], tmp_path / "first")
    other = tmp_path / "other.jsonl"
    other.write_text(corpus.read_text().replace('"audio_filepath": "', f'"audio_filepath": "{corpus.parent}/'))
    shorter = recipe(tmp_path, *fast, epochs=1)
    train(shorter, [other], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
    first, second = (load_checkpoint(tmp_path / name / "last.pt") for name in ("first", "second"))
    assert f"Different from {tmp_path / 'first/last.pt'}: frame 40 ms -> 20 ms.\n" in capsys.readouterr().err
    assert second.metadata.model.conv[0].stride == (2, 2)
    assert second.metadata.provenance.train == (*first.metadata.provenance.train, f"{tmp_path.name}/other.jsonl")
    learnt = [name for name in first.weights if "running" not in name and "num_batches" not in name]
    assert learnt
    for name in learnt:
        torch.testing.assert_close(second.weights[name], first.weights[name], rtol=0, atol=0)
    other_bins = recipe(tmp_path, "model.conv=[{channels = 4, kernel = [5, 5], stride = [4, 2]}]", epochs=1)
    with pytest.raises(ModelError, match="another model than the recipe's: conv"):
        train(other_bins, [corpus], [corpus], tmp_path / "third", init_from=tmp_path / "first/last.pt")


def test_another_architecture_is_refused(corpus, tmp_path):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    other = recipe(tmp_path, "model.rnn_size=16", epochs=2)
    with pytest.raises(ConfigError, match=r"was begun with another model.rnn_size \(24, now 16\)"):
        train(other, [corpus], [corpus], tmp_path / "run", resume=True)


@pytest.mark.parametrize("override", ["optimizer.learning_rate=1e-5", "batch_size=3", "precision=fp16"])
def test_a_training_is_not_resumed_with_another_recipe(corpus, tmp_path, override):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    with pytest.raises(ConfigError, match="was begun with another"):
        train(recipe(tmp_path, override, epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)
    assert len(read_log(tmp_path / "run")) == 2


def test_weights_alone_and_a_later_version_are_no_training_to_resume(corpus, tmp_path):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    last = tmp_path / "run/last.pt"
    content = torch.load(last)
    for state, words in (
        ({}, r"last\.pt holds no training to go on from: begin anew with --init-from .*last\.pt\.$"),
        (
            content["training"] | {"position": content["training"]["position"] | {"later": 1}},
            r"last\.pt is of a later version of ds2_deploy",
        ),
    ):
        torch.save(content | {"training": state}, last)
        with pytest.raises(TrainingError, match=words):
            train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)


def test_what_set_has_changed_need_not_be_given_again(ds2, corpus, tmp_path):
    """Neither for one epoch to stay one, nor for the labels to stay those of the transcripts."""
    recipe(tmp_path, epochs=75)
    (tmp_path / "tones.toml").write_text((tmp_path / "tones.toml").read_text().replace(' abc"', '-"'))
    call = ["train", tmp_path / "tones.toml", "--train", corpus, "--valid", corpus, "--out", tmp_path / "run"]
    assert ds2(*call, "--set", "epochs=1", "--set", 'alphabet=""').code == 0
    again = ds2(*call, "--resume")
    assert "All 1 epochs are learnt" in again.err
    assert "Changed" not in again.err
    more = ds2(*call, "--resume", "--set", "epochs=2", "--set", "workers=1")
    assert f"Changed since {tmp_path / 'run'} was begun: epochs 1 -> 2, workers 0 -> 1.\n" in more.err
    used = load_recipe(str(tmp_path / "run/recipe.toml"), [])
    assert used == load_recipe(str(tmp_path / "tones.toml"), ["epochs=2", "workers=1", "alphabet=''"])
    assert "All 2 epochs are learnt" in ds2(*call, "--resume").err


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_the_recipe_in_the_folder_is_another_way_to_go_on(ds2, corpus, tmp_path):
    """It may be edited, within the same limits as --set; a message names it where it is of use."""
    recipe(tmp_path, epochs=75)
    config, own = tmp_path / "tones.toml", tmp_path / "run/recipe.toml"
    options = ["--train", corpus, "--valid", corpus, "--out", tmp_path / "run"]
    assert ds2("train", config, *options, "--set", "epochs=1").code == 0
    edit(config, "1e-2", "1e-3")
    another = "begun with another optimizer.learning_rate (0.01, now 0.001): resume it with "
    refused = ds2("train", config, *options, "--resume").err.replace("\n", " ")
    assert f"{another}{own}, the recipe it began with, or start" in refused
    edit(config, "1e-3", "1e-2")
    edit(own, "epochs = 1\n", "epochs = 2\n")
    assert "epochs 1 -> 2.\n" in ds2("train", own, *options, "--resume").err
    again = ds2("train", config, *options, "--resume").err
    assert "All 2 epochs are learnt" in again
    assert "Changed" not in again
    edit(own, "learning_rate = 0.01\n", "learning_rate = 0.001\n")
    assert f"{another}the recipe it began with, or start" in ds2("train", own, *options, "--resume").err


def test_what_set_changes_outlasts_a_training_that_saves_nothing(ds2, corpus, tmp_path, monkeypatch):
    settings = recipe(tmp_path, epochs=75)
    call = ["train", tmp_path / "tones.toml", "--train", corpus, "--valid", corpus, "--out", tmp_path / "run"]
    assert ds2(*call, "--set", "epochs=1").code == 0
    before = load_checkpoint(tmp_path / "run/last.pt")
    with monkeypatch.context() as patched:
        patched.setattr("training.trainer.Training.learn_epochs", full)
        assert "no space left" in ds2(*call, "--resume", "--set", "epochs=2").err
    now = load_checkpoint(tmp_path / "run/last.pt")
    assert (now.training.pop("set"), before.training.pop("set")) == (["epochs=1", "epochs=2"], ["epochs=1"])
    assert now.metadata == before.metadata
    train(msgspec.structs.replace(settings, epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)
    assert "All 2 epochs are learnt" in ds2(*call, "--resume").err


def full(*_):
    raise OutputError("There is no space left.")


def test_a_training_from_before_settings_were_kept_has_its_recipe_all_the_same(ds2, corpus, tmp_path):
    """They are to be given again, or are told before any manifest is read."""
    train(recipe(tmp_path, "alphabet=''", epochs=1), [corpus], [corpus], tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run/last.pt")
    del checkpoint.training["set"]
    checkpoint.save(tmp_path / "run/last.pt")
    call = ["train", tmp_path / "tones.toml", "--valid", corpus, "--out", tmp_path / "run", "--resume"]
    refused = ds2(*call, "--train", tmp_path / "none.jsonl")
    assert "was begun with another alphabet ('', now ' abc'): resume it with " in refused.err
    assert ds2(*call, "--train", corpus, "--set", "alphabet=''").code == 0


def test_a_recipe_that_somebody_wrote_into_the_folder_stays(ds2, corpus, tmp_path):
    recipe(tmp_path, epochs=3)
    (tmp_path / "tones.toml").rename(tmp_path / "recipe.toml")
    own = (tmp_path / "recipe.toml").read_bytes()
    call = ["train", tmp_path / "recipe.toml", "--train", corpus, "--valid", corpus, "--out", tmp_path]
    assert ds2(*call, "--set", "epochs=1").code == 0
    assert (tmp_path / "recipe.toml").read_bytes() == own
    assert "All 1 epochs are learnt" in ds2(*call, "--resume").err


def test_a_resumed_training_has_its_weights(ds2, corpus, tmp_path):
    """So a script may say with what to begin each time."""
    recipe(tmp_path, epochs=1)
    call = ["train", tmp_path / "tones.toml", "--train", corpus, "--valid", corpus, "--out", tmp_path / "run"]
    assert ds2(*call).code == 0
    assert ds2(*call, "--resume", "--init-from", tmp_path / "none.pt", "--set", "epochs=2").code == 0
    assert [entry["epoch"] for entry in read_log(tmp_path / "run")] == [1, 2]


def test_there_is_nothing_to_go_on_from(ds2, corpus, tmp_path):
    recipe(tmp_path)
    call = ["train", tmp_path / "tones.toml", "--train", corpus, "--valid", corpus, "--out", tmp_path / "run"]
    refused = ds2(*call, "--resume")
    assert (refused.code, "run/last.pt to go on from: leave --resume out to begin." in refused.err) == (1, True)


def test_a_training_goes_on_in_another_precision(corpus, tmp_path):
    """Weights and optimizer are in float32 either way; fp16 has a scale of losses besides."""
    train(recipe(tmp_path, "precision=bf16", epochs=1), [corpus], [corpus], tmp_path / "run")
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)
    assert len(read_log(tmp_path / "run")) == 2


@pytest.mark.parametrize("scaled_first", [False, True])
def test_it_goes_on_also_where_one_of_them_scales_its_losses(corpus, tmp_path, monkeypatch, scaled_first):
    """As bf16 does on a GPU."""
    monkeypatch.setattr(training.learner, "is_scaled", lambda precision, _: precision == "bf16")
    for epochs, half in enumerate((scaled_first, not scaled_first), 1):
        settings = recipe(tmp_path, f"precision={'bf16' if half else 'fp32'}", epochs=epochs)
        train(settings, [corpus], [corpus], tmp_path / "run", resume=epochs == 2)
        state = load_checkpoint(tmp_path / "run/last.pt").training["learner"]["scaler"]
        assert bool(state) == half


@pytest.fixture
def hopeless(monkeypatch):
    """Losses are scaled, and that of utterance 3 is never finite."""
    real = training.step.ctc_losses

    def losses(log_probs, lengths, batch, blank):
        return real(log_probs, lengths, batch, blank) * torch.where(batch.indices == 3, torch.nan, 1.0)

    monkeypatch.setattr(training.learner, "is_scaled", lambda *_: True)
    monkeypatch.setattr(training.step, "ctc_losses", losses)


@pytest.mark.usefixtures("hopeless")
def test_a_loss_that_is_never_finite_leaves_the_scale(corpus, tmp_path, capsys):
    """No scale cures it: halved for each such step it would end at nothing, and gradients with it."""
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run")
    assert read_log(tmp_path / "run")[-1]["skipped_steps"] == 2
    assert load_checkpoint(tmp_path / "run/last.pt").training["learner"]["scaler"]["scale"] == 2**16
    assert "is not finite (" in capsys.readouterr().err


@pytest.mark.usefixtures("hopeless")
def test_where_no_scale_helps_a_training_ends(corpus, tmp_path):
    """A step an epoch with such a loss: the scale is not at fault, so there is nothing to wait for."""
    with pytest.raises(TrainingError, match="nothing was learnt"):
        train(recipe(tmp_path, "batch_size=18", epochs=3), [corpus], [corpus], tmp_path / "run")


def test_validation_recordings_are_opened_before_an_epoch_is_learnt(corpus, tmp_path):
    lines = [json.loads(line) for line in corpus.read_text().split("\n")]
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing more")
    lines[2]["audio_filepath"] = str(tmp_path / "broken.wav")
    (corpus.parent / "valid.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(AudioError, match=r"Cannot decode .*broken\.wav"):
        train(recipe(tmp_path, epochs=1), [corpus], [corpus.parent / "valid.jsonl"], tmp_path / "run")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_weights_that_do_not_fit_are_told_before_the_corpus_is_heard(corpus, tmp_path, capsys):
    train(recipe(tmp_path, "feature.normalization=none", epochs=1), [corpus], [corpus], tmp_path / "first")
    capsys.readouterr()
    settings = recipe(tmp_path, "feature.normalization=running", "model.rnn_size=32")
    with pytest.raises(ModelError, match="another model than the recipe's: rnn_size 24 there, 32 here"):
        train(settings, [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
    assert "Listening" not in capsys.readouterr().err


def test_a_manifest_is_no_pipe(corpus, tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ManifestError, match=r"pipe\.jsonl is a pipe"):
        train(recipe(tmp_path), [tmp_path / "pipe.jsonl"], [corpus], tmp_path / "run")


def test_gradients_that_pass_through_fp16_are_scaled():
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    scaled = {
        (precision, device.type) for precision in AUTOCAST for device in (gpu, cpu) if is_scaled(precision, device)
    }
    assert scaled == {("fp16", "cuda"), ("fp16", "cpu"), ("bf16", "cuda")}


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_tf32_is_allowed_where_it_is_asked_for_alone(corpus, tmp_path, capsys, precision):
    train(recipe(tmp_path, f"precision={precision}", epochs=1), [corpus], [corpus], tmp_path / "run", device="cpu")
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    assert ("processor has no TF32 and computes in fp32" in capsys.readouterr().err) == (precision == "tf32")
    allow_tf32(False)


def test_a_training_from_before_a_setting_existed_is_resumed(corpus, tmp_path):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run/last.pt")
    del checkpoint.training["recipe"]["augment"]["consistency"]
    checkpoint.save(tmp_path / "run/last.pt")
    with pytest.raises(ConfigError, match="was begun with another augment"):
        train(recipe(tmp_path, "augment.consistency=1", epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)
    assert len(read_log(tmp_path / "run")) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_recording_is_one_sentence(corpus, tmp_path, workers):
    broken = json.dumps({"audio_filepath": "m.jsonl", "duration": 9, "text": "a"})
    (corpus.parent / "broken.jsonl").write_text(corpus.read_text() + "\n" + broken)
    with pytest.raises(AudioError, match=r"^Cannot decode .*m\.jsonl[^\n]*$"):
        train(recipe(tmp_path, f"workers={workers}"), [corpus.parent / "broken.jsonl"], [corpus], tmp_path / "run")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_learning_nothing_is_an_error(corpus, tmp_path, precision):
    """Its first step ruins the network; what was saved after that epoch is left as it was."""
    absurd = recipe(tmp_path, "optimizer.learning_rate=1e30", f"precision={precision}", epochs=2)
    with pytest.raises(TrainingError, match="Epoch 2 had no finite gradient"):
        train(absurd, [corpus], [corpus], tmp_path / "run")
    position = load_checkpoint(tmp_path / "run/last.pt").training["position"]
    assert (position["epoch"], position["batch"], len(read_log(tmp_path / "run"))) == (1, 0, 1)


def test_fp16_may_find_its_scale_over_several_epochs(corpus, tmp_path):
    """Of one step each: the first ones are left out, and losses are finite."""
    train(recipe(tmp_path, "precision=fp16", "batch_size=32", epochs=8), [corpus], [corpus], tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert log[0]["skipped_steps"] == 1
    assert 1 <= log[-1]["skipped_steps"] < 8


def test_a_scale_that_was_found_is_not_sought_again(corpus, tmp_path, monkeypatch):
    """The first steps, which halve it, would be left out again: resumed inside an epoch, fp16 goes on as if whole."""
    settings = recipe(tmp_path, "precision=fp16", "checkpoint_minutes=1e-9", epochs=2)
    train(settings, [corpus], [corpus], tmp_path / "whole")
    learn, calls = Learner.learn, []

    def killed_in_the_eighth(self, *arguments):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return learn(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training.trainer, "CLOCK_STEPS", 1)
        patched.setattr(Learner, "learn", killed_in_the_eighth)
        with pytest.raises(KeyboardInterrupt):
            train(settings, [corpus], [corpus], tmp_path / "parts")
    found = load_checkpoint(tmp_path / "parts/last.pt").training
    assert (found["position"]["epoch"], found["position"]["batch"]) == (1, 2)
    assert found["learner"]["scaler"]["scale"] < 2**16
    train(settings, [corpus], [corpus], tmp_path / "parts", resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = (load_checkpoint(tmp_path / name / "last.pt").training["learner"] for name in ("whole", "parts"))
    assert parts["scaler"] == whole["scaler"]


def test_steps_before_a_resume_count_as_learnt(corpus, tmp_path, monkeypatch):
    """All that are left of the epoch then are left out."""
    learn, calls = training.trainer.Learner.learn, []

    def learn_four(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        found, taken = learn(self, *arguments)
        return found, taken and len(calls) < 5

    monkeypatch.setattr(training.trainer, "CLOCK_STEPS", 1)
    monkeypatch.setattr(training.trainer.Learner, "learn", learn_four)
    settings = recipe(tmp_path, "checkpoint_minutes=1e-9", epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train(settings, [corpus], [corpus], tmp_path / "run")
    train(settings, [corpus], [corpus], tmp_path / "run", resume=True)
    assert read_log(tmp_path / "run")[0]["skipped_steps"] == 1


def test_a_finished_training_is_not_overwritten(corpus, tmp_path):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    with pytest.raises(TrainingError, match="--resume"):
        train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/best.pt").write_text("somebody's")
    with pytest.raises(TrainingError, match="already holds a training"):
        train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "other")


def test_one_training_in_a_folder_at_a_time(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    with (
        alone_with(tmp_path / "run", "testing"),  # another open file of the same process is like another process
        pytest.raises(OutputError, match=r"Another process is training in .*run at the moment"),
    ):
        train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "lower batch_size"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "batch_size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "set fewer workers"),
        (ConnectionResetError(104, "Connection reset by peer"), "set fewer workers"),
    ],
)
def test_what_a_machine_lacks_is_a_sentence(corpus, tmp_path, monkeypatch, error, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(Learner, "learn", fail)
    with pytest.raises(TrainingError, match=words):
        train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")


def test_an_error_in_a_loader_that_lives_is_not_taken_for_its_end(corpus, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback")

    monkeypatch.setattr(Learner, "learn", fail)
    with pytest.raises(RuntimeError, match="Original Traceback"):
        train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")


def test_a_log_that_was_cut_or_damaged(tmp_path):
    log = tmp_path / "log.jsonl"
    whole = '{"epoch": 1, "sample": "好"}\n'.encode()
    log.write_bytes(whole + whole[:-4])  # within a character
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [1]
    for damaged in (b"{]", b"[]", b'{"epoch": "1"}'):
        log.write_bytes(whole + damaged + b"\n" + whole)
        with pytest.raises(TrainingError, match=r"log\.jsonl is damaged: line 2 is no epoch"):
            read_log(tmp_path)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_training_whose_first_save_fails_goes_on(corpus, tmp_path, monkeypatch, failing):
    """The epoch is logged by then: it begins anew, or is resumed where the first of its checkpoints was written."""
    saved, save = [], Checkpoint.save

    def full(self, path):
        saved.append(path)
        if len(saved) == failing:
            raise OutputError("No space left on device.")
        save(self, path)

    monkeypatch.setattr(Checkpoint, "save", full)
    with pytest.raises(OutputError):
        train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run")
    resume = (tmp_path / "run" / "last.pt").exists()
    assert resume == (failing == 2)
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run", resume=resume)
    assert [entry["epoch"] for entry in read_log(tmp_path / "run")] == [1, 2]


def test_the_best_checkpoint_is_there_after_a_kill_between_the_first_two(corpus, tmp_path):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    best = load_checkpoint(tmp_path / "run" / "best.pt").weights
    (tmp_path / "run" / "best.pt").unlink()
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run", resume=True)
    again = load_checkpoint(tmp_path / "run" / "best.pt").weights
    assert all(torch.equal(best[name], tensor) for name, tensor in again.items())


def test_a_training_is_not_resumed_with_other_utterances(corpus, tmp_path):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    with pytest.raises(ConfigError, match=r"was begun with other utterances than these 36.*--init-from"):
        train(recipe(tmp_path, epochs=2), [corpus, corpus], [corpus], tmp_path / "run", resume=True)
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)


def test_nor_with_other_texts_of_the_same_recordings(corpus, tmp_path):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    lines = [json.loads(line) for line in corpus.read_text().split("\n")]
    lines[3]["text"] = lines[3]["text"][::-1] + "a"
    (corpus.parent / "other.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ConfigError, match="was begun with other utterances than these 18"):
        train(recipe(tmp_path, epochs=2), [corpus.parent / "other.jsonl"], [corpus], tmp_path / "run", resume=True)


def test_nor_validated_with_others(corpus, tmp_path):
    """Its results would be compared with those of before."""
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    with pytest.raises(ConfigError, match=r"was begun with other utterances than these 36.*for validation"):
        train(recipe(tmp_path, epochs=2), [corpus], [corpus, corpus], tmp_path / "run", resume=True)


def test_batch_norm_needs_statistics_from_somewhere(corpus, tmp_path):
    resting = recipe(tmp_path, "norm_frozen_from=0.0", epochs=1)
    with pytest.raises(ConfigError, match=r"norm_frozen_from is 0 and the weights are random.*--init-from"):
        train(resting, [corpus], [corpus], tmp_path / "run")
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "first")
    train(resting, [corpus], [corpus], tmp_path / "run", init_from=tmp_path / "first/last.pt")
    train(
        recipe(tmp_path, "norm_frozen_from=0", "model.batch_norm=false", epochs=1), [corpus], [corpus], tmp_path / "b"
    )


def test_a_manifest_that_is_there_twice_is_no_more_speech(corpus, tmp_path):
    for name, manifests in (("once", [corpus]), ("twice", [corpus, corpus])):
        train(recipe(tmp_path, epochs=1), manifests, [corpus], tmp_path / name)
    once, twice = (load_checkpoint(tmp_path / name / "last.pt").metadata.provenance for name in ("once", "twice"))
    assert once.audio_hours == twice.audio_hours > 0


def test_a_loss_that_is_no_number_is_never_the_best(corpus, tmp_path, monkeypatch):
    losses = iter([math.nan, 9.0, 8.0])
    monkeypatch.setattr(Validation, "result", lambda *_: next(losses))
    train(recipe(tmp_path, "selection.by=loss", epochs=3), [corpus], [corpus], tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "best.pt").metadata.provenance.epochs == 3


def test_a_training_stopped_before_its_first_checkpoint_begins_anew(corpus, tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training.trainer.Training, "learn_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log.jsonl", "recipe.toml"]
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    assert (tmp_path / "run/last.pt").exists()


def test_contradictory_and_impossible_calls(corpus, tmp_path):
    plain = recipe(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        train(plain, [corpus], [corpus], tmp_path / "file/run")
    (tmp_path / "gone.jsonl").write_text(json.dumps({"audio_filepath": "no.wav", "duration": 9, "text": "a"}))
    with pytest.raises(ManifestError, match=r"1 of 1 recordings do not exist, the first is .*no\.wav"):
        train(plain, [tmp_path / "gone.jsonl"], [corpus], tmp_path / "run")
    (corpus.parent / "short.jsonl").write_text(json.dumps({"audio_filepath": "0.wav", "duration": 0.05, "text": "abc"}))
    with pytest.raises(ManifestError, match="long enough"):
        train(plain, [corpus.parent / "short.jsonl"], [corpus], tmp_path / "run")


def test_utterances_too_short_for_their_text_are_left_out_and_reported(corpus, tmp_path, capsys):
    first = json.loads(corpus.read_text().splitlines()[0])
    crowded = json.dumps({**first, "text": "abc" * 40})
    (corpus.parent / "crowded.jsonl").write_text(corpus.read_text() + "\n" + crowded + "\n")
    train(recipe(tmp_path, epochs=1), [corpus.parent / "crowded.jsonl"], [corpus], tmp_path / "run")
    assert "Left out 1 of 19 training utterances" in capsys.readouterr().err


@pytest.mark.parametrize(("half_s", "warned"), [([3.0, 2.0], True), ([3.0, 0.5], False)])
def test_a_processor_that_is_slow_at_bf16_is_named(corpus, tmp_path, capsys, monkeypatch, half_s, warned):
    """Instructions for it do not make it fast, so products are timed: of several the quickest."""
    seconds = {torch.float32: [2.0, 1.0], torch.bfloat16: half_s}
    monkeypatch.setattr(training.precision, "products_s", seconds.__getitem__)
    threads = torch.get_num_threads()
    train(recipe(tmp_path, "precision=bf16", epochs=1), [corpus], [corpus], tmp_path / "half", device="cpu")
    assert torch.get_num_threads() == threads
    assert ("multiplies bf16 no faster than fp32" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(("precision", "may_skip"), [("bf16", 0), ("fp16", 8)])
def test_half_precision_learns_as_float32_does(corpus, tmp_path, recwarn, precision, may_skip):
    train(recipe(tmp_path, epochs=8), [corpus], [corpus], tmp_path / "fp32")
    train(recipe(tmp_path, f"precision={precision}", epochs=8), [corpus], [corpus], tmp_path / "half")
    whole, half = read_log(tmp_path / "fp32"), read_log(tmp_path / "half")
    assert half[-1]["skipped_steps"] <= may_skip  # fp16 finds its loss scale by overflowing at first
    assert abs(half[-1]["loss"] - whole[-1]["loss"]) < 0.1 * whole[0]["loss"]
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]


def test_full_disk_keeps_the_last_checkpoint(corpus, tmp_path, monkeypatch):
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    before = (tmp_path / "run/last.pt").read_bytes()

    def full(content, path):
        path.write_bytes(b"half a checkpoint")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="no space left"):
        load_checkpoint(tmp_path / "run/last.pt").save(tmp_path / "run/last.pt")
    assert (tmp_path / "run/last.pt").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["best.pt", "last.pt", "log.jsonl", "recipe.toml"]


def test_ctc_loss_against_all_paths():
    """-ln of the summed probability of every path that collapses to the text (Graves et al. 2006)."""
    import itertools

    rng = np.random.default_rng(0)
    log_probs = torch.from_numpy(rng.standard_normal((2, 5, 3))).log_softmax(-1).float()  # (B, T, V), blank 1
    targets, lengths = [[0, 0], [2]], [5, 3]
    expected = []
    for row, target, length in zip(log_probs.double().numpy(), targets, lengths, strict=True):
        paths = itertools.product(range(3), repeat=length)
        good = [p for p in paths if [k for k, _ in itertools.groupby(p) if k != 1] == target]
        expected.append(-np.log(sum(np.exp(sum(row[t, label] for t, label in enumerate(p))) for p in good)))
    audio, samples = pad_batch([np.zeros(1, np.float32)] * 2)
    masks = torch.zeros(2, 0, 2, dtype=torch.int64)
    flat = torch.tensor([0, 0, 2])
    batch = Batch(
        torch.from_numpy(audio),
        torch.from_numpy(samples),
        flat,
        torch.tensor([2, 1]),
        masks,
        masks,
        torch.zeros(2),
        torch.arange(2),
        torch.zeros(2),
    )
    assert ctc_losses(log_probs, torch.tensor(lengths), batch, blank=1).tolist() == pytest.approx(expected, rel=1e-5)


def test_checkpoints_hold_plain_values_alone(corpus, tmp_path):
    """Everything resuming needs loads with weights_only=True, and nothing else is in there."""
    train(recipe(tmp_path, epochs=1), [corpus], [corpus], tmp_path / "run")
    content = torch.load(tmp_path / "run/last.pt", weights_only=True)
    assert set(content) == {"ds2", "weights", "training"}
    kept = {"learner", "position", "recipe", "set", "corpus", "valid_corpus", "batches", "teacher"}
    assert set(content["training"]) == kept


def test_other_labels_keep_the_network_and_what_both_alphabets_have(corpus, tmp_path, capsys):
    train(recipe(tmp_path), [corpus], [corpus], tmp_path / "first")
    other = recipe(tmp_path, "alphabet='cxab '", "optimizer.learning_rate=1e-30", epochs=1)  # it must not move
    train(other, [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
    assert f"Labels of {tmp_path / 'first/last.pt'}: 4 stay, new 'x'.\n" in capsys.readouterr().err
    old, new = (load_checkpoint(tmp_path / name / "last.pt") for name in ("first", "second"))
    assert new.metadata.alphabet.labels == ("<blank>", "c", "x", "a", "b", " ")
    for name in ("weight", "bias"):
        was, now = (checkpoint.weights[f"encoder.output.{name}"] for checkpoint in (old, new))
        torch.testing.assert_close(now[[0, 5, 3, 4, 1]], was, rtol=0, atol=0)  # blank, space, a, b, c
    learnt = "encoder.rnn.0.forward_rnn.weight_hh_l0"
    torch.testing.assert_close(new.weights[learnt], old.weights[learnt], rtol=0, atol=0)
    with pytest.raises(ConfigError, match="was begun with another alphabet"):
        train(recipe(tmp_path, "alphabet='abcx '"), [corpus], [corpus], tmp_path / "first", resume=True)


def test_what_is_learnt_and_validated_is_said(corpus, tmp_path, capsys):
    """By whichever name: of 18 recordings six are in both, two of them twice in validation."""
    lines = corpus.read_text().split("\n")
    (tmp_path / "link").symlink_to(corpus.parent)
    absolute = [line.replace('h": "', f'h": "{corpus.parent}/../{corpus.parent.name}/') for line in lines]
    for name, some in (("train", lines[:12]), ("valid", [*lines[6:], *absolute[6:8]])):
        (corpus.parent / f"{name}-half.jsonl").write_text("\n".join(some))
    halves = [tmp_path / "link" / "train-half.jsonl"], [corpus.parent / "valid-half.jsonl"]
    train(recipe(tmp_path), *halves, tmp_path / "run")
    said = capsys.readouterr().err
    assert f"6 of 12 validation recordings are in the training set, too, such as {corpus.parent}/10.wav: " in said
    assert "2 of 14 lines of the validation set name a recording again, which counts each time" in said
    (corpus.parent / "rest.jsonl").write_text("\n".join(lines[12:]))
    capsys.readouterr()
    train(recipe(tmp_path), [corpus.parent / "train-half.jsonl"], [corpus.parent / "rest.jsonl"], tmp_path / "apart")
    assert "validation" not in capsys.readouterr().err


def test_phonemes_from_words_and_what_no_dictionary_has(corpus, tmp_path, capsys):
    lines = [json.loads(line) for line in corpus.read_text().split("\n")]
    for line, text in zip(lines, ["a b", "qzxk", *["b"] * len(lines)], strict=False):
        line["text"] = text
    (corpus.parent / "words.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = corpus.parent / "words.jsonl"
    phonemes = recipe(tmp_path, "language=en-phonemes", "alphabet=''", "feature.hop_ms=5", epochs=1)
    train(phonemes, [words], [words], tmp_path / "run")
    said = capsys.readouterr().err
    assert "Left out 1 of 18 utterances; the first: " in said
    assert "'qzxk'" in said
    assert "PER" in said
    assert "WER" not in said
    assert len(load_checkpoint(tmp_path / "run/last.pt").metadata.alphabet) == 41
    assert read_log(tmp_path / "run")[0]["valid_distance"] > 0


@pytest.mark.parametrize("augment", [(), ("augment.silence_probability=1",), ("augment.joined_probability=1",)])
def test_durations_that_lie_are_reported_once(corpus, tmp_path, capsys, augment):
    lines = [json.loads(line) for line in corpus.read_text().split("\n")]
    lines[3]["duration"] = 9.0
    (corpus.parent / "lying.jsonl").write_text("\n".join(map(json.dumps, lines)))
    train(recipe(tmp_path, *augment, epochs=2), [corpus.parent / "lying.jsonl"], [corpus], tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("1 of 18 recordings are not as long as the manifest says") == 1
    assert "3.wav (9.0 s there)" in said


def test_batches_by_seconds_and_every_variation_train(corpus, tmp_path):
    noise = ["augment.noise_probability=1", f"augment.noise={corpus.parent}", "augment.reverb_probability=0.5"]
    noise += ["augment.silence_probability=0.5", "augment.joined_probability=0.3", "augment.joined=1"]
    features = ["augment.feature_noise=gumbel", "augment.time_masks=1", "batch_seconds=2.0", "workers=2"]
    settings = recipe(tmp_path, *noise, *features, epochs=3)
    train(settings, [corpus], [corpus], tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]


def test_an_alphabet_from_the_transcripts_covers_the_validation_set(corpus, tmp_path, capsys):
    """A character that only validation has can be an error, but it must not stop the training."""
    lines = [json.loads(line) for line in corpus.read_text().split("\n")]
    lines[0]["text"] = "axb"
    (corpus.parent / "valid.jsonl").write_text("\n".join(map(json.dumps, lines)))
    train(recipe(tmp_path, "alphabet=''", epochs=1), [corpus], [corpus.parent / "valid.jsonl"], tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.pt").metadata.alphabet.labels == ("<blank>", " ", "a", "b", "c", "x")
    said = capsys.readouterr().err
    texts = [json.loads(line)["text"] for line in corpus.read_text().split("\n")]
    counted = sorted((sum(label in text for text in texts), label) for label in " abc")
    assert f"first: {', '.join(f'{label!r} in {count}' for count, label in counted)}\n" in said
    assert "Of 5 labels, 1 are in validation texts alone, not learnt: 'x'\n" in said


def test_windows_do_not_hide_another_cell(corpus, tmp_path):
    train(recipe(tmp_path, "model.cell=lstm", epochs=1), [corpus], [corpus], tmp_path / "first")
    windows = recipe(tmp_path, "model.window=2", "model.window_context=3")
    with pytest.raises(ModelError, match="another model than the recipe's: cell 'lstm' there, 'gru' here"):
        train(windows, [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
