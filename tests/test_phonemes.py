"""English in phonemes, against words that everybody can look up and AN4's own dictionary."""

import json
from pathlib import Path

import pytest

from ds2_deploy.errors import AlphabetError, PronunciationError
from ds2_deploy.text.languages import LANGUAGES, normalize
from ds2_deploy.text.phonemes import LABELS, dictionary
from samples.make_cmudict import reduced


@pytest.mark.parametrize(
    ("raw", "spoken"),
    [
        ("", ""),
        ("...", ""),
        ("Hello, WORLD!", "HH AH L OW SIL W ER L D"),
        ("don’t", "D OW N T"),
        ("'em 'hello'", "AH M SIL HH AH L OW"),  # an apostrophe of the word, and quotation marks
        ("x-ray", "EH K S SIL R EY"),
        ("t g", "T IY SIL JH IY"),
        ("T G", "T IY SIL JH IY"),  # letters, whose names phonemes have, too
        ("B M W", "B IY SIL EH M SIL D AH B AH L Y UW"),
        ("T SIL G", "T SIL G"),
        ("Y EH S", "Y EH S"),
        ("ER EY", "ER EY"),  # "array": no English has these words
    ],
)
def test_words_become_phonemes(raw: str, spoken: str) -> None:
    assert normalize(raw, "en-phonemes") == spoken
    assert normalize(spoken, "en-phonemes") == spoken


def test_words_without_pronunciation_are_named_once_each() -> None:
    with pytest.raises(PronunciationError, match="of 'qzx', '3' in 'qzx the qzx 3'") as caught:
        normalize("Qzx the QZX 3", "en-phonemes")
    assert isinstance(caught.value, AlphabetError)


def test_the_dictionary_is_written_in_the_labels() -> None:
    assert LANGUAGES["en-phonemes"].labels == LABELS
    assert len(dictionary()) == 124_926
    assert {phoneme for spoken in dictionary().values() for phoneme in spoken.split()} == set(LABELS) - {"SIL"}


def test_the_dictionary_is_reduced_to_first_pronunciations_without_stress() -> None:
    lines = ["hello HH AH0 L OW1", "hello(2) HH EH0 L OW1", "aalen AE1 L AH0 N # place, german", "a. EY1", "'em AH0 M"]
    assert reduced("\n".join(lines)) == "'em AH M\naalen AE L AH N\nhello HH AH L OW\n"


def test_an4s_own_dictionary_mostly_agrees(ds2_data: Path) -> None:
    theirs: dict[str, set[str]] = {}
    for line in (ds2_data / "an4/etc/an4.dic").read_text().splitlines():
        word, spoken = line.split(maxsplit=1)
        theirs.setdefault(word.partition("(")[0].lower(), set()).add(" ".join(spoken.split()))
    shared = theirs.keys() & dictionary().keys()
    assert len(shared) > 100
    assert sum(dictionary()[word] in theirs[word] for word in shared) > 0.85 * len(shared)


def test_every_word_of_an4_has_a_pronunciation(ds2_data: Path) -> None:
    for line in (ds2_data / "an4/valid.jsonl").read_text().splitlines():
        text = json.loads(line)["text"]
        assert normalize(text, "en-phonemes").split().count("SIL") == len(text.split()) - 1
