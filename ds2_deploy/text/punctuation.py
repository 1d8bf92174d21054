"""Texts as people write them: in sentences, with punctuation that nobody says."""

import re
import unicodedata
from collections.abc import Container

from ds2_deploy.text.alphabet import Alphabet

SENTENCE_END = re.compile(r"[.!?;:]+[^\w\s]*\s+|[。！？；：]+[^\w\s]*")
"""Chinese has no space after it."""
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
"""Within a word; around words they are quotation marks."""


def sentences(text: str) -> list[str]:
    """And lines, each by itself, as they are written."""
    return SENTENCE_END.sub(r"\g<0>\n", text).splitlines()


def strip_punctuation(text: str, *, kept: Container[str] = "", apostrophes: bool = True) -> str:
    """Spaces in place of punctuation and symbols, but for the characters in `kept` and for apostrophes within words."""
    composed = unicodedata.normalize("NFC", text)  # so that accents are letters to APOSTROPHE
    within = {match.start() for match in APOSTROPHE.finditer(composed)} if apostrophes else set()
    return "".join(
        "'" if i in within else c if c in kept or unicodedata.category(c)[0] not in "PS" else " "
        for i, c in enumerate(composed)
    )


def without_punctuation(text: str, alphabet: Alphabet) -> str:
    """The same, but for what the alphabet can write."""
    writable = set(alphabet.labels) - {alphabet.labels[alphabet.blank], "'"}
    has_apostrophe = "'" in alphabet.labels or bool(alphabet.separator)  # CMUdict's words have it
    return strip_punctuation(text, kept=writable, apostrophes=has_apostrophe)
