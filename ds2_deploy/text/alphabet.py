"""Alphabet: the labels of a model, in output order, with an explicit CTC blank."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from ds2_deploy.errors import AlphabetError

BLANK = "<blank>"
SPACE = "<space>"  # how tokens.txt spells " ", which editors and git would strip
SILENCE = "SIL"  # what parts words that are written in phonemes


class Alphabet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`labels[i]` is what output i means; `blank` is the index that CTC removes (never guessed).

    Labels are characters, or phonemes and the like of several characters, which a space separates in a text.
    """

    labels: tuple[str, ...]
    blank: int

    def __post_init__(self) -> None:
        if not 0 <= self.blank < len(self.labels):
            raise ValueError(f"alphabet.blank is {self.blank}: it must index one of {len(self.labels)} labels")
        doubled = sorted(label for label, count in Counter(self.labels).items() if count > 1)
        if doubled:
            raise ValueError(f"alphabet.labels holds {doubled} twice")
        torn = [label for label in _index(self) if self.separator and label.split() != [label]]
        if torn:
            raise ValueError(f"alphabet.labels holds {torn}: longer labels stand between spaces, so none can hold one")

    @classmethod
    def of(cls, labels: Iterable[str]) -> "Alphabet":
        """Blank first, then `labels`, such as the characters of a string, in the order given."""
        return cls(labels=(BLANK, *labels), blank=0)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def separator(self) -> str:
        """What stands between the labels of a text: nothing where each is a character, otherwise a space."""
        return _separator(self)

    @property
    def boundary(self) -> int | None:
        """Index of the label that parts words: the space or, between phonemes, SIL; None where none does."""
        label = SILENCE if self.separator else " "
        return self.labels.index(label) if label in self.labels else None

    @property
    def word_end(self) -> str:
        """How `boundary` follows a word in a text: " " or " SIL"; empty where there is none."""
        return "" if self.boundary is None else self.separator + self.labels[self.boundary]

    @property
    def word_separator(self) -> str:
        """What a reader wants between words: a space, or nothing where the alphabet has none to write."""
        return "" if self.label_is_word and not self.separator else " "

    @property
    def label_is_word(self) -> bool:
        """Whether each label counts as a word: phonemes, and characters that no space parts."""
        return bool(self.separator) or self.boundary is None

    def words(self, text: str) -> list[str]:
        """What a language model of this alphabet's texts counts."""
        return self.tokens(text) if self.label_is_word else text.split()

    def tokens(self, text: str) -> list[str]:
        """`text` in pieces of a label each, whether or not the alphabet has them."""
        return text.split() if self.separator else list(text)

    def missing(self, text: str) -> set[str]:
        """The tokens of `text` that have no label."""
        return set(self.tokens(text)) - _index(self).keys()

    def encode(self, text: str) -> list[int]:
        """Label indices of `text`, one per token; AlphabetError names what is missing."""
        if missing := sorted(self.missing(text)):
            raise AlphabetError(f"The alphabet has no label for {' '.join(map(repr, missing))} in {text[:60]!r}.")
        index = _index(self)
        return [index[token] for token in self.tokens(text)]

    def decode(self, indices: Sequence[int]) -> str:
        """The text of label indices; blanks are left out, repeats are kept."""
        return self.separator.join(self.labels[i] for i in indices if i != self.blank)

    def to_lines(self) -> str:
        """tokens.txt: one label per line, in output order."""
        return "".join(f"{SPACE if label == ' ' else label}\n" for label in self.labels)


@lru_cache
def _index(alphabet: Alphabet) -> dict[str, int]:
    """Label to output, without the blank; kept, because Mandarin has thousands."""
    return {label: i for i, label in enumerate(alphabet.labels) if i != alphabet.blank}


@lru_cache
def _separator(alphabet: Alphabet) -> str:
    return "" if all(len(label) == 1 for label in _index(alphabet)) else " "


ENGLISH = Alphabet.of(" 'abcdefghijklmnopqrstuvwxyz")
"""The 29 labels of the Deep Speech 2 paper (arXiv 1512.02595): blank, space, apostrophe, a to z."""
