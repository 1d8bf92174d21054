"""English words to phonemes: ARPAbet without stress, by the CMU Pronouncing Dictionary."""

import gzip
import re
from functools import cache
from pathlib import Path

from ds2_deploy.errors import PronunciationError
from ds2_deploy.text.alphabet import SILENCE

DICTIONARY = Path(__file__).parent / "cmudict.txt.gz"  # made by samples/make_cmudict.py
PHONEMES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
VOWELS = frozenset(phoneme for phoneme in PHONEMES if phoneme[0] in "AEIOU")
LABELS = (SILENCE, *PHONEMES)


@cache
def dictionary() -> dict[str, str]:
    """The first pronunciation of 125,000 lower-case words."""
    lines = gzip.decompress(DICTIONARY.read_bytes()).decode().splitlines()
    return {word: spoken for word, _, spoken in (line.partition(" ") for line in lines)}


def phonemes(text: str) -> str:
    """Lower-case English in phonemes, SIL between words; PronunciationError names the words that CMUdict lacks."""
    words = re.findall(r"'?\w[\w']*", text)  # punctuation is silent, and parts words: x-ray, u.s.
    spoken = [_pronunciation(word) for word in words]
    unknown = tuple(word for word, found in zip(words, spoken, strict=True) if found is None)
    if unknown:
        raise PronunciationError(
            f"CMUdict has no pronunciation of {', '.join(map(repr, dict.fromkeys(unknown)))} in {text[:60]!r}.", unknown
        )
    return f" {SILENCE} ".join(filter(None, spoken))


def _pronunciation(word: str) -> str | None:
    """As it is ('em, o'clock, dogs'), or without the apostrophes of a quotation."""
    return dictionary().get(word) or dictionary().get(word.strip("'"))
