"""Alphabet: the labels of a model, in output order, with an explicit CTC blank."""

from collections.abc import Iterable, Sequence

import msgspec

from ds2_deploy.errors import AlphabetError

BLANK = "<blank>"
SPACE = "<space>"  # how tokens.txt spells " ", which editors and git would strip


class Alphabet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`labels[i]` is what output i means; `blank` is the index that CTC removes (never guessed)."""

    labels: tuple[str, ...]
    blank: int

    def __post_init__(self) -> None:
        if not 0 <= self.blank < len(self.labels):
            raise ValueError(f"alphabet.blank is {self.blank}: it must index one of {len(self.labels)} labels")
        doubled = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if doubled:
            raise ValueError(f"alphabet.labels holds {doubled} twice")

    @classmethod
    def of(cls, characters: Iterable[str]) -> "Alphabet":
        """Blank first, then `characters` in the order given."""
        return cls(labels=(BLANK, *characters), blank=0)

    def __len__(self) -> int:
        return len(self.labels)

    def encode(self, text: str) -> list[int]:
        """Label indices of `text`, a label per character; AlphabetError names what is missing."""
        index = {label: i for i, label in enumerate(self.labels) if i != self.blank}
        missing = sorted(set(text) - index.keys())
        if missing:
            raise AlphabetError(f"The alphabet has no label for {' '.join(map(repr, missing))} in {text[:60]!r}.")
        return [index[character] for character in text]

    def decode(self, indices: Sequence[int]) -> str:
        """The text of label indices; blanks are left out, repeats are kept."""
        return "".join(self.labels[i] for i in indices if i != self.blank)

    def to_lines(self) -> str:
        """tokens.txt: one label per line, in output order."""
        return "".join(f"{SPACE if label == ' ' else label}\n" for label in self.labels)


ENGLISH = Alphabet.of(" 'abcdefghijklmnopqrstuvwxyz")
"""The 29 labels of the Deep Speech 2 paper (arXiv 1512.02595): blank, space, apostrophe, a to z."""
