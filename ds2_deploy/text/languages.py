"""Languages: what a transcript becomes before it meets the alphabet or a metric, and how errors are counted.

A new language is one function and one line in LANGUAGES.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal, NamedTuple

from ds2_deploy.errors import ConfigError, PronunciationError
from ds2_deploy.text import phonemes
from ds2_deploy.text.alphabet import SILENCE

UNSEEN = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
"""Marks for typesetters, such as the soft hyphens of books; joiners are not among them, for there are languages that
spell by them."""


def _small(text: str) -> str:
    """Small letters, composed: there are accents that a small letter has in one sign and a capital in two, as in ǰ."""
    seen = UNSEEN.sub("", text)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).lower())


def _english(text: str) -> str:
    return " ".join(_small(text).replace("’", "'").split())


def _english_phonemes(text: str) -> str:
    """Phonemes stay as they are. There are words among their names, and letters: vowels alone and consonants alone,
    such as "AH" and "T V", are English where that has them."""
    tokens = text.split()
    found = set(tokens)
    if not found <= set(phonemes.LABELS):
        return phonemes.phonemes(_english(text))
    if SILENCE in found or (found & phonemes.VOWELS and found - phonemes.VOWELS):
        return " ".join(tokens)
    try:
        return phonemes.phonemes(_english(text))
    except PronunciationError:
        return " ".join(tokens)


def _mandarin(text: str) -> str:
    """Letters, marks and digits alone, without spaces between them; Latin letters small."""
    kept = "".join(c for c in _small(text) if unicodedata.category(c)[0] in "LMN")
    return unicodedata.normalize("NFKC", kept)  # what was dropped may have stood between a letter and its accent


Metric = Literal["WER", "CER", "PER"]
"""Error rates: of words, of characters, of phonemes."""


class Language(NamedTuple):
    """How models of a language spell."""

    normalize: Callable[[str], str]
    """Applied twice, it changes nothing more, but for phonemes of vowels, or of consonants, alone."""
    labels: tuple[str, ...] = ()
    """The language's own; without them, an alphabet is made of the characters of transcripts."""
    metric: Metric = "WER"
    """The error rate to look at; of characters where no spaces part words."""

    @property
    def unit_separator(self) -> str:
        """What stands between the units that errors are counted in: nothing, or the space between words."""
        return "" if self.metric == "CER" else " "

    @property
    def unit(self) -> str:
        """What errors are counted in, in the plural."""
        return {"WER": "words", "CER": "characters", "PER": "phonemes"}[self.metric]

    def units(self, text: str) -> list[str]:
        """Of a text in the language's spelling."""
        return text.split() if self.unit_separator else list(text)


LANGUAGES: dict[str, Language] = {
    "en": Language(_english),
    "en-phonemes": Language(_english_phonemes, phonemes.LABELS, metric="PER"),
    "zh": Language(_mandarin, metric="CER"),
}


def language_named(name: str) -> Language:
    """ConfigError where there is none of that name."""
    if name not in LANGUAGES:
        raise ConfigError(f"The language {name!r} has no text normalisation: choose one of {', '.join(LANGUAGES)}.")
    return LANGUAGES[name]


def spelling(text: str, language: str) -> str | None:
    """`text` in the language's spelling; None where it has none, such as phonemes of a word that nobody wrote down."""
    try:
        return normalize(text, language)
    except PronunciationError:
        return None


def respelled(text: str, language: str) -> str:
    """What a model wrote, as the language spells it: its labels may be capitals, or accents apart from their letters.

    As it is where it cannot be spelled, and where the labels are the language's own.
    """
    found = None if language_named(language).labels else spelling(text, language)
    return text if found is None else found


def normalize(text: str, language: str) -> str:
    """`text` in the spelling that models of `language` are trained on."""
    return language_named(language).normalize(text)
