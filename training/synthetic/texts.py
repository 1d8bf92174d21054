"""What people say to a machine that takes names, numbers and dates letter by letter: texts in the manner of AN4.

Written from the training transcripts alone: their vocabulary is letters, numbers, months and a few commands, and
the number words that they happen to lack are added.
"""

import random
from collections.abc import Callable

from ds2_deploy.text.phonemes import dictionary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()
MONTHS = "january february march april may june july august september october november december".split()
SINGLE = "yes no go start stop help repeat erase rubout enter".split()

SPOKEN = dict(
    zip(
        LETTERS,
        [
            *"ay bee see dee ee eff jee aitch eye jay kay ell emm enn oh pee cue are ess tee you vee".split(),
            *("double you", "ex", "why", "zee"),
        ],
        strict=True,
    )
)
"""A letter's name in words that every synthesizer pronounces as the name, which it does not do to a lone letter."""


def spoken(text: str) -> str:
    """What to give a synthesizer for a transcript: names for single letters."""
    return " ".join(SPOKEN.get(word, word) for word in text.split())


class Texts:
    """`draw()` is a text in the manner of AN4; all follow from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = sorted(word for word in dictionary() if word.isalpha() and 3 <= len(word) <= 10)
        """Any words of the pronouncing dictionary, most of which are family names: to be spelled, not read."""

    def draw(self) -> str:
        kinds: tuple[tuple[Callable[[], str], int], ...] = (
            (self.spelled_name, 30),
            (self.letters, 12),
            (self.code, 12),
            (self.digits, 12),
            (self.number, 8),
            (self.date, 10),
            (self.address, 6),
            (self.command, 10),
        )
        makers, weights = zip(*kinds, strict=True)
        made: str = self.random.choices(makers, weights)[0]()
        return made

    def spelled_name(self) -> str:
        return " ".join(self.random.choice(self.names))

    def letters(self) -> str:
        return " ".join(self.random.choices(LETTERS, k=self.random.randint(1, 6)))

    def code(self) -> str:
        """A command, letters and a number, as in "rubout e u j o ninety five"."""
        start = self.random.choice(["enter", "erase", "rubout", ""])
        return f"{start} {self.letters()} {self.number()}".strip()

    def digits(self) -> str:
        words = [*DIGITS, "oh"]
        return " ".join(self.random.choices(words, k=self.random.choice([1, 1, 3, 4, 5, 7, 9, 10])))

    def number(self) -> str:
        choose = self.random.randint
        kinds: list[Callable[[], str]] = [
            lambda: in_words(choose(0, 99)),
            lambda: " ".join(in_words(choose(10, 99)) for _ in range(choose(2, 4))),
            lambda: in_words(choose(100, 9999)),
            self.digits,
        ]
        return self.random.choice(kinds)()

    def date(self) -> str:
        random = self.random
        month = random.choice(MONTHS)
        month = month if random.random() < 0.7 else " ".join(month)
        day = random.choice([ordinal, in_words])(random.randint(1, 31))
        year = in_words(random.randint(10, 20)) + " " + random.choice([in_words(random.randint(10, 99)), "oh one"])
        return random.choice([f"{month} {day} {year}", f"{month} {day}", f"{month} {self.digits()}"])

    def address(self) -> str:
        street = " ".join(self.random.choice(["street", "avenue", "drive", "road", "east", "north"]))
        return self.random.choice(
            [
                f"{self.number()} {self.spelled_name()} {street}",
                f"{ordinal(self.random.randint(1, 99))} {street}",
                f"area code {self.digits()}",
                f"{self.spelled_name()} apostrophe s",
                f"{in_words(self.random.randint(1, 99))} and a half",
            ]
        )

    def command(self) -> str:
        return self.random.choice([self.random.choice(SINGLE), f"enter {self.number()}", f"erase {self.digits()}"])


def in_words(number: int) -> str:
    """0 to 9999 as it is said: 4883 is "four thousand eight hundred eighty three"."""
    if number < 20:
        return [*DIGITS, *TEENS][number]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = number % size
            return f"{in_words(number // size)} {name}" + (f" {in_words(rest)}" if rest else "")
    return TENS[number // 10 - 2] + (f" {DIGITS[number % 10]}" if number % 10 else "")


def ordinal(number: int) -> str:
    """1 to 99: 23 is "twenty third"."""
    if number < 20:
        return ORDINALS[number - 1]
    tens, ones = TENS[number // 10 - 2], number % 10
    return f"{tens} {ORDINALS[ones - 1]}" if ones else f"{tens[:-1]}ieth"
