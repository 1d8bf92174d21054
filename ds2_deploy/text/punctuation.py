"""Texts as people write them: in sentences, with punctuation that nobody says."""

import re
import unicodedata

from ds2_deploy.text.alphabet import Alphabet

SENTENCE_END = re.compile(r"[.!?;:]+[^\w\s]*\s+|[。！？；：]+[^\w\s]*")
"""Chinese has no space after it."""
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
"""Within a word; around words they are quotation marks."""


def sentences(text: str) -> list[str]:
    """And lines, each by itself, as they are written."""
    return SENTENCE_END.sub(r"\g<0>\n", text).splitlines()


def without_punctuation(text: str, alphabet: Alphabet) -> str:
    """A space in place of each mark that the alphabet cannot write; apostrophes within words stay where it has them."""
    composed = unicodedata.normalize("NFC", text)  # so that accents are letters to APOSTROPHE
    writable = set(alphabet.labels) - {alphabet.labels[alphabet.blank], "'"}
    has_apostrophe = "'" in alphabet.labels or bool(alphabet.separator)  # CMUdict's words have it
    apostrophes = {match.start() for match in APOSTROPHE.finditer(composed)} if has_apostrophe else set()
    return "".join(
        "'" if i in apostrophes else c if c in writable or unicodedata.category(c)[0] not in "PS" else " "
        for i, c in enumerate(composed)
    )
