"""What an n-gram model says of words, by the definition of back-off; programs read the ARPA file instead."""

import math
from collections.abc import Iterable, Sequence

from training.ngram import BEGIN, END, UNKNOWN, NGramModel


def probability(model: NGramModel, history: Sequence[str], word: str) -> float:
    """P(word | history), of which the last `order` - 1 words count."""
    context = tuple(history)[max(len(history) - model.order + 1, 0) :]
    weight = 1.0
    for start in range(len(context) + 1):
        gram = (*context[start:], word)
        if (found := model.probabilities[len(gram) - 1].get(gram)) is not None:
            return weight * found
        weight *= model.backoffs.get(context[start:], 1.0)
    return weight * model.probabilities[0][UNKNOWN,]


def sentence_score(model: NGramModel, sentence: Sequence[str]) -> float:
    """ln P of its words and its end, unknown words as <unk>."""
    known = [word if (word,) in model.probabilities[0] else UNKNOWN for word in sentence]
    words = [BEGIN, *known, END]
    return sum(math.log(probability(model, words[:i], words[i])) for i in range(1, len(words)))


def perplexity(model: NGramModel, sentences: Iterable[Sequence[str]]) -> float:
    """Per word, ends of sentences included."""
    sentences = list(sentences)
    words = sum(len(sentence) + 1 for sentence in sentences)
    return math.exp(-sum(sentence_score(model, sentence) for sentence in sentences) / words)
