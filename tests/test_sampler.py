"""Which utterances come together: each once an epoch, from short to long in the first, shared by processes."""

import itertools

import numpy as np
import pytest

from ds2_deploy.errors import ConfigError
from training.augment import Augmenter, followers, one_after_the_other
from training.distributed import Processes
from training.recipe import AugmentConfig, Recipe
from training.sampler import BatchSampler

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


@pytest.mark.parametrize("limit", [None, 60.0])
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig(silence_probability=0.3, silence_s=(0.0, 4.0)),
        AugmentConfig(joined_probability=0.4, joined=2, pause_s=(0.05, 4.0)),
        AugmentConfig(silence_probability=0.3, joined_probability=0.4, joined=2),
    ],
)
def test_batches_are_even_with_what_is_around_and_after_utterances(epoch, limit, augment):
    """Of the lengths that the augmenter gives them: hardly more padding than without."""
    settings = recipe(augment=augment, batch_seconds=limit)
    sampler, augmenter = BatchSampler(DURATIONS, settings, Processes()), Augmenter(augment, 100)
    sampler.epoch = epoch
    padded = total = 0.0
    for batch in sampler:
        heard = []
        for _, index in batch:
            key = (settings.seed, epoch, index)
            after = followers(augment, key, len(DURATIONS))
            said = [np.ones(int(100 * DURATIONS[i]), np.float32) for i in (index, *after.indices)]
            audio = one_after_the_other(said, after.pauses_s, 100, key)
            heard.append(len(augmenter.vary(audio, key, 8, int).audio) / 100)
        padded, total = padded + len(heard) * max(heard), total + sum(heard)
        assert limit is None or len(heard) * max(heard) <= limit
    assert total > DURATIONS.sum() + 30
    assert padded < 1.25 * total


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seconds", [3.0, 20.0, 33.3, 1000.0])
def test_batches_by_seconds_lose_nothing_and_keep_their_limits(epoch, count, seconds):
    settings = recipe(batch_seconds=seconds)
    samplers = [BatchSampler(DURATIONS, settings, Processes(rank=r, count=count)) for r in range(count)]
    for sampler in samplers:
        sampler.epoch = epoch
    batches = samplers[0].batches()
    assert sorted(np.concatenate(batches)) == list(range(101))
    assert sorted(i for sampler in samplers for batch in sampler for _, i in batch) == list(range(101))
    over = 0
    for batch in batches:
        padded = len(batch) * max(DURATIONS[batch])
        assert count <= len(batch) <= 8
        over += padded > seconds and len(batch) > count
    assert over <= (len(batches) == 101 // count)  # one, where even the fewest utterances a batch leave some over
    longest = [max(DURATIONS[batch]) for batch in batches]
    assert (longest == sorted(longest)) == (epoch == 1)


def test_the_last_batch_takes_no_more_than_it_needs():
    """Eight utterances of 19.2 s and one of 9 s for two processes: halves would be of 36 s."""
    durations = np.array([2.4] * 8 + [9.0])
    batches = BatchSampler(durations, recipe(batch_seconds=20.0), Processes(count=2)).batches()
    assert [batch.tolist() for batch in batches] == [[*range(7)], [7, 8]]


def test_only_what_no_batch_can_do_without_exceeds_the_limits():
    """An utterance for each process; and, where there are too few for so many batches, what is over."""
    rng = np.random.default_rng(5)
    for _ in range(500):
        count, seconds = int(rng.integers(1, 5)), float(rng.uniform(5, 60))
        size = int(rng.integers(count, 20))
        durations = rng.uniform(0.3, rng.uniform(1, 15), int(rng.integers(count, 60)))
        settings = Recipe(name="test", batch_size=size, batch_seconds=seconds)
        batches = BatchSampler(durations, settings, Processes(count=count)).batches()
        assert sorted(np.concatenate(batches)) == list(range(len(durations)))
        for place, batch in enumerate(batches):
            within = len(batch) <= size and len(batch) * max(durations[batch]) <= seconds
            over = place == 0 and len(batches) == len(durations) // count and len(batch) < 2 * count
            assert len(batch) >= count
            assert within or len(batch) == count or over


def test_batches_by_seconds_are_as_full_as_they_can_be():
    sampler = BatchSampler(DURATIONS, Recipe(name="test", batch_size=1000, batch_seconds=30.0), Processes())
    batches = sampler.batches()
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * DURATIONS[following[0]] > 30.0


def test_an_epoch_has_as_many_batches_as_the_schedule_counts():
    """A sorted one has fewer, whose neighbours are of one length: nothing would be learnt in the last epochs."""
    durations = np.random.default_rng(3).uniform(0.5, 9, 2000)
    sampler = BatchSampler(durations, Recipe(name="test", batch_size=1000, batch_seconds=60.0), Processes())
    assert len(sampler) < 0.97 * sampler.typical
    sampler.epoch = 2
    assert len(sampler) == sampler.typical
    sampler.epoch = 3
    assert len(sampler) == pytest.approx(sampler.typical, rel=0.01)


def test_batches_are_known_again():
    """With batch_seconds as many processes make the same ones, more of them may not."""
    alone, again, several = (
        BatchSampler(DURATIONS, recipe(batch_seconds=9.0), Processes(count=count)) for count in (1, 1, 4)
    )
    assert alone.fingerprint == again.fingerprint != several.fingerprint
    again.epoch = 2
    assert alone.fingerprint != again.fingerprint


def test_an_epoch_goes_on_where_it_was():
    sampler = BatchSampler(DURATIONS, recipe(), Processes())
    sampler.epoch = 2
    whole = list(sampler)
    sampler.start = 5
    assert list(sampler) == whole[5:]


def test_fewer_utterances_than_processes():
    with pytest.raises(ConfigError, match="A batch of 2 utterances cannot be shared by 3 processes"):
        BatchSampler([1.0, 2.0], recipe(), Processes(count=3))
    with pytest.raises(ConfigError, match="cannot be shared"):
        BatchSampler([1.0, 2.0], recipe(batch_seconds=9.0), Processes(count=3))
