"""What a message lists of many."""

from collections.abc import Sequence


def first_of(parts: Sequence[str], most: int, between: str = ", ") -> str:
    """The first `most` of them, and how many more there are."""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return between.join(parts[:most]) + more
