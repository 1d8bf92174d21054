"""Texts to words alone."""

import pytest

from ds2_deploy.text.punctuation import strip_punctuation


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("“Don’t,” he said. 'Twas 5 o'clock!", ["Don't", "he", "said", "Twas", "5", "o'clock"]),
        ("twenty-one: Größe (50 %)…", ["twenty", "one", "Größe", "50"]),
        ("cafe\u0301's", ["café's"]),
        ("¿Qué? 你好，世界。", ["Qué", "你好", "世界"]),
        ("— ?!", []),
    ],
)
def test_words_alone(text: str, words: list[str]) -> None:
    assert strip_punctuation(text).split() == words


def test_what_an_alphabet_writes_is_kept() -> None:
    assert strip_punctuation("a_b-c", kept="_").split() == ["a_b", "c"]
    assert strip_punctuation("don't", apostrophes=False).split() == ["don", "t"]
