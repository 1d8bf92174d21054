"""Words with their times and confidences, from the letters of a path through the frames."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from ds2_deploy.decoding.protocol import Word
from ds2_deploy.text.alphabet import Alphabet


class Letter(NamedTuple):
    """A label of a path, blanks left out and repeats merged."""

    label: int
    start: int
    """Its first frame."""
    end: int
    """The frame after its last one."""
    log_prob: float
    """Natural logarithm of its probability in the frame that is surest of it."""


def words_of(letters: Iterable[Letter], alphabet: Alphabet) -> tuple[Word, ...]:
    """What stands between the alphabet's boundaries; where it has none, every label is a word."""
    boundary, separator = alphabet.boundary, alphabet.separator  # once: both are looked for among all labels
    words: list[Word] = []
    word: list[Letter] = []

    def end_word() -> None:
        if word:
            text = separator.join(alphabet.labels[letter.label] for letter in word)
            least = min(letter.log_prob for letter in word)  # a word is as sure as its least sure letter
            words.append(Word(text, word[0].start, word[-1].end, math.exp(min(least, 0.0))))
            word.clear()

    for letter in letters:
        if letter.label != boundary:
            word.append(letter)
        if boundary in (None, letter.label):
            end_word()
    end_word()
    return tuple(words)
