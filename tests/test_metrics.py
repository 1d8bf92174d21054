"""Edit distance, WER, CER and their bootstrap interval."""

import random
from functools import cache

import numpy as np
import pytest

from ds2_deploy.metrics import Errors, bootstrap_interval


def edit_distance(reference: str, hypothesis: str) -> int:
    """In letters."""
    return Errors.between(reference, hypothesis).character_errors


@cache
def recursive_distance(a: str, b: str) -> int:
    """The definition: the best of the three edits of the last letter."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        recursive_distance(a[:-1], b) + 1,
        recursive_distance(a, b[:-1]) + 1,
        recursive_distance(a[:-1], b[:-1]) + (a[-1] != b[-1]),
    )


def test_edit_distance_equals_the_recursive_definition() -> None:
    draw = random.Random(0)
    for _ in range(300):
        a, b = ("".join(draw.choices("abc", k=draw.randrange(8))) for _ in range(2))
        assert edit_distance(a, b) == recursive_distance(a, b), (a, b)


def table_distance(a: str, b: str) -> int:
    """The textbook's table, row by row (Wagner and Fischer 1974)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


@pytest.mark.parametrize("size", [63, 64, 65, 200])  # around a machine word, and beyond
def test_edit_distance_of_long_texts_equals_the_table(size: int) -> None:
    draw = random.Random(size)
    for letters in ("ab", "abcdefghij "):
        a, b = ("".join(draw.choices(letters, k=size + draw.randrange(-1, 2))) for _ in range(2))
        assert edit_distance(a, b) == edit_distance(b, a) == table_distance(a, b)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("saturday", "sunday", 3), ("ab", "ba", 2)],
)
def test_edit_distance_of_known_pairs_both_ways(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_words_are_counted_whole() -> None:
    assert Errors.between("enter six two four", "enter sixty two").word_errors == 2


@pytest.mark.parametrize(
    ("reference", "hypothesis", "wer", "cer"),
    [
        ("enter six two four", "enter six two four", 0.0, 0.0),
        ("enter six two four", "enter sixty two for", 2 / 4, 3 / 18),
        ("yes", "", 1.0, 1.0),
        ("no", "n o", 2.0, 1 / 2),  # more errors than words
        ("", "", 0.0, 0.0),
        ("", "uh oh", 2.0, 5.0),  # an empty reference counts as one word, one character
    ],
)
def test_rates_of_known_pairs(reference: str, hypothesis: str, wer: float, cer: float) -> None:
    errors = Errors.between(reference, hypothesis)
    assert errors.wer == pytest.approx(wer)
    assert errors.cer == pytest.approx(cer)


def test_the_mean_distance_counts_labels() -> None:
    pairs = [("HH AH L OW", "HH EH L OW W"), ("SIL", "SIL"), ("K AE T", "")]  # 2, 0 and 3 phonemes
    total = Errors.total(Errors.between(*pair) for pair in pairs)
    assert total.mean_distance(3, separator=" ") == 5 / 3
    assert total.wer == 5 / 8
    assert Errors.between("北京市", "北市区").mean_distance(1, separator="") == 2


def test_the_total_weighs_utterances_by_their_words() -> None:
    pairs = [("a b c d", "a b c x"), ("z", "y"), ("", "q")]
    total = Errors.total(Errors.between(*pair) for pair in pairs)
    assert total == Errors(word_errors=3, words=5, character_errors=3, characters=8)
    assert total.wer == 3 / 5
    assert Errors.total([]) == Errors()
    assert Errors().wer == Errors().cer == 0.0


def test_bootstrap_of_equal_utterances_is_a_point() -> None:
    assert bootstrap_interval([(1, 4)] * 7, draws=50) == (0.25, 0.25)


def test_bootstrap_interval_agrees_with_the_binomial() -> None:
    """One-word utterances make the WER a binomial share: its 95% interval is mean ± 1.96 deviations."""
    wrong, count = 80, 400
    low, high = bootstrap_interval([(int(i < wrong), 1) for i in range(count)], draws=2000, seed=1)
    share = wrong / count
    half = 1.96 * np.sqrt(share * (1 - share) / count)
    assert low == pytest.approx(share - half, abs=0.005)
    assert high == pytest.approx(share + half, abs=0.005)


def test_bootstrap_repeats_for_a_seed_and_differs_between_seeds() -> None:
    counts = [(i % 3, 3 + i % 5) for i in range(30)]
    assert bootstrap_interval(counts, draws=200, seed=3) == bootstrap_interval(counts, draws=200, seed=3)
    assert bootstrap_interval(counts, draws=200, seed=3) != bootstrap_interval(counts, draws=200, seed=4)
