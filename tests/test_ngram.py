"""The n-gram estimator: probabilities that sum to one, values by hand, and what KenLM reads from the file."""

import itertools
import math
import random
from pathlib import Path

import pytest

from ds2_deploy.errors import ConfigError, ManifestError
from tests.ngram_truth import perplexity, probability, sentence_score
from training.ngram import BEGIN, END, UNKNOWN, estimate

WORDS = "a b c d e f g h i j".split()


def text(seed: int, sentences: int = 300) -> list[list[str]]:
    """A chain that prefers some followers, so that every count occurs."""
    draw = random.Random(seed)
    weights = {word: [draw.random() ** 4 for _ in WORDS] for word in WORDS}
    made = []
    for _ in range(sentences):
        words = [draw.choice(WORDS)]
        while draw.random() < 0.8:
            words.append(draw.choices(WORDS, weights[words[-1]])[0])
        made.append(words)
    return made


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("prune", [(), (0, 0, 1), (0, 1, 2)])
def test_what_follows_any_words_sums_to_one(order: int, prune: tuple[int, ...]) -> None:
    model = estimate(text(order), order, prune[:order])
    outcomes = [*WORDS, END, UNKNOWN]
    histories = [(), (BEGIN,), ("never",), *itertools.product(["a", "b", "j", BEGIN], WORDS, WORDS)]
    for history in histories:
        assert sum(probability(model, history, word) for word in outcomes) == pytest.approx(1, abs=1e-9)


def test_a_bigram_by_hand() -> None:
    """Three sentences: too little for discounts, so those of the fallback: 0.5, 1, 1.5."""
    model = estimate([["a", "b"], ["a", "b"], ["a", "c"]], 2)
    # words before: a 1 (<s>), b 1 (a), c 1 (a), </s> 2 (b, c): five in all; D = 0.5 of one, 1 of two
    uniform, left = 1 / 5, (3 * 0.5 + 1) / 5
    b, c = 0.5 / 5 + left * uniform, 0.5 / 5 + left * uniform
    assert probability(model, [], "b") == pytest.approx(b)
    # after a: b twice, c once; D takes 1 and 0.5
    assert probability(model, ["a"], "b") == pytest.approx((2 - 1) / 3 + 0.5 * b)
    assert probability(model, ["a"], "c") == pytest.approx((1 - 0.5) / 3 + 0.5 * c)
    assert probability(model, ["a"], UNKNOWN) == pytest.approx(0.5 * left * uniform)


def test_the_discounts_of_a_larger_text_are_chen_and_goodmans() -> None:
    """Of the longest n-grams, read back out of the probabilities of those that occur three times."""
    sentences = text(5, 500)
    model = estimate(sentences, 2)
    counts: dict[tuple[str, str], int] = {}
    for sentence in sentences:
        for pair in itertools.pairwise([BEGIN, *sentence, END]):
            counts[pair] = counts.get(pair, 0) + 1
    n = [sum(1 for count in counts.values() if count == k) for k in range(5)]
    assert all(n[1:])
    y = n[1] / (n[1] + 2 * n[2])
    discounts = [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
    for (first, second), count in counts.items():
        total = sum(c for (f, _), c in counts.items() if f == first)
        taken = sum(discounts[min(c, 3)] for (f, _), c in counts.items() if f == first)
        expected = (count - discounts[min(count, 3)]) / total + taken / total * probability(model, [], second)
        assert probability(model, [first], second) == pytest.approx(expected, rel=1e-9)


def test_kenlm_reads_the_same_probabilities(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    model = estimate(text(1), 3, (0, 0, 1))
    with (tmp_path / "lm.arpa").open("w") as out:
        model.write(out)
    loaded = kenlm.Model(str(tmp_path / "lm.arpa"))
    for sentence in [*text(2, 30), ["a", "never", "b"], []]:
        expected = sentence_score(model, sentence) / math.log(10)
        assert loaded.score(" ".join(sentence)) == pytest.approx(expected, abs=1e-4)


def test_longer_contexts_and_the_right_text_help() -> None:
    """On new sentences of the same chain; a text in another order of words is less to its liking."""
    seen, new = text(3, 2000), text(3, 2300)[2000:]
    perplexities = [perplexity(estimate(seen, order), new) for order in (1, 2)]
    assert perplexities[1] < 0.8 * perplexities[0]
    shuffled = [random.Random(0).sample(sentence, len(sentence)) for sentence in new]
    assert perplexity(estimate(seen, 2), shuffled) > 1.2 * perplexities[1]


def test_pruning_leaves_out_what_is_rare() -> None:
    full, pruned = estimate(text(4), 3), estimate(text(4), 3, (0, 0, 1))
    assert len(pruned.probabilities[1]) == len(full.probabilities[1])
    assert 0 < len(pruned.probabilities[2]) < len(full.probabilities[2])


@pytest.mark.parametrize(("order", "prune"), [(0, ()), (7, ()), (2, (0, 0, 0)), (3, (0, 2, 1)), (3, (0, -1))])
def test_wrong_options(order: int, prune: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        estimate(text(0), order, prune)


def test_no_text() -> None:
    with pytest.raises(ManifestError, match="no text"):
        estimate([[], []])


def test_a_word_that_nobody_said_is_unknown() -> None:
    model = estimate(text(0), 2)
    assert probability(model, ["a"], "zebra") == probability(model, ["a"], UNKNOWN) > 0
