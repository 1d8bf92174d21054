"""Text normalisation per language: what a transcript becomes before it meets the alphabet or a metric.

A new language is one function and one line in NORMALIZERS.
"""

import unicodedata
from collections.abc import Callable

from ds2_deploy.errors import ConfigError


def _english(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).replace("’", "'").lower().split())


NORMALIZERS: dict[str, Callable[[str], str]] = {"en": _english}


def normalize(text: str, language: str) -> str:
    """`text` in the spelling that models of `language` are trained on."""
    try:
        return NORMALIZERS[language](text)
    except KeyError:
        raise ConfigError(
            f"The language {language!r} has no text normalisation: choose one of {', '.join(NORMALIZERS)}."
        ) from None
