"""A network taught by another one: what it costs, who learns, when it answers, and which teachers there cannot be."""

import msgspec
import pytest
import torch

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.errors import ConfigError
from ds2_deploy.metadata import Provenance
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint
from ds2_deploy.text.alphabet import Alphabet
from tests.tiny import MODELS, tiny_metadata, tiny_model
from tests.tones import recipe
from training.augment import Augmenter
from training.corpus import survey
from training.data import Speech
from training.recipe import AugmentConfig, TeacherConfig
from training.run_folder import read_log
from training.step import TrainingStep
from training.teacher import Teacher
from training.trainer import train

MASKS = {"time_masks": 2, "time_mask_frames": 30, "time_mask_share": 0.9, "frequency_masks": 1}
RUNNING = FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512, normalization="running", tail_ms=90.0)
LEARNER = tiny_metadata(MODELS["gru, two directions by windows, 2d"], RUNNING)
TEACHER = tiny_metadata(MODELS["gru, two directions, 2d"])
"""It hears the whole recording, with a front end of its own."""


def teaching(**settings):
    return Teacher(TeacherConfig(model="tiny", share=0.3, **settings), tiny_model(TEACHER), "fp32")


def spoken(corpus, config):
    """Two utterances of different length."""
    augmenter = Augmenter(config, LEARNER.feature.sample_rate)
    return Speech(survey([corpus], "en", None).corpus, LEARNER, augmenter, seed=7)[[(1, 3), (1, 0)]]


@torch.no_grad()
def test_a_teacher_hears_what_is_shorter_than_its_window(corpus):
    """Which a learner with a tail can do without padding."""
    assert LEARNER.min_samples < TEACHER.min_samples
    batch = spoken(corpus, AugmentConfig())
    short = batch._replace(audio=batch.audio[:, : LEARNER.min_samples], lengths=torch.tensor([1, 0]))
    answers, frames = teaching().answers(short)
    assert (len(answers), frames.tolist()) == (2, [TEACHER.output_frames(n) for n in (1, 0)])


@pytest.mark.parametrize("later", [0, 2, 45, 99], ids="{} frames later".format)
@torch.no_grad()
def test_the_loss_is_of_the_transcript_and_of_what_the_teacher_hears(corpus, later):
    """By PyTorch's own divergence, frame by frame; the learner hears what the masks leave and a tail, the teacher
    everything."""
    learner, teacher, config = tiny_model(LEARNER), teaching(later_frames=later), AugmentConfig(**MASKS)
    batch = spoken(corpus, config)
    heard, kept = [], learner.encoder.forward
    learner.encoder.forward = lambda *inputs: heard.append(kept(*inputs)) or heard[-1]
    ctc = TrainingStep(learner, "fp32", config)(batch)
    learner.encoder.forward = kept
    [(logits, lengths)] = heard
    answers, frames = teacher.model(batch.audio, batch.lengths)
    tail = lengths - frames
    assert 0 < tail.min() <= tail.max() < 45
    shorter, longer = sorted(lengths.tolist())
    assert 2 < shorter < 45 < longer < 99
    apart = torch.zeros(2)
    for row, (end, taught) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        for frame in range(later, min(end, taught + later)):
            said, asked = logits[row, frame].log_softmax(-1), answers[row, frame - later]
            apart[row] += torch.nn.functional.kl_div(said, asked, reduction="sum", log_target=True)
    assert [distance > 1e-2 for distance in apart] == [later < end for end in lengths]
    found = TrainingStep(learner, "fp32", config, teacher)(batch)
    torch.testing.assert_close(found, 0.7 * ctc + 0.3 * apart, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_both_of_two_views_are_taught(corpus):
    """What each costs alone, in the mean; how far they are apart costs as much as without a teacher."""
    learner, teacher, config = tiny_model(LEARNER), teaching(later_frames=2), AugmentConfig(**MASKS, consistency=0.2)
    batch = spoken(corpus, config)
    time, frequency = batch.time_masks, batch.frequency_masks
    views = [
        batch._replace(time_masks=time[:, 2 * n :][:, :2], frequency_masks=frequency[:, n:][:, :1]) for n in (0, 1)
    ]
    alone, taught = (
        [TrainingStep(learner, "fp32", AugmentConfig(), by)(view) for view in views] for by in (None, teacher)
    )
    assert ((taught[0] - taught[1]).abs() > 1e-2).all()
    apart = TrainingStep(learner, "fp32", config)(batch) - sum(alone) / 2
    found = TrainingStep(learner, "fp32", config, teacher)(batch)
    torch.testing.assert_close(found, sum(taught) / 2 + apart, rtol=1e-5, atol=1e-5)


def test_the_learner_learns_and_the_teacher_does_not(corpus):
    config, teacher = AugmentConfig(**MASKS), teaching()
    step = TrainingStep(tiny_model(LEARNER), "fp32", config, teacher).train()
    step(spoken(corpus, config)).sum().backward()
    assert all(parameter.grad is not None for parameter in step.parameters())
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert not any(module.training for module in teacher.model.modules())


@torch.no_grad()
def test_a_teacher_answers_in_the_precision_of_the_training(corpus):
    batch, teacher = spoken(corpus, AugmentConfig()), teaching()
    half = Teacher(teacher.config, teacher.model, "bf16")
    expected, answers = teacher.answers(batch)[0], half.answers(batch)[0]
    assert answers.dtype == torch.float32
    assert 1e-5 < (answers - expected).abs().max() < 0.1


def test_what_a_teacher_answers_is_in_its_fingerprint():
    """Windows and statistics have no weights."""
    weights = tiny_model(LEARNER).state_dict()
    features = msgspec.structs.replace(RUNNING, running_s=3.0)
    windows = msgspec.structs.replace(LEARNER.model, window=4)
    statistics = msgspec.structs.replace(LEARNER.statistics, mean=tuple(m + 1 for m in LEARNER.statistics.mean))
    fingerprints = set()
    for change in ({}, {"feature": features}, {"model": windows}, {"statistics": statistics}):
        model = Checkpoint(metadata=msgspec.structs.replace(LEARNER, **change), weights=weights).model()
        fingerprints.add(Teacher(TeacherConfig(model="tiny"), model, "fp32").fingerprint)
    assert len(fingerprints) == 4


def test_a_network_has_nothing_to_learn_from_itself(corpus, tmp_path):
    """With a share of 1 transcripts do not count, and the only loss is what the two hear differently."""
    train(recipe(tmp_path), [corpus], [corpus], tmp_path / "first")
    first = tmp_path / "first/last.pt"
    settings = [f"teacher.model={first}", "teacher.share=1.0", "norm_frozen_from=0", "optimizer.learning_rate=1e-30"]
    itself = recipe(tmp_path, *settings)  # Adam would make steps of rounding errors
    train(itself, [corpus], [corpus], tmp_path / "second", init_from=first)
    assert read_log(tmp_path / "second")[1]["loss"] == pytest.approx(0, abs=1e-4)
    anew = msgspec.structs.replace(itself, norm_frozen_from=1.0)
    train(anew, [corpus], [corpus], tmp_path / "third")  # from random weights
    assert read_log(tmp_path / "third")[0]["loss"] > 0.1
    assert set(load_checkpoint(tmp_path / "third/last.pt").weights) == set(load_checkpoint(first).weights)


@torch.no_grad()
def first_frames(model, corpus):
    """Of every utterance, the letters that the network says, and the frame of each."""
    dataset = Speech(survey([corpus], "en", None).corpus, model.metadata, None, seed=7)
    found = []
    for i in range(18):
        batch = dataset[[(0, i)]]
        best = model(batch.audio, batch.lengths)[0][0].argmax(dim=-1).tolist()
        before = [0, *best[:-1]]
        found.append([(label, t) for t, label in enumerate(best) if label and label != before[t]])
    return found


def test_a_network_learns_to_answer_later(corpus, reading, tmp_path, capsys):
    """Two frames, as it is told, having begun with weights that answer at once."""
    early = reading / "last.pt"
    teacher = [f"teacher.model={early}", "teacher.later_frames=2"]
    train(recipe(tmp_path, *teacher, epochs=20), [corpus], [corpus], tmp_path / "late", init_from=early)
    assert f"Teacher: {early}, with a share of 0.5 in the loss; answers come 2 frames after" in capsys.readouterr().err
    one, other = (first_frames(load_checkpoint(path).model(), corpus) for path in (early, tmp_path / "late/last.pt"))
    same = [pair for pair in zip(one, other, strict=True) if len({tuple(k for k, _ in said) for said in pair}) == 1]
    assert len(same) >= 15  # the others hear a letter more or less
    lags = [late - early for pair in same for (_, early), (_, late) in zip(*pair, strict=True)]
    assert sum(lag == 2 for lag in lags) > 0.7 * len(lags)


def test_a_network_has_heard_of_what_its_teacher_learnt_from(corpus, tmp_path):
    train(recipe(tmp_path), [corpus], [corpus], tmp_path / "first")
    first = load_checkpoint(tmp_path / "first/last.pt")
    metadata = msgspec.structs.replace(first.metadata, provenance=Provenance(train=("elsewhere/read.jsonl",)))
    Checkpoint(metadata=metadata, weights=first.weights).save(tmp_path / "teacher.pt")
    train(recipe(tmp_path, f"teacher.model={tmp_path / 'teacher.pt'}"), [corpus], [corpus], tmp_path / "run")
    heard = load_checkpoint(tmp_path / "run/last.pt").metadata.provenance.train
    assert heard == ("elsewhere/read.jsonl", f"{corpus.parent.name}/m.jsonl")


def test_a_training_goes_on_with_the_teacher_it_began_with(corpus, tmp_path):
    train(recipe(tmp_path), [corpus], [corpus], tmp_path / "first")
    first = load_checkpoint(tmp_path / "first/last.pt")
    first.save(tmp_path / "teacher.pt")
    taught = f"teacher.model={tmp_path / 'teacher.pt'}"
    train(recipe(tmp_path, taught), [corpus], [corpus], tmp_path / "run")
    train(recipe(tmp_path, taught, epochs=2), [corpus], [corpus], tmp_path / "run", resume=True)
    assert len(read_log(tmp_path / "run")) == 2
    with pytest.raises(ConfigError, match="was begun with another teacher"):
        train(recipe(tmp_path, epochs=3), [corpus], [corpus], tmp_path / "run", resume=True)
    first.weights["encoder.output.bias"] += 0.1
    first.save(tmp_path / "teacher.pt")
    with pytest.raises(ConfigError, match=r"was begun when the teacher .*teacher\.pt was another one"):
        train(recipe(tmp_path, taught, epochs=3), [corpus], [corpus], tmp_path / "run", resume=True)
    assert len(read_log(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['alphabet=" abcd"'], "has other labels than the recipe"),
        (["feature.sample_rate=8000"], "hears audio at 16000 Hz, the recipe at 8000 Hz"),
        (["model.conv=[{channels=4, kernel=[5, 5], stride=[2, 1]}]"], "has frames of 20 ms, the recipe of 10 ms"),
        (["feature.center=true"], "makes other numbers of frames of the same recordings"),
    ],
    ids=["labels", "rate", "frames", "numbers"],
)
def test_a_teacher_must_answer_in_the_learners_labels_and_frames(tmp_path, settings, message):
    plain = recipe(tmp_path)
    alphabet = Alphabet.of(plain.alphabet)
    metadata = tiny_metadata(plain.model, plain.feature)
    metadata = msgspec.structs.replace(metadata, alphabet=alphabet)
    Checkpoint(metadata=metadata, weights=tiny_model(metadata).state_dict()).save(tmp_path / "teacher.pt")
    teacher = f"teacher.model={tmp_path / 'teacher.pt'}"
    assert Teacher.of(recipe(tmp_path, teacher), alphabet)
    other = recipe(tmp_path, teacher, *settings)
    with pytest.raises(ConfigError, match=message):
        Teacher.of(other, Alphabet.of(other.alphabet))


def test_a_teacher_that_is_not_there_is_one_sentence(corpus, tmp_path):
    taught = recipe(tmp_path, f"teacher.model={tmp_path / 'none.pt'}")
    with pytest.raises(ConfigError, match=r"teacher\.model cannot be used: There is no checkpoint .*none\.pt"):
        train(taught, [corpus], [corpus], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["teacher.share=0.0"], "teacher.share is 0.0: it must be above 0 and at most 1"),
        (["teacher.share=1.5"], "teacher.share is 1.5: it must be above 0 and at most 1"),
        (["teacher.share=nan"], "teacher.share is nan: it must be above 0 and at most 1"),
        (["teacher.share=1.0", "teacher.later_frames=1"], "with later_frames it must be below 1"),
        (["teacher.later_frames=-1"], "teacher.later_frames is -1: it must be between 0 and 100"),
        (["teacher.later_frame=1"], "teacher has no setting later_frame; the nearest is later_frames"),
    ],
)
def test_settings_of_a_teacher(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        recipe(tmp_path, "teacher.model=default", *settings)


def test_a_share_without_a_teacher(tmp_path):
    with pytest.raises(ConfigError, match="teacher needs model"):
        recipe(tmp_path, "teacher.share=0.3")
