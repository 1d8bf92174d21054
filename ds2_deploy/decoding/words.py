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
    words: list[Word] = []
    word: list[Letter] = []
    for letter in letters:
        if letter.label != alphabet.boundary:
            word.append(letter)
        if word and alphabet.boundary in (None, letter.label):
            words.append(_word(word, alphabet))
            word = []
    if word:
        words.append(_word(word, alphabet))
    return tuple(words)


def _word(letters: list[Letter], alphabet: Alphabet) -> Word:
    text = alphabet.separator.join(alphabet.labels[letter.label] for letter in letters)
    least = min(letter.log_prob for letter in letters)  # a word is as sure as its least sure letter
    return Word(text, letters[0].start, letters[-1].end, math.exp(min(least, 0.0)))
