"""Draws that follow from keys: none is another's, and many at once are those of each alone."""

import itertools

import numpy as np
import pytest

import training.sampler
from training.augment import followers, silence_s
from training.distributed import Processes
from training.draws import Draw, generator, seed_of, uniform_rows
from training.recipe import AugmentConfig, Recipe
from training.sampler import BatchSampler


def test_no_key_gives_the_draws_of_another():
    """NumPy fills a key up with zeros, so an epoch's order was the first utterance's variation."""
    assert np.random.default_rng((7, 2)).uniform() == np.random.default_rng((7, 2, 0, 0)).uniform()
    keys = [(7, *rest) for length in range(4) for rest in itertools.product(range(3), repeat=length)]
    drawn = {generator(*key, of=draw).uniform() for key in keys for draw in Draw}
    assert len(drawn) == len({seed_of(*key, of=draw) for key in keys for draw in Draw}) == len(keys) * len(Draw)


@pytest.mark.parametrize("columns", [1, 3, 4, 5, 9])
def test_a_row_is_the_same_alone_and_among_others(columns):
    together = uniform_rows((7, 2, 0), Draw.SILENCE, 50, columns)
    assert together.shape == (50, columns)
    for first, rows in ((0, 1), (1, 1), (49, 1), (13, 20)):
        alone = uniform_rows((7, 2, first), Draw.SILENCE, rows, columns)
        assert np.array_equal(alone, together[first : first + rows])
    assert not np.isin(together, uniform_rows((7, 3, 0), Draw.SILENCE, 50, columns)).any()
    assert not np.isin(together, uniform_rows((7, 2, 0), Draw.FOLLOWERS, 50, columns)).any()


def test_rows_are_uniform():
    drawn = uniform_rows((7, 2, 0), Draw.FOLLOWERS, 20_000, 6)
    counts = np.array([np.histogram(column, 10, (0, 1))[0] for column in drawn.T])
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(1800)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 0.04


@pytest.mark.parametrize("together", [1, 7, 1000])
def test_batches_know_the_length_that_each_utterance_will_have(monkeypatch, together):
    monkeypatch.setattr(training.sampler, "AT_ONCE", together)
    augment = AugmentConfig(silence_probability=0.5, joined_probability=0.5, joined=3)
    durations = np.random.default_rng(0).uniform(1, 9, 30)
    sampler = BatchSampler(durations, Recipe(name="test", seed=5, augment=augment), Processes())
    expected = []
    for index in range(30):
        after = followers(augment, (5, 2, index), 30)
        expected.append(
            sum(silence_s(augment, (5, 2, index))) + sum(after.pauses_s) + sum(durations[i] for i in after.indices)
        )
    assert sampler._added_s(2) == pytest.approx(expected)
    assert 0 < np.count_nonzero(expected) < 30
