"""What numbers a setting may be, and the sentence about one that it may not be."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

from ds2_deploy.errors import ConfigError


class Range(NamedTuple):
    holds: Callable[[float], bool]
    """By comparisons that are true, so never of NaN."""
    words: str


def at_least(least: float) -> Range:
    return Range(lambda x: x >= least, f"at least {least:g}")


def between(least: float, most: float) -> Range:
    return Range(lambda x: least <= x <= most, f"between {least:g} and {most:g}")


SHARE = between(0, 1)
POSITIVE_SHARE = Range(lambda x: 0 < x <= 1, "above 0 and at most 1")
DROPOUT = Range(lambda x: 0 <= x < 1, "at least 0 and below 1")  # all values dropped is no network
POSITIVE = Range(lambda x: 0 < x < math.inf, "positive and finite")
NOT_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "at least 0 and finite")


def check_range(name: str, value: float | None, allowed: Range) -> None:
    """ValueError where the setting called `name` is outside its range; None never is."""
    if value is not None and not allowed.holds(value):
        raise ValueError(f"{name} is {value}: it must be {allowed.words}")


def check_ranges(config: object, table: str, /, **ranges: Range) -> None:
    """The same of several settings of `config`, which has its names in `table`."""
    for name, allowed in ranges.items():
        check_range(f"{table}{name}", getattr(config, name), allowed)


def check_counts(**counts: int) -> None:
    """ConfigError where one is not a whole number from 1 on."""
    for name, value in counts.items():
        if not (isinstance(value, Integral) and value >= 1):
            raise ConfigError(f"{name} is {value!r}: it must be at least 1 and a whole number.")
