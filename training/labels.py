"""Which labels a training has, and what a network keeps when they change. No torch of its own."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ds2_deploy.errors import AlphabetError
from ds2_deploy.output.listing import first_of
from ds2_deploy.text.alphabet import Alphabet
from ds2_deploy.text.languages import language_named

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 10
"""Of labels that are listed."""
OUTPUT = ("encoder.output.weight", "encoder.output.bias")
"""The parameters with a row per label, in a network's state dict."""


def known_alphabet(recipe_alphabet: str, language: str) -> Alphabet | None:
    """The recipe's labels; where it names none, the language's own; None where the transcripts' characters are it."""
    labels = recipe_alphabet or language_named(language).labels
    return Alphabet.of(labels) if labels else None


def characters_of(characters: Collection[str]) -> Alphabet:
    """A label for each of these characters, by code point; AlphabetError where there is none."""
    if not characters:
        raise AlphabetError(
            "The training transcripts hold no character to make a label of: name the recipe's alphabet."
        )
    return Alphabet.of(sorted(characters))


def shown(labels: Collection[str]) -> str:
    """The first of them, and how many more there are."""
    return first_of(list(map(repr, labels)), SHOWN, " ")


def alphabet_changes(old: Alphabet, new: Alphabet) -> str:
    """Which labels stay, go and are new; empty where all stay."""
    before, after = (dict.fromkeys(label for i, label in enumerate(one.labels) if i != one.blank) for one in (old, new))
    gone, added = [label for label in before if label not in after], [label for label in after if label not in before]
    parts = [f"{len(before) - len(gone)} stay", gone and f"gone {shown(gone)}", added and f"new {shown(added)}"]
    return ", ".join(part for part in parts if part) if gone or added else ""


def transfer_output(
    old: Alphabet, new: Alphabet, weights: Mapping[str, "Tensor"], fresh: Mapping[str, "Tensor"]
) -> dict[str, "Tensor"]:
    """A network's `weights` for other labels: what both alphabets have stays, the rest is as in `fresh`.

    `fresh` is the state dict of a newly initialised network with the labels `new`. Blank goes to blank.
    """
    known = {label: row for row, label in enumerate(old.labels) if row != old.blank}
    pairs = [(row, known[label]) for row, label in enumerate(new.labels) if label in known and row != new.blank]
    to, source = zip((new.blank, old.blank), *pairs, strict=True)
    result = dict(weights)
    for name in OUTPUT:
        result[name] = fresh[name].clone()  # (V, H) or (V,)
        result[name][list(to)] = weights[name][list(source)].to(fresh[name])
    return result
