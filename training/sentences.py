"""Sentences in a model's spelling; apart, those that it cannot spell, and why."""

from collections.abc import Iterable
from typing import NamedTuple

from ds2_deploy.errors import PronunciationError
from ds2_deploy.text.alphabet import Alphabet
from ds2_deploy.text.languages import normalize
from ds2_deploy.text.punctuation import without_punctuation


class Unspelled(NamedTuple):
    """A sentence as it was written."""

    text: str
    missing: list[str]
    """Its characters without a label, or words without phonemes."""


def spelled(sentences: Iterable[str], language: str, alphabet: Alphabet) -> tuple[list[str], list[Unspelled]]:
    """Those that hold words, without punctuation."""
    good: list[str] = []
    strange: list[Unspelled] = []
    for sentence in sentences:
        try:
            text = normalize(without_punctuation(sentence, alphabet), language)
            missing = sorted(alphabet.missing(text))
        except PronunciationError as error:
            text, missing = "", list(error.words)
        if missing:
            strange.append(Unspelled(sentence, missing))
        elif text:
            good.append(text)
    return good, strange
