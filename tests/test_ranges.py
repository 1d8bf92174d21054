"""Ranges of settings: every end of every kind, and no number that is none."""

import math
from types import SimpleNamespace

import pytest

from ds2_deploy.ranges import (
    DROPOUT,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    Range,
    at_least,
    between,
    check_range,
    check_ranges,
)

TINY = 5e-324


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (at_least(2), [2, 3, math.inf], [1, 1.9]),
        (between(-1, 2), [-1, 0, 2], [-1.1, 2.1]),
        (SHARE, [0, 0.5, 1], [-TINY, 1.1]),
        (POSITIVE_SHARE, [TINY, 1], [0, 1.1]),
        (DROPOUT, [0, 0.999], [-TINY, 1]),
        (POSITIVE, [TINY, 1e308], [0, -1, math.inf]),
        (NOT_NEGATIVE, [0, 1e308], [-TINY, math.inf]),
    ],
)
def test_the_ends_of_ranges(allowed: Range, inside: list[float], outside: list[float]) -> None:
    for value in inside:
        check_ranges(SimpleNamespace(rate=value), "table.", rate=allowed)
    for value in [*outside, math.nan, -math.inf]:
        with pytest.raises(ValueError, match=rf"^table\.rate is {value}: it must be {allowed.words}$"):
            check_ranges(SimpleNamespace(rate=value), "table.", rate=allowed)


def test_a_setting_by_a_name_of_its_own() -> None:
    check_range("The weight of 'a'", 0.5, SHARE)
    with pytest.raises(ValueError, match=r"^The weight of 'a' is 1\.5: it must be between 0 and 1$"):
        check_range("The weight of 'a'", 1.5, SHARE)


def test_what_is_not_set_is_in_any_range() -> None:
    check_ranges(SimpleNamespace(seconds=None), "", seconds=POSITIVE)


def test_the_words_of_ends() -> None:
    assert (at_least(1).words, between(0, 1000.0).words) == ("at least 1", "between 0 and 1000")
