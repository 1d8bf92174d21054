"""Corpora, recipes, and batches that depend on nothing but their keys."""

import json
import pickle

import msgspec
import numpy as np
import pytest
import soundfile
import torch

from ds2_deploy.errors import AlphabetError, ConfigError, ManifestError
from ds2_deploy.manifest import read_manifest
from ds2_deploy.text.alphabet import ENGLISH, Alphabet
from tests.tiny import MODELS, tiny_metadata
from training.augment import Augmenter, followers
from training.corpus import Corpus, check_labels, ctc_fits, survey
from training.data import Speech, train_loader
from training.distributed import Processes
from training.recipe import RECIPES, AugmentConfig, Recipe, load_recipe, to_toml
from training.sampler import BatchSampler
from training.step import hide


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i, text in enumerate(["one two", "Three", "four  five six"]):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(16000 + 3000 * i), 16000)
        lines.append({"audio_filepath": f"{i}.wav", "duration": 1.0 + 3000 * i / 16000, "text": text})
    return write(tmp_path / "three.jsonl", lines)


@pytest.fixture
def utterances(manifest):
    return survey([manifest], "en", ENGLISH).corpus


def write(path, lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def test_examples_depend_on_seed_epoch_and_utterance_alone(utterances):
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    augment = AugmentConfig(speeds=(0.8, 0.9, 1.1, 1.25), time_masks=2, frequency_masks=2)
    dataset = Speech(utterances, metadata, Augmenter(augment, 16000), seed=4)
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
    batch = Speech(utterances, metadata, Augmenter(augment, 16000), seed=4)[[(0, 0), (0, 2)]]
    assert batch.lengths.tolist() == [16000, 22000]
    assert batch.time_masks.shape == (2, 0, 2)
    assert ENGLISH.decode(batch.targets.tolist()) == "one twofour five six"
    assert batch.target_lengths.tolist() == [7, 13]


@pytest.mark.parametrize(
    ("alphabet", "language", "between"),
    [
        (ENGLISH, "en", " "),
        (Alphabet.of((" ", *"enfghiorstuvwx")), "en", " "),
        (Alphabet.of("SIL W AH N T UW TH R IY F AO AY V S IH K".split()), "en-phonemes", " SIL "),
        (Alphabet.of("enfghiorstuvwx"), "en", ""),
    ],
)
def test_what_follows_an_utterance_is_heard_and_learnt_after_it(manifest, alphabet, language, between):
    found = survey([manifest], language, None).corpus
    if not between:  # as in Mandarin, where nothing parts words
        manifest.write_text(manifest.read_text().replace(" two", "two").replace("four  five six", "fourfivesix"))
        found = survey([manifest], language, None).corpus
    metadata = msgspec.structs.replace(tiny_metadata(MODELS["gru, two directions, 2d"]), alphabet=alphabet)
    augment = AugmentConfig(joined_probability=0.7, joined=2, pause_s=(0.25, 0.5))
    dataset, lengths = Speech(found, metadata, Augmenter(augment, 16000), seed=4), [16000, 19000, 22000]
    for epoch in range(1, 9):
        after = followers(augment, (4, epoch, 1), 3)
        batch, said = dataset[[(epoch, 1)]], (1, *after.indices)
        assert int(batch.lengths) == sum(lengths[i] for i in said) + sum(int(16000 * s) for s in after.pauses_s)
        assert alphabet.decode(batch.targets.tolist()) == between.join(found[i].text for i in said)
        assert batch.recorded_s.tolist() == [19000 / 16000]
    assert dataset[[(0, 1)]].lengths.tolist() == [19000]  # validation


def test_where_nothing_is_said_nothing_parts_words(manifest):
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[0]["text"] = ""
    found = survey([write(manifest, lines)], "en", ENGLISH).corpus
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    augment = AugmentConfig(joined_probability=1.0, joined=3)
    dataset, heard = Speech(found, metadata, Augmenter(augment, 16000), seed=4), set()
    for epoch in range(1, 20):
        said = [found[i].text for i in (1, *followers(augment, (4, epoch, 1), 3).indices)]
        text = ENGLISH.decode(dataset[[(epoch, 1)]].targets.tolist())
        assert text == " ".join(word for part in said for word in part.split())
        heard.add("" in said[:-1])
    assert heard == {True, False}


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
    fits = ctc_fits(metadata.feature, metadata.model)
    got = {d: fits(d, list(text)) for d in durations}
    assert got == {d: metadata.output_frames(round(d * 16000)) >= needed for d in durations}
    assert set(got.values()) == {True, False}


def test_alphabet_that_does_not_cover_the_transcripts(manifest):
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line, text in zip(lines, ("señor", "año 7", "fine"), strict=True):
        line["text"] = text
    with pytest.raises(AlphabetError, match="'ñ' in 2, '7' in 1 of 3 utterances"):
        check_labels(survey([write(manifest, lines)], "en", ENGLISH), ENGLISH)
    manifest.write_text(manifest.read_text().replace("fine", "\\ud800"))  # which JSON can write and UTF-8 cannot
    with pytest.raises(AlphabetError, match="'\ufffd' in 1"):
        check_labels(survey([manifest], "en", ENGLISH), ENGLISH)


def test_a_corpus_is_its_manifests_one_after_the_other(manifest, tmp_path):
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    (tmp_path / "below").mkdir()
    moved = [{**line, "audio_filepath": f"../{line['audio_filepath']}", "text": "çà\n"} for line in lines[:1]]
    other = write(tmp_path / "below/other.jsonl", moved)
    other.write_text("\n  \n" + other.read_text(encoding="utf-8"), encoding="utf-8")  # blank lines are nothing
    corpus = survey([manifest, other, manifest], "en", None).corpus
    expected = [*read_manifest(manifest), *read_manifest(other), *read_manifest(manifest)]
    texts = ["one two", "three", "four five six", "çà", "one two", "three", "four five six"]
    assert [(u.path.resolve(), u.duration_s, u.text) for u in corpus] == [
        (u.path.resolve(), u.duration_s, text) for u, text in zip(expected, texts, strict=True)
    ]
    assert corpus[-1] == corpus[6]
    assert corpus[2:4] == [corpus[2], corpus[3]]
    with pytest.raises(IndexError):
        corpus[7]
    assert corpus.hours == pytest.approx(sum(u.duration_s for u in expected) / 3600)


def test_a_corpus_travels_to_workers_as_numbers(manifest, tmp_path):
    lines = [json.loads(line) | {"text": "word " * 200} for line in manifest.read_text().splitlines()]
    long = write(tmp_path / "long.jsonl", lines * 300)
    corpus = survey([long], "en", ENGLISH).corpus
    sent = pickle.dumps(corpus)
    assert len(sent) < 20 * len(corpus) < long.stat().st_size / 40
    copy = pickle.loads(sent)
    assert isinstance(copy, Corpus)
    assert copy[899] == corpus[899]


def test_what_teaches_nothing_is_left_out_and_counted(manifest):
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[0]["duration"] = 0.1
    found = survey([write(manifest, lines)], "en", ENGLISH, lambda seconds, labels: seconds > 0.5)
    assert (len(found.corpus), found.short, found.unspoken) == (2, 1, 0)
    assert found.corpus[0].text == "three"
    assert found.tokens.keys() == set("three four five six")
    with pytest.raises(ManifestError, match="No utterance of the training set is long enough"):
        survey([manifest], "en", ENGLISH, lambda *_: False)


def test_recordings_that_are_not_there(manifest, tmp_path):
    (tmp_path / "1.wav").unlink()
    with pytest.raises(ManifestError, match=r"1 of 3 recordings do not exist, the first is .*1\.wav"):
        survey([manifest], "en", ENGLISH)


def test_a_manifest_that_changes_under_a_training_is_named(utterances, manifest):
    first, *others = manifest.read_text().splitlines()
    for content in ("\n" * 1000, "\n".join([first, *reversed(others)]).replace("four  five six", "Three")):
        manifest.write_text(content)
        with pytest.raises(ManifestError, match=r"three\.jsonl was changed during the training"):
            utterances[1]


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_workers_give_the_batches_of_none_however_they_start(utterances, start_method):
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    augment = AugmentConfig(speeds=(0.9, 1.1), time_masks=1, gain_db=(-6.0, 6.0), reverb_probability=0.7)
    dataset = Speech(utterances, metadata, Augmenter(augment, 16000), seed=4)
    settings = Recipe(name="test", batch_size=2, sorta_grad=False)
    alone, workers = (
        list(train_loader(dataset, BatchSampler(utterances.durations_s, settings, Processes()), count, method))
        for count, method in ((0, None), (2, start_method))
    )
    assert len(alone) == len(workers) == 2
    for one, other in zip(alone, workers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


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
        ("model.rnn_sizes=3", "model has no setting rnn_sizes; the nearest is rnn_size"),
        ("model.rnn_size=big", "model.rnn_size: Expected int, got str"),
        ("model.rnn_size=0", "model.rnn_size is 0"),
        ("selection.by=WER", "selection.by is 'WER': choose cer, loss, wer"),
        ("model.cell=transformer", "model.cell is 'transformer': choose gru, lstm, rnn, rnn_relu"),
        ("model.conv=[{chanels=1}]", r"model.conv\[0\] has no setting chanels; the nearest is channels"),
        ("epoch=3", "it has no setting epoch; the nearest is epochs"),
        ("optimizer.qqq=1", "there are clip_norm, learning_rate, momentum, name, weight_decay"),
        ("augment.snr_db=[1, 'a']", r"augment.snr_db\[1\]: Expected float, got str"),
        ("augment.speeds=[0.9", r"--set augment.speeds=\[0.9 is no TOML after the =: "),
        ("epochs.x=1", "epochs is a value"),
        ("epochs=0", "epochs is 0"),
        ("alphabet=aab", "twice"),
        ("model.lookahead=3", "sees the future"),
        ("feature.fft_size=100", "feature.fft_size is 100"),
        ("augment.speeds=[inf]", "augment.speeds is"),
        ("augment.time_masks=-1", "augment.time_masks is -1"),
        ("augment.joined_probability=2", "augment.joined_probability is 2"),
        ("augment.joined=0", "augment.joined is 0"),
        ("augment.gain_db=[-101, 0]", r"augment.gain_db is \(-101.0, 0.0\)"),
        ("augment.pause_s=[2, 1]", r"augment.pause_s is \(2.0, 1.0\)"),
        ("augment.consistency=-0.2", "augment.consistency is -0.2"),
        ("augment.consistency=inf", "augment.consistency is inf"),
        ("augment.windows=[[0, 3]]", r"augment.windows has \[0, 3\]: both must be at least 1, or both 0"),
        ("augment.windows=[[2, 0]]", r"augment.windows has \[2, 0\]"),
        ("augment.windows=[[-1, 3]]", r"augment.windows has \[-1, 3\]"),
        ("augment.windows=[[0, 0]]", "augment.windows is for a network whose backward direction"),
        ("augment.windows=[[2, 6]]", "augment.windows is for a network whose backward direction"),
        ("augment.noise_probability=0.5", "augment.noise is empty"),
        ("augment.time_mask_share=20", "augment.time_mask_share is 20"),
        ("language=de", "The language 'de' has no text normalisation: choose one of en"),
        ("augment.reverb_probability=1.5", "augment.reverb_probability is 1.5"),
        ("augment={reverb='', reverb_probability=1.0}", "augment.reverb is empty"),
        ("augment.snr_db=[20, 10]", r"augment.snr_db is \(20.0, 10.0\)"),
        ("augment.reverb_s=[0, 1]", r"augment.reverb_s is \(0.0, 1.0\)"),
        ("augment.feature_noise=pink", "augment.feature_noise is 'pink': choose gaussian, gumbel, none"),
        ("augment.feature_noise_deviation=-1", "feature_noise_deviation is -1"),
        ("augment.feature_noise_deviation=inf", "inf: it must be at least 0 and finite"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate is inf"),
        ("optimizer.weight_decay=nan", "optimizer.weight_decay is nan"),
        ("seed=-1", "seed is -1"),
        ("seed=9223372036854775808", r"seed is 9223372036854775808: it must be between 0 and 2\^63 - 1"),
        ("workers=1000", "workers is 1000"),
    ],
)
def test_bad_overrides(override, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe("an4", [override])


def test_drawn_windows_hold_those_of_the_network():
    with pytest.raises(ConfigError, match=r"augment.windows lacks \[2, 6\]"):
        load_recipe("streaming", ["augment.windows=[[1, 7], [0, 0]]"])


UNUSUAL = [
    'alphabet="a\'\\"\\\\\\t好"',
    "optimizer.learning_rate=1e-30",
    "teacher.model=m",
    "name='x y'",
    "model.dropout=1e-20",
]


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
@pytest.mark.parametrize("overrides", [[], UNUSUAL])
def test_a_recipe_survives_its_copy_for_a_run(tmp_path, name, overrides):
    recipe = load_recipe(name, overrides)
    (tmp_path / "copy.toml").write_text(to_toml(recipe))
    assert load_recipe(str(tmp_path / "copy.toml"), []) == recipe


def test_missing_and_broken_recipes(tmp_path):
    with pytest.raises(ConfigError, match="one of an4"):
        load_recipe("an5", [])
    (tmp_path / "x.toml").write_text("epochs = ")
    with pytest.raises(ConfigError, match=r"x\.toml"):
        load_recipe(str(tmp_path / "x.toml"), [])
