"""Which recordings go through a model together: neighbours in length, so that little is padding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

WINDOW_BATCHES = 16
"""About so many batches' worth of recordings are sorted by length together: enough to find neighbours, few enough
that results flow."""
WINDOW_ITEMS = 256
"""And no more recordings than that, be they as short as they may."""

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
    """Indices in batches of similar duration, longest first; a batch of several lasts `limit_s` with padding.

    >>> length_batches([3.0, 1.0, 9.0, 2.0], 6.0)
    [[2], [0, 3], [1]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(durations_s)), key=lambda i: -durations_s[i]):
        if batches and (len(batches[-1]) + 1) * durations_s[batches[-1][0]] <= limit_s:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
