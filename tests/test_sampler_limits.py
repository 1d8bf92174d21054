"""What a batch may hold beyond `batch_size`, as the recipe's documentation has it."""

import numpy as np
import pytest

from training.distributed import Processes
from training.recipe import Recipe
from training.sampler import BatchSampler


@pytest.mark.parametrize(("count", "size"), [(2, 2), (3, 3), (3, 4), (4, 4)])
@pytest.mark.parametrize("utterances", range(4, 24))
def test_the_shortest_batch_alone_is_larger_and_holds_fewer_than_two_for_each_process(count, size, utterances):
    settings = Recipe(name="test", batch_size=size, batch_seconds=100.0)
    batches = BatchSampler(np.ones(utterances), settings, Processes(count=count)).batches()
    sizes = list(map(len, batches))
    assert min(sizes) >= count  # each process has one
    assert sizes[0] < max(2 * count, size + 1)
    assert max(sizes[1:], default=0) <= size
    assert sizes[0] <= size or utterances // count < -(-utterances // size)  # one batch more would lack some
