"""Alphabet and text normalisation."""

import pytest

from ds2_deploy.errors import AlphabetError, ConfigError
from ds2_deploy.text.alphabet import ENGLISH, Alphabet
from ds2_deploy.text.languages import normalize


def test_english_is_the_papers_29_labels_with_the_blank_first() -> None:
    assert len(ENGLISH) == 29
    assert ENGLISH.blank == 0
    assert "".join(ENGLISH.labels[1:]) == " 'abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("text", ["", " ", "a", "rubout t g", "don't", "aabb", "  zz  "])
def test_encode_and_decode_are_inverse(text: str) -> None:
    indices = ENGLISH.encode(text)
    assert len(indices) == len(text)
    assert ENGLISH.decode(indices) == text


def test_encode_gives_positions_in_the_output_order() -> None:
    assert Alphabet.of("ba").encode("abba") == [2, 1, 1, 2]
    assert Alphabet(labels=("b", "a", "_"), blank=2).encode("abba") == [1, 0, 0, 1]


def test_decode_leaves_blanks_out_and_keeps_repeats() -> None:
    alphabet = Alphabet(labels=("a", "_", "b"), blank=1)
    assert alphabet.decode([1, 0, 0, 1, 2, 1]) == "aab"


def test_missing_letters_are_named_all_and_once() -> None:
    with pytest.raises(AlphabetError) as caught:
        ENGLISH.encode("Zoë zo3 3Z")
    assert "'3' 'Z' 'ë'" in str(caught.value)
    assert "Zoë zo3 3Z" in str(caught.value)


def test_the_blank_is_not_a_letter_of_any_text() -> None:
    with pytest.raises(AlphabetError, match="'_'"):
        Alphabet(labels=("_", "a"), blank=0).encode("a_a")


@pytest.mark.parametrize("blank", [-1, 2, 29])
def test_a_blank_outside_the_labels_is_refused(blank: int) -> None:
    with pytest.raises(ValueError, match=f"alphabet.blank is {blank}"):
        Alphabet(labels=("_", "a"), blank=blank)


def test_doubled_labels_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\['b'\]"):
        Alphabet.of("abcb")


def test_tokens_file_has_a_line_per_label_and_spells_the_space() -> None:
    lines = ENGLISH.to_lines()
    assert lines.endswith("z\n")
    assert lines.split("\n")[:4] == ["<blank>", "<space>", "'", "a"]
    assert lines.count("\n") == len(ENGLISH)
    assert all(line == line.strip() and line for line in lines.splitlines())


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("", ""),
        (" \t\n", ""),
        ("RUBOUT  T G\n", "rubout t g"),
        ("It’s  LATE", "it's late"),  # a typographic apostrophe
        ("ＡＢＣ\u00a0ﬁve", "abc five"),  # full-width letters, a no-break space, a ligature
    ],
)
def test_english_normalisation(raw: str, normal: str) -> None:
    assert normalize(raw, "en") == normal
    assert normalize(normal, "en") == normal


def test_an_unknown_language_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"'tlh'.*choose one of en"):
        normalize("qapla", "tlh")
