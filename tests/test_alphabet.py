"""Alphabet and text normalisation."""

import sys
import unicodedata

import pytest

from ds2_deploy.errors import AlphabetError, ConfigError
from ds2_deploy.text.alphabet import ENGLISH, Alphabet
from ds2_deploy.text.languages import LANGUAGES, normalize, respelled

PHONEMES = Alphabet.of(LANGUAGES["en-phonemes"].labels)
REPORT = Alphabet.of(" abcdefghijklmnopqrstuvwxyz0123456789")
MANDARIN = Alphabet.of("上北京海")


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


def test_the_reports_alphabets_have_41_and_38_labels() -> None:
    assert len(PHONEMES) == 41
    assert PHONEMES.labels[:3] == ("<blank>", "SIL", "AA")
    assert len(REPORT) == 38
    assert REPORT.decode(REPORT.encode("track 29 b")) == "track 29 b"


@pytest.mark.parametrize("text", ["", "AA", "HH AH L OW SIL W ER L D", "T T SIL SIL"])
def test_phonemes_are_labels_between_spaces(text: str) -> None:
    indices = PHONEMES.encode(text)
    assert [PHONEMES.labels[index] for index in indices] == text.split()
    assert PHONEMES.decode(indices) == text
    assert PHONEMES.decode([0, *indices, 0]) == text
    with pytest.raises(AlphabetError, match="'Q' 'oo'"):
        PHONEMES.encode(f"{text} oo Q")


@pytest.mark.parametrize(
    ("alphabet", "separator", "boundary", "word_end"),
    [
        (ENGLISH, "", 1, " "),
        (MANDARIN, "", None, ""),
        (PHONEMES, " ", 1, " SIL"),
        (Alphabet.of(["ka", "ki"]), " ", None, ""),
        (Alphabet(labels=("b", "__", "a"), blank=1), "", None, ""),  # a long blank is never written
    ],
)
def test_what_stands_between_labels_and_words(
    alphabet: Alphabet, separator: str, boundary: int | None, word_end: str
) -> None:
    assert (alphabet.separator, alphabet.boundary, alphabet.word_end) == (separator, boundary, word_end)


@pytest.mark.parametrize("label", [" ", "A B", ""])
def test_labels_that_a_space_would_tear_are_refused(label: str) -> None:
    with pytest.raises(ValueError, match="longer labels stand between spaces"):
        Alphabet.of(["AA", label])


@pytest.mark.parametrize("alphabet", [PHONEMES, MANDARIN], ids=["phonemes", "mandarin"])
def test_tokens_file_of_other_alphabets(alphabet: Alphabet) -> None:
    assert alphabet.to_lines().splitlines() == list(alphabet.labels)


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


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("", ""),
        ("设定三十二度", "设定三十二度"),
        (" 老 洋房，花园饭店。\n", "老洋房花园饭店"),
        ("Ｔ恤 K歌！（Ａ）", "t恤k歌a"),  # full-width letters and marks
        ("㊤海\u3000“3”", "上海3"),
        ("Ê\u030c！", "ê\u030c"),  # as pinyin has it: an accent that no sign has with its letter
    ],
)
def test_mandarin_normalisation(raw: str, normal: str) -> None:
    assert normalize(raw, "zh") == normal
    assert normalize(normal, "zh") == normal


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("J", ""), ("a", "\u0301"), ("", "\u030c"), ("A", "\u0308\u0304")]
)
def test_what_is_normal_stays_as_it_is(language: str, before: str, after: str) -> None:
    """Every sign of Unicode, alone and between letters and accents: small letters may compose what capitals do not."""
    for sign in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(sign) not in ("Cn", "Co", "Cs"):  # neither unassigned, nor private, nor half a sign
            normal = normalize(before + sign + after, language)
            assert normalize(normal, language) == normal


def test_what_a_model_wrote_is_spelled_as_its_language_does_unless_in_its_own_labels() -> None:
    """ "T V" might be English, too."""
    assert (respelled("TV Café", "en"), respelled("T V", "en-phonemes")) == ("tv café", "T V")


def test_an_unknown_language_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"'tlh'.*choose one of en"):
        normalize("qapla", "tlh")


def test_words_are_joined_as_the_alphabet_writes_them() -> None:
    alphabets = map(Alphabet.of, ("ab ", "你好", ["HH", "AH"], ["HH", "SIL"]))
    assert [alphabet.word_separator for alphabet in alphabets] == [" ", "", " ", " "]
