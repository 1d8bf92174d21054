"""Which recordings go through a model together: neighbours in length, so that little is padding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

WINDOW_BATCHES = 16
"""About so many batches' worth of recordings are sorted by length together: enough to find neighbours, few enough
that results flow."""
WINDOW_ITEMS = 256
"""And no more recordings than that, be they as short as they may."""

MAX_PADDING = 0.1
"""Of a batch of several: a GPU computes what is padded as well, and a recurrence takes as long as the longest."""

Item = TypeVar("Item")


def plan_batches(items: Iterable[tuple[Item, float]], batch_s: float, workers: int) -> Iterator[list[Item]]:
    """Items with their seconds in batches of at most `batch_s`, sorted by length within windows of WINDOW_BATCHES."""
    window: list[Item] = []
    durations_s: list[float] = []
    total_s = 0.0
    for item, duration_s in items:
        window.append(item)
        durations_s.append(duration_s)
        total_s += duration_s
        if total_s >= WINDOW_BATCHES * batch_s or len(window) == WINDOW_ITEMS:
            yield from _window_batches(window, durations_s, batch_s, workers)
            window, durations_s, total_s = [], [], 0.0
    yield from _window_batches(window, durations_s, batch_s, workers)


def _window_batches(window: list[Item], durations_s: list[float], batch_s: float, workers: int) -> Iterator[list[Item]]:
    limit_s = min(batch_s, sum(durations_s) / workers)  # a short list still feeds all workers
    for batch in length_batches(durations_s, limit_s):
        yield [window[i] for i in batch]


def length_batches(durations_s: Sequence[float], limit_s: float) -> list[list[int]]:
    """Indices in batches of similar duration, longest first; a batch of several lasts `limit_s` with padding, of which
    there is at most MAX_PADDING.

    >>> length_batches([3.0, 1.0, 9.0, 2.9, 2.8], 6.0)
    [[2], [0, 3], [4], [1]]
    """
    batches: list[list[int]] = []
    sound_s = 0.0  # of the last batch, without padding
    for index in sorted(range(len(durations_s)), key=lambda i: -durations_s[i]):
        padded_s = (len(batches[-1]) + 1) * durations_s[batches[-1][0]] if batches else 0.0
        if batches and padded_s <= limit_s and sound_s + durations_s[index] >= (1 - MAX_PADDING) * padded_s:
            batches[-1].append(index)
            sound_s += durations_s[index]
        else:
            batches.append([index])
            sound_s = durations_s[index]
    return batches
