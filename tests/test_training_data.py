"""Batches: every utterance once, SortaGrad, sharding, augmentation that depends on nothing but its key."""

import json

import numpy as np
import pytest
import soundfile
import torch

from ds2_deploy.errors import AlphabetError, ConfigError, ManifestError
from ds2_deploy.text.alphabet import ENGLISH
from tests.tiny import MODELS, tiny_metadata
from training.data import BatchSampler, Speech, change_speed, draw_masks
from training.distributed import Processes
from training.manifest import Utterance, check_labels, fits_ctc, read_manifest, spelled
from training.recipe import AugmentConfig, Recipe, load_recipe
from training.step import hide

DURATIONS = np.random.default_rng(3).uniform(0.5, 9, 101)


def recipe(**fields):
    return Recipe(name="test", batch_size=8, **fields)


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_utterance_comes_once_over_all_processes(epoch, count):
    samplers = [BatchSampler(DURATIONS, recipe(), Processes(rank=r, count=count)) for r in range(count)]
    for sampler in samplers:
        sampler.epoch = epoch
    shares = [list(sampler) for sampler in samplers]
    assert len({len(share) for share in shares}) == 1  # as many steps everywhere
    for step in zip(*shares, strict=True):
        sizes = [len(batch) for batch in step]
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) <= 8
    seen = sorted(index for share in shares for batch in share for _, index in batch)
    assert seen == list(range(101))
    assert {e for share in shares for batch in share for e, _ in batch} == {epoch}


def test_sorta_grad_goes_from_short_to_long_once():
    sampler = BatchSampler(DURATIONS, recipe(), Processes())
    longest = [max(DURATIONS[index] for _, index in batch) for batch in sampler]
    assert longest == sorted(longest)
    sampler.epoch = 2
    longest = [max(DURATIONS[index] for _, index in batch) for batch in sampler]
    assert longest != sorted(longest)


def test_without_sorta_grad_the_first_epoch_is_shuffled():
    sampler = BatchSampler(DURATIONS, recipe(sorta_grad=False), Processes())
    longest = [max(DURATIONS[index] for _, index in batch) for batch in sampler]
    assert longest != sorted(longest)


def test_later_epochs_differ_and_stay_bucketed():
    sampler = BatchSampler(DURATIONS, recipe(), Processes())
    epochs = []
    for epoch in (2, 3):
        sampler.epoch = epoch
        epochs.append([frozenset(index for _, index in batch) for batch in sampler])
    assert set(epochs[0]) != set(epochs[1])  # other neighbours, not the same batches in another order
    padded = sum(len(batch) * max(DURATIONS[list(batch)]) for batch in epochs[0])
    assert padded < 1.25 * DURATIONS.sum()


@pytest.fixture
def utterances(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for i, text in enumerate(["one two", "three", "four five six"]):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(16000 + 3000 * i), 16000)
        made.append(Utterance(tmp_path / f"{i}.wav", 1.0 + 3000 * i / 16000, text))
    return made


def test_examples_depend_on_seed_epoch_and_utterance_alone(utterances):
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    augment = AugmentConfig(speeds=(0.8, 0.9, 1.1, 1.25), time_masks=2, frequency_masks=2)
    dataset = Speech(utterances, metadata, augment, seed=4)
    batch, again = dataset[[(2, 0), (2, 1)]], dataset[[(2, 1)]]
    length = int(again.lengths)
    assert int(batch.lengths[1]) == length
    assert torch.equal(batch.audio[1, :length], again.audio[0, :length])
    assert torch.equal(batch.time_masks[1], again.time_masks[0])
    others = [dataset[[(epoch, 1)]] for epoch in range(3, 9)]
    assert len({int(other.lengths) for other in others}) > 1
    assert any(not torch.equal(other.time_masks, again.time_masks) for other in others)


def test_validation_is_never_augmented(utterances):
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    augment = AugmentConfig(speeds=(0.5,), time_masks=2, frequency_masks=2)
    batch = Speech(utterances, metadata, augment, seed=4)[[(0, 0), (0, 2)]]
    assert batch.lengths.tolist() == [16000, 22000]
    assert batch.time_masks.shape == (2, 0, 2)
    assert ENGLISH.decode(batch.targets.tolist()) == "one twofour five six"
    assert batch.target_lengths.tolist() == [7, 13]


def test_speed_changes_length_and_pitch():
    rate, factor = 16000, 1.25
    tone = np.sin(2 * np.pi * 400 * np.arange(rate) / rate).astype(np.float32)
    fast = change_speed(tone, factor)
    assert abs(len(fast) - rate / factor) <= 1
    peak = np.abs(np.fft.rfft(fast * np.hanning(len(fast)))).argmax() * rate / len(fast)
    assert abs(peak - 400 * factor) < 2


@pytest.mark.parametrize("size", [0, 1, 5, 100])
def test_masks_stay_inside(size):
    rng = np.random.default_rng(1)
    masks = np.concatenate([draw_masks(rng, 3, size, 7) for _ in range(200)])
    widths = masks[:, 1] - masks[:, 0]
    assert masks.min() >= 0
    assert masks.max() <= size
    assert set(widths) == set(range(min(7, size) + 1))


def test_hidden_frames_and_bins_are_zero_and_others_stay():
    features = torch.rand(2, 6, 9) + 1
    time = torch.tensor([[[2, 4], [3, 6]], [[0, 0], [8, 9]]])
    bins = torch.tensor([[[0, 1]], [[5, 6]]])
    hidden = hide(features, time, bins, torch.tensor([[-3.0]]))
    expected = features.clone()
    expected[0, :, 2:6] = expected[0, 0] = expected[1, :, 8] = expected[1, 5] = -3.0
    assert torch.equal(hidden, expected)


@pytest.mark.parametrize(("text", "needed"), [("abc", 3), ("aab", 4), ("aaa", 5), ("", 1)])
def test_ctc_needs_a_frame_per_label_and_one_between_equal_ones(text, needed):
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    durations = [s / 16000 for s in range(0, 32000, 80) if metadata.output_frames(s) in (needed - 1, needed)]
    got = {d: fits_ctc(Utterance("x", d, text), metadata.feature, metadata.model, metadata.alphabet) for d in durations}
    assert got == {d: metadata.output_frames(round(d * 16000)) >= needed for d in durations}
    assert set(got.values()) == {True, False}


def test_manifest_paths_are_relative_to_it(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"audio_filepath": "a/b.wav", "duration": 1.5, "text": "Hello  WORLD", "speaker": "x"}) + "\n\n"
    )
    (utterance,), failures = spelled(read_manifest(tmp_path / "m.jsonl"), "en")
    assert not failures
    assert utterance == Utterance(tmp_path / "a/b.wav", 1.5, "hello world", "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no utterance"),
        ("{}\n", "line 1 has no field 'audio_filepath'"),
        ('{"audio_filepath": "a", "duration": 1, "text": "b"}\nnonsense\n', "line 2 is not JSON"),
        ('{"audio_filepath": "a", "duration": "long", "text": "b"}\n', "line 1 is not an object with"),
        ('{"audio_filepath": "a", "duration": -1, "text": "b"}\n', "duration at least 0"),
        ("[1]\n", "line 1 is not an object"),
        ("7\n", "line 1 is not an object"),
        ('{"audio_filepath": "a", "duration": 1e999, "text": "b"}\n', "duration at least 0"),
    ],
)
def test_bad_manifests(tmp_path, content, said):
    (tmp_path / "m.jsonl").write_text(content)
    with pytest.raises(ManifestError, match=said):
        read_manifest(tmp_path / "m.jsonl")


def test_missing_and_binary_manifests(tmp_path):
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(tmp_path / "m.jsonl")


def test_alphabet_that_does_not_cover_the_transcripts():
    texts = [Utterance("x", 1.0, text) for text in ("señor", "año 7", "fine")]
    with pytest.raises(AlphabetError, match="'ñ' in 2, '7' in 1 of 3 utterances"):
        check_labels(texts, ENGLISH)


def test_bundled_recipe_and_overrides():
    plain = load_recipe("an4", [])
    assert (plain.name, plain.epochs, plain.model.rnn_size, plain.feature.mel_bands) == ("an4", 75, 256, 80)
    changed = load_recipe("an4", ["model.rnn_size=64", "augment.speeds=[1.0]", "precision=bf16", "name = other"])
    assert (changed.model.rnn_size, changed.augment.speeds, changed.precision) == (64, (1.0,), "bf16")
    assert changed.model.conv == plain.model.conv


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.rnn_size", "has no '='"),
        ("model.size=3", "unknown field `size`"),
        ("model.rnn_size=big", "Expected `int`, got `str`"),
        ("model.rnn_size=0", "model.rnn_size is 0"),
        ("model.cell=transformer", "Invalid enum value 'transformer'"),
        ("epochs.x=1", "epochs is a value"),
        ("epochs=0", "epochs is 0"),
        ("alphabet=aab", "twice"),
        ("model.lookahead=3", "sees the future"),
        ("feature.fft_size=100", "feature.fft_size is 100"),
        ("augment.speeds=[inf]", "augment.speeds is"),
        ("augment.time_masks=-1", "augment.time_masks is -1"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate is inf"),
        ("optimizer.weight_decay=nan", "optimizer.weight_decay is nan"),
        ("seed=-1", "seed is -1"),
        ("workers=1000", "workers is 1000"),
    ],
)
def test_bad_overrides(override, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe("an4", [override])


def test_missing_and_broken_recipes(tmp_path):
    with pytest.raises(ConfigError, match="one of an4"):
        load_recipe("an5", [])
    (tmp_path / "x.toml").write_text("epochs = ")
    with pytest.raises(ConfigError, match=r"x\.toml"):
        load_recipe(str(tmp_path / "x.toml"), [])
