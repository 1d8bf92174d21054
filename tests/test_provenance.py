"""What a model says it has learnt from: manifests, and the hours of just these."""

import json

import msgspec
import pytest

from ds2_deploy.metadata import Provenance
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint
from tests.test_training_wiring import recipe
from training.provenance import Learnt
from training.trainer import train


def heard(names, hours):
    return Learnt(dict.fromkeys(names), hours)


@pytest.mark.parametrize(
    ("one", "other", "names", "hours"),
    [
        (("a", 1.0), ("b", 2.0), "ab", 3.0),
        (("ab", 3.0), ("b", 2.0), "ab", 3.0),
        (("b", 2.0), ("ab", 3.0), "ba", 3.0),
        (("ab", 3.0), ("ab", 3.0), "ab", 3.0),
        (("ab", 3.0), ("bc", 4.0), "abc", 0.0),  # nobody knows how much of it is b
        (("a", 0.0), ("b", 2.0), "ab", 0.0),  # a mean's
        (("a", 0.0), ("a", 2.0), "a", 2.0),
        (("ab", 0.0), ("a", 2.0), "ab", 0.0),
        (("", 0.0), ("a", 2.0), "a", 2.0),  # a model that says nothing
    ],
)
def test_hours_are_of_the_manifests_or_unknown(one, other, names, hours):
    both = heard(*one).plus(heard(*other))
    assert ("".join(both.manifests), both.hours) == (names, hours)


@pytest.fixture
def other_corpus(corpus, tmp_path):
    """Half of the tones under another name."""
    lines = [json.loads(line) for line in corpus.read_text().split("\n")][:9]
    path = tmp_path / "other" / "o.jsonl"
    path.parent.mkdir()
    path.write_text(
        "\n".join(json.dumps(e | {"audio_filepath": str(corpus.parent / e["audio_filepath"])}) for e in lines)
    )
    return path


def made(run):
    return load_checkpoint(run / "last.pt").metadata.provenance


def test_the_hours_of_earlier_trainings_and_the_teachers_count(corpus, other_corpus, tmp_path):
    settings = recipe(tmp_path)
    train(settings, [corpus], [corpus], tmp_path / "first")
    train(settings, [other_corpus], [corpus], tmp_path / "alone")
    begun = tmp_path / "first/last.pt"
    train(settings, [other_corpus], [corpus], tmp_path / "second", init_from=begun)
    first, alone, second = (made(tmp_path / name) for name in ("first", "alone", "second"))
    assert second.audio_hours > max(first.audio_hours, alone.audio_hours) > 0
    assert second.train == (*first.train, *alone.train)
    assert second.audio_hours == pytest.approx(first.audio_hours + alone.audio_hours, abs=1e-3)
    train(settings, [corpus], [corpus], tmp_path / "third", init_from=tmp_path / "second/last.pt")
    assert made(tmp_path / "third").audio_hours == second.audio_hours
    train(recipe(tmp_path, epochs=2), [other_corpus], [corpus], tmp_path / "second", resume=True)
    assert made(tmp_path / "second") == msgspec.structs.replace(
        second, epochs=2, valid_wer=made(tmp_path / "second").valid_wer, valid_cer=made(tmp_path / "second").valid_cer
    )
    taught = recipe(tmp_path, f"teacher.model={tmp_path / 'second/last.pt'}")
    train(taught, [corpus], [corpus], tmp_path / "taught", init_from=begun)
    assert made(tmp_path / "taught").audio_hours == second.audio_hours


def test_beginning_with_a_mean_leaves_the_hours_unknown(corpus, other_corpus, tmp_path):
    train(recipe(tmp_path), [corpus], [corpus], tmp_path / "first")
    first = load_checkpoint(tmp_path / "first/last.pt")
    mean = msgspec.structs.replace(first.metadata, provenance=Provenance(train=first.metadata.provenance.train))
    Checkpoint(metadata=mean, weights=first.weights).save(tmp_path / "mean.pt")
    train(recipe(tmp_path), [other_corpus], [corpus], tmp_path / "second", init_from=tmp_path / "mean.pt")
    assert made(tmp_path / "second").audio_hours == 0
