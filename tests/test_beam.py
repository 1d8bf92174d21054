"""Beam search against all paths of small matrices, language models in odd clothes, and streams in pieces."""

import bz2
import codecs
import gc
import gzip
import itertools
import lzma
import math
import os
import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.decoding import make_decoder
from ds2_deploy.decoding.beam import BeamDecoder
from ds2_deploy.decoding.flashlight import FlashlightDecoder
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.language_model import HotWordScorer, find_language_model, spelled, words_of_model
from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.decoding.search import BeamConfig
from ds2_deploy.errors import ConfigError, InferenceError, LanguageModelError
from ds2_deploy.text.alphabet import ENGLISH, Alphabet
from tests.ngram_truth import sentence_score
from training.ngram import NGramModel, estimate

pytest.importorskip("pyctcdecode")

LETTERS = Alphabet.of("ab ")
CHARACTERS = Alphabet.of("你好吗")
PHONEMES = Alphabet.of(["HH", "AH", "SIL"])
OPEN = {"beam_width": 10_000, "beam_prune_logp": -1e9, "token_min_logp": -1e9}
"""Nothing is pruned."""
TEXTS = {
    LETTERS: ["a b", "ab a", "b", "a a b", "ba ab", "a"],
    CHARACTERS: ["你 好", "你 好 吗", "好 吗", "吗"],
    PHONEMES: ["HH AH", "HH AH SIL HH AH", "AH", "AH SIL AH"],
}


def random_emissions(frames: int, labels: int, seed: int) -> npt.NDArray[np.float32]:
    logits = 1.5 * np.random.default_rng(seed).normal(size=(frames, labels))
    log_probs: npt.NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return log_probs.astype(np.float32)


def language_model(texts: list[str], folder: Path) -> NGramModel:
    """Written to FOLDER/lm.arpa."""
    model = estimate([text.split() for text in texts], 2)
    with (folder / "lm.arpa").open("w", encoding="utf-8") as out:
        model.write(out)
    return model


def test_of_several_spellings_in_a_language_model_the_very_one_counts() -> None:
    words = ["the", "THE", "Paris", "I", "don’t", "won’t", "won't"]
    ours = {"the": "the", "paris": "Paris", "i": "I", "don't": "don’t", "won't": "won't"}
    assert spelled(words, ENGLISH, Path("lm.arpa")) == ours
    assert spelled(["don’t"], Alphabet.of(" don’t'"), Path("lm.arpa")) == {"don’t": "don’t"}


def test_a_language_model_of_words_is_none_for_characters_that_no_space_parts() -> None:
    assert spelled(["你好", "吗"], CHARACTERS, Path("lm.arpa")) == {"吗": "吗"}  # every other one is a label
    with pytest.raises(LanguageModelError, match="can write 1 of its 3 words and not, for one, '你好'"):
        spelled(["你好", "好吗", "吗"], CHARACTERS, Path("lm.arpa"))


def all_readings(log_probs: npt.NDArray[np.float32], alphabet: Alphabet) -> dict[str, float]:
    """Every text, as it is written, and the logarithm of its probability, summed over all paths."""
    totals: dict[str, float] = defaultdict(lambda: -np.inf)
    for path in itertools.product(range(len(alphabet)), repeat=len(log_probs)):
        labels = [label for label, _ in itertools.groupby(path) if label != alphabet.blank]
        text = alphabet.decode(labels)
        end = alphabet.word_end or " "
        words = (word.strip() for word in f"{alphabet.separator}{text}".split(end))
        text = f"{end}{alphabet.separator}".join(filter(None, words))
        score = float(sum(log_probs[t, label] for t, label in enumerate(path)))
        totals[text] = float(np.logaddexp(totals[text], score))
    return totals


def best_first(truth: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(truth.items(), key=lambda item: item[1], reverse=True)


def units(text: str, alphabet: Alphabet) -> list[str]:
    return alphabet.tokens(text) if alphabet.separator or alphabet.boundary is None else text.split()


@pytest.mark.parametrize("alphabet", [LETTERS, CHARACTERS, PHONEMES], ids=["words", "characters", "phonemes"])
@pytest.mark.parametrize("seed", range(6))
def test_without_a_language_model_it_finds_the_most_probable_texts(alphabet: Alphabet, seed: int) -> None:
    log_probs = random_emissions(5, len(alphabet), seed)
    truth = best_first(all_readings(log_probs, alphabet))
    readings = BeamDecoder(alphabet, BeamConfig(**OPEN)).readings(log_probs, 5)  # type: ignore[arg-type]
    assert [(r.text, pytest.approx(r.score, abs=1e-5)) for r in readings] == truth[:5]
    assert all(r.acoustic == r.score and r.language == 0 for r in readings)


@pytest.mark.parametrize("alphabet", [LETTERS, CHARACTERS, PHONEMES], ids=["words", "characters", "phonemes"])
@pytest.mark.parametrize("seed", range(6))
def test_with_one_it_finds_the_best_by_the_formula(alphabet: Alphabet, seed: int, tmp_path: Path) -> None:
    model = language_model(TEXTS[alphabet], tmp_path)
    alpha, beta, unknown = 0.7, 0.9, -3.0
    log_probs = random_emissions(5, len(alphabet), seed)
    truth = {}
    for text, acoustic in all_readings(log_probs, alphabet).items():
        words = units(text, alphabet)
        strange = sum((word,) not in model.probabilities[0] for word in words)
        language = alpha * sentence_score(model, words) + beta * len(words) + unknown * strange
        truth[text] = (acoustic + language, acoustic)
    best = best_first(truth)[:4]
    config = BeamConfig(lm=tmp_path / "lm.arpa", alpha=alpha, beta=beta, unknown=unknown, **OPEN)  # type: ignore[arg-type]
    readings = BeamDecoder(alphabet, config).readings(log_probs, 4)
    assert [r.text for r in readings] == [text for text, _ in best]
    for reading, (_, (score, acoustic)) in zip(readings, best, strict=True):
        assert reading.score == pytest.approx(score, abs=1e-4)
        assert reading.acoustic == pytest.approx(acoustic, abs=1e-4)
        assert reading.language == pytest.approx(score - acoustic, abs=1e-4)


def by_formula(
    log_probs: npt.NDArray[np.float32], alphabet: Alphabet, model: NGramModel, alpha: float, beta: float
) -> dict[str, tuple[float, float]]:
    """Of every text of known words: its score by the formula, and by its best path alone in place of all paths."""
    sums, best = all_readings(log_probs, alphabet), defaultdict(lambda: -np.inf)
    for path in itertools.product(range(len(alphabet)), repeat=len(log_probs)):
        labels = [label for label, _ in itertools.groupby(path) if label != alphabet.blank]
        text = " ".join(alphabet.decode(labels).split())
        best[text] = max(best[text], float(sum(log_probs[t, label] for t, label in enumerate(path))))
    scores = {}
    for text, acoustic in sums.items():
        words = text.split()
        if all((word,) in model.probabilities[0] for word in words):
            language = alpha * sentence_score(model, words) + beta * len(words)
            scores[text] = (acoustic + language, best[text] + language)
    return scores


@pytest.mark.parametrize("seed", range(12))
def test_flashlight_scores_lie_between_the_best_path_and_all_paths(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    model = language_model(TEXTS[LETTERS], tmp_path)
    log_probs = random_emissions(6, len(LETTERS), seed)
    scores = by_formula(log_probs, LETTERS, model, 0.7, 0.9)
    config = BeamConfig(search="flashlight", lm=tmp_path / "lm.arpa", alpha=0.7, beta=0.9, **OPEN)  # type: ignore[arg-type]
    readings = FlashlightDecoder(LETTERS, config).readings(log_probs, 5)
    assert len(readings) == 5
    for text, score, acoustic, language in readings:
        most, least = scores[text]  # so all its words are known
        assert least - 1e-3 <= score <= most + 1e-3
        assert acoustic + language == pytest.approx(score)
        expected = 0.7 * sentence_score(model, text.split()) + 0.9 * len(text.split())
        assert language == pytest.approx(expected, abs=1e-3)
    best = max(scores.values())[0]
    assert scores[readings[0].text][0] >= best - math.log(2)  # the best text, or one nearly as good


@pytest.mark.parametrize("seed", range(6))
def test_flashlight_without_a_language_model_hears_any_letters(seed: int) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    log_probs = random_emissions(5, len(LETTERS), seed)
    truth = all_readings(log_probs, LETTERS)
    [reading] = FlashlightDecoder(LETTERS, BeamConfig(search="flashlight", **OPEN)).readings(log_probs)  # type: ignore[arg-type]
    assert truth[reading.text] >= max(truth.values()) - math.log(2)
    assert reading.score <= truth[reading.text] + 1e-3


def test_flashlight_hears_the_words_of_its_language_model_in_any_case(tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    language_model(["HELLO YOU", "YOU HELLO"], tmp_path)
    decoder = make_decoder(BeamConfig(search="flashlight", lm=tmp_path), ENGLISH)
    found = decoder.decode(spoken("helo you"))
    assert found.text == "hello you"
    assert [word.text for word in found.words] == ["hello", "you"]
    assert decoder.decode(spoken("zq")).text in ("", "you", "hello")
    stream = decoder.start()
    for piece in np.split(spoken("helo you"), [3, 4, 11]):
        stream.accept(piece)
    assert stream.finish() == found


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_blank_alone_are_left_out_and_nothing_changes(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model(["hello you", "you hello"], tmp_path)
    frames = spoken("helo  you", 0.8) + np.random.default_rng(seed).normal(0, 0.3, (18, len(ENGLISH)))
    blanks = np.full((7, len(ENGLISH)), -9.0)
    blanks[:, ENGLISH.blank] = 0.0
    logits = np.concatenate([blanks, frames[:6], blanks, frames[6:7], blanks[:1], frames[7:], blanks])
    log_probs = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)
    decoder = BeamDecoder(ENGLISH, BeamConfig(lm=tmp_path))
    assert decoder._needless(log_probs).sum() == 18
    quick = decoder.readings(log_probs, 5)
    monkeypatch.setattr(decoder, "_needless", lambda rows: np.zeros(len(rows), bool))
    slow = decoder.readings(log_probs, 5)
    assert [r.text for r in quick] == [r.text for r in slow]
    np.testing.assert_allclose([r[1:] for r in quick], [r[1:] for r in slow], atol=1e-4)


@pytest.mark.parametrize("with_lm", [False, True], ids=["any letters", "language model"])
@pytest.mark.parametrize("seed", range(8))
def test_flashlight_goes_on_from_piece_to_piece(seed: int, with_lm: bool, tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    language_model(TEXTS[LETTERS], tmp_path)
    log_probs = random_emissions(30, len(LETTERS), seed)
    decoder = FlashlightDecoder(LETTERS, BeamConfig(search="flashlight", lm=tmp_path if with_lm else None))
    whole = decoder.decode(log_probs)
    stream = decoder.start()
    for piece in np.split(log_probs, np.sort(np.random.default_rng(seed).integers(0, 31, 6)).tolist()):
        stream.accept(piece)
        stream.hypothesis()
    assert stream.finish() == whole
    assert len(whole.text) > 3


@pytest.mark.parametrize("frames", [1, 2, 5, 7, 9, 12, 15, 17])  # in the others the last letter is nearly there
def test_flashlight_drops_a_word_that_is_cut_off(frames: int, tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    language_model(["hello you", "you hello"], tmp_path)
    decoder = FlashlightDecoder(ENGLISH, BeamConfig(search="flashlight", lm=tmp_path))
    found = decoder.decode(spoken("hello you", 0.9)[:frames])
    assert found.text == ("hello you" if frames == 17 else "hello" if frames >= 9 else "")
    assert [word.text for word in found.words] == found.text.split()
    assert -12 < found.score <= 0  # without what ending within a word costs


def test_flashlights_words_appear_when_the_next_one_begins(tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    language_model(["hello you", "you hello"], tmp_path)
    stream = FlashlightDecoder(ENGLISH, BeamConfig(search="flashlight", lm=tmp_path)).start()
    seen = []
    for frame in spoken("hello you", 0.9):
        stream.accept(frame[None])
        seen.append(stream.hypothesis().text)
    assert [text for text, _ in itertools.groupby(seen)] == ["", "hello"]
    assert stream.spoken == (0, 17)  # of the word that is not shown yet, too: it is no silence
    assert stream.finish().text == "hello you"


def test_what_flashlight_cannot_do_is_said() -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    with pytest.raises(ConfigError, match="no hot words"):
        FlashlightDecoder(ENGLISH, BeamConfig(hot_words={"anna": 1.0}))
    for alphabet in (CHARACTERS, PHONEMES):
        with pytest.raises(ConfigError, match="needs words with spaces"):
            FlashlightDecoder(alphabet)


def spoken(text: str, certainty: float = 0.6) -> npt.NDArray[np.float32]:
    """(T, V) of English: a frame a letter and a blank after each."""
    labels = [label for index in ENGLISH.encode(text) for label in (index, ENGLISH.blank)]
    probabilities = np.full((len(labels), len(ENGLISH)), (1 - certainty) / (len(ENGLISH) - 1))
    probabilities[np.arange(len(labels)), labels] = certainty
    return np.log(probabilities).astype(np.float32)


def test_words_have_the_times_of_their_letters() -> None:
    log_probs = spoken("hello you")
    found = BeamDecoder(ENGLISH).decode(log_probs)
    assert found.text == "hello you"
    assert found.words == GreedyDecoder(ENGLISH).decode(log_probs).words


def test_a_language_model_mends_a_misspelling_in_whatever_case_it_is_written(tmp_path: Path) -> None:
    log_probs = spoken("helo you")
    assert BeamDecoder(ENGLISH).decode(log_probs).text == "helo you"
    for name, case in (("lower", str.lower), ("upper", str.upper)):
        folder = tmp_path / name
        folder.mkdir()
        language_model([case("hello you"), case("you hello")] * 5, folder)
        for path in (folder, str(folder)):
            config = BeamConfig(lm=path, token_min_logp=-9.0)
            assert BeamDecoder(ENGLISH, config).decode(log_probs).text == "hello you"


def test_hot_words_are_heard_more_readily() -> None:
    log_probs = spoken("anna", 0.3)
    log_probs[-2] = np.log(0.02 / (len(ENGLISH) - 2))
    log_probs[-2, ENGLISH.encode("ay")] = np.log([0.65, 0.33])
    assert BeamDecoder(ENGLISH).decode(log_probs).text == "anna"
    assert BeamDecoder(ENGLISH, BeamConfig(hot_words={"anny": 10.0})).decode(log_probs).text == "anny"
    assert BeamDecoder(ENGLISH, BeamConfig(hot_words={"anny": 0.01})).decode(log_probs).text == "anna"
    both = BeamConfig(hot_words={"anny": 5.0, "anna": 6.0})
    assert BeamDecoder(ENGLISH, both).decode(log_probs).text == "anna"
    for words, match in (({" ": 1.0}, "has no letter"), ({"anny": 1e3}, "'anny' is 1000")):
        with pytest.raises(ConfigError, match=match):
            BeamDecoder(ENGLISH, BeamConfig(hot_words=words))
    with pytest.raises(ConfigError, match="'zoé'"):
        BeamDecoder(ENGLISH, BeamConfig(hot_words={"zoé": 1.0}))
    for alphabet, word in ((CHARACTERS, "你"), (PHONEMES, "AH")):
        with pytest.raises(ConfigError, match="with spaces between them"):
            BeamDecoder(alphabet, BeamConfig(hot_words={word: 1.0}))


@pytest.mark.parametrize(
    ("letters", "word", "spelled"),
    [
        (" 'anokm", "Anna", "anna"),
        (" 'anokm", "ANNA", "anna"),
        (" 'ANOKM", "Anna", "ANNA"),
        (" 'anAN", "Anna", "Anna"),
        (" 'koma", "Ok’om", "ok'om"),
        (" ’koma", "ok’om", "ok’om"),
        (" cafeé", "Cafe\u0301", "café"),
        (" cafe\u0301", "cafe\u0301", "cafe\u0301"),
        (" 'anokm", "Anna  Kom", "anna kom"),
    ],
)
def test_hot_words_are_taken_in_the_models_letters(letters: str, word: str, spelled: str) -> None:
    decoder = BeamDecoder(Alphabet.of(letters), BeamConfig(hot_words={word: 3.0}))
    assert decoder.config.hot_words == {spelled: 3.0}
    assert pickle.loads(pickle.dumps(decoder)).config.hot_words == {spelled: 3.0}


def test_of_a_hot_word_only_letters_that_the_model_lacks_in_any_case_are_strange() -> None:
    with pytest.raises(ConfigError, match=r"'Zoé' has letters that the model does not know: \['é'\]"):
        BeamDecoder(ENGLISH, BeamConfig(hot_words={"Zoé": 1.0}))


def test_a_hot_word_adds_its_weight_and_is_not_unknown(tmp_path: Path) -> None:
    model = language_model(["hello you", "you hello"], tmp_path)
    log_probs = spoken("hello zed", 0.9)
    config = BeamConfig(lm=tmp_path, alpha=0.7, beta=0.9, hot_words={"zed": 4.0, "hello": 2.5})
    best = BeamDecoder(ENGLISH, config).readings(log_probs)[0]
    assert best.text == "hello zed"
    language = 0.7 * sentence_score(model, ["hello", "zed"]) + 2 * 0.9 + 4.0 + 2.5
    assert best.language == pytest.approx(language, abs=1e-4)


def test_the_beginning_of_a_hot_word_has_its_share_of_the_weight() -> None:
    """The largest of all that begin like that."""
    scorer = HotWordScorer({"annabel": 14.0, "anny": 4.0, "an other": 6.0}, None)
    begun = {"": 0, "a": 14 / 7, "an": 14 * 2 / 7, "ann": 14 * 3 / 7, "anny": 4, "oth": 6 / 2 * 3 / 5, "b": 0}
    assert [scorer.score_partial_token(part) for part in begun] == pytest.approx(list(begun.values()))


def test_a_hot_phrase_adds_its_weight_where_all_of_it_was_said(tmp_path: Path) -> None:
    """And nothing where it breaks off, at the end or before; of two that end together the heavier counts."""
    model = language_model(["hello you", "you hello"], tmp_path)
    phrases = {"hello zed": 4.0, "hello hello zed": 9.0, "you hello you": 6.0}
    said = {"hello zed": 4.0, "zed hello": 0.0, "hello hello zed": 9.0, "hello zed hello zed": 8.0, "you hello": 0.0}
    decoder = BeamDecoder(ENGLISH, BeamConfig(lm=tmp_path, alpha=0.7, beta=0.9, hot_words=phrases))
    assert pickle.loads(pickle.dumps(decoder)).config.hot_words == phrases
    for text, weight in said.items():
        best = decoder.readings(spoken(text, 0.9))[0]
        assert best.text == text
        words = text.split()
        language = 0.7 * sentence_score(model, words) + len(words) * 0.9 + weight
        assert best.language == pytest.approx(language, abs=1e-4)


def test_a_hot_phrase_mends_what_was_misheard() -> None:
    log_probs = spoken("anna lee", 0.8)
    frame = log_probs.argmax(axis=-1).tolist().index(ENGLISH.encode(" ")[0]) - 2
    log_probs[frame] = np.log(0.02 / (len(ENGLISH) - 2))
    log_probs[frame, ENGLISH.encode("ay")] = np.log([0.65, 0.33])
    assert BeamDecoder(ENGLISH).decode(log_probs).text == "anna lee"
    assert BeamDecoder(ENGLISH, BeamConfig(hot_words={"anny lee": 10.0})).decode(log_probs).text == "anny lee"
    assert BeamDecoder(ENGLISH, BeamConfig(hot_words={"anny xylo": 10.0})).decode(log_probs).text == "anna lee"


def test_several_readings_come_with_a_hypothesis_on_demand() -> None:
    log_probs = random_emissions(12, len(ENGLISH), 3)
    assert BeamDecoder(ENGLISH).decode(log_probs).readings == ()
    found = BeamDecoder(ENGLISH, BeamConfig(n_best=4)).decode(log_probs)
    assert list(found.readings) == BeamDecoder(ENGLISH).readings(log_probs, 4)
    assert len(found.readings) == 4
    assert found.readings[0][:2] == found[:2]


@pytest.mark.parametrize("search", ["beam", "flashlight"])
def test_several_readings_are_not_cut_short_by_a_tuned_beam(search: str, tmp_path: Path) -> None:
    if search == "flashlight":
        pytest.importorskip("flashlight.lib.text.decoder")
    language_model(TEXTS[LETTERS], tmp_path)
    (tmp_path / "decoder.json").write_text('{"alpha": 0.5, "beta": 1, "beam_width": 4}')
    log_probs = random_emissions(12, len(LETTERS), 3)
    widths = [({}, 4), ({"n_best": 5}, 20), ({"n_best": 5, "beam_width": 3}, 3), ({"n_best": 9999}, 10_000)]
    for fields, width in widths:
        decoder = make_decoder(BeamConfig(search=search, lm=tmp_path, **fields), LETTERS)  # type: ignore[arg-type]
        again = pickle.loads(pickle.dumps(decoder))
        assert decoder.beam_width == again.beam_width == width  # type: ignore[union-attr, attr-defined]
        if width == 20:
            assert len(decoder.decode(log_probs).readings) == 5


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_ends_as_the_whole_does(seed: int) -> None:
    log_probs = random_emissions(40, len(ENGLISH), seed)
    decoder = BeamDecoder(ENGLISH)
    whole = decoder.decode(log_probs)
    stream = decoder.start()
    for piece in np.split(log_probs, [0, 3, 4, 20, 20]):
        stream.accept(piece)
        stream.hypothesis()
    assert stream.frames == 40
    assert stream.hypothesis() == whole._replace(words=())
    assert stream.finish() == whole


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_a_letter_that_goes_on_in_the_next_utterance_is_heard_once(pieces: int) -> None:
    """In however many pieces it goes on, and again where it comes anew."""
    first, b = BeamDecoder(ENGLISH).start(), spoken("b")
    first.accept(spoken("ab")[:-1])  # ends within the b
    following = first.next()
    for piece in (*[b[:1]] * pieces, np.concatenate([b[:1], spoken("c")]), b):
        following.accept(piece)
    assert (first.hypothesis().text, following.hypothesis().text) == ("ab", "cb")
    assert following.frames == pieces + 5


def test_a_stream_keeps_its_own_frames_and_not_the_batch() -> None:
    batch = np.stack([spoken("ab")] * 50)
    stream = BeamDecoder(ENGLISH).start()
    stream.accept(batch[3])
    batch[:] = np.nan
    assert stream.finish().text == "ab"


def test_a_decoder_that_was_sent_to_another_process_reads_the_same(tmp_path: Path) -> None:
    language_model(["hello you", "you hello"], tmp_path)
    log_probs = spoken("helo you")
    for config in (BeamConfig(lm=tmp_path), BeamConfig(hot_words={"you": 3.0})):
        decoder = BeamDecoder(ENGLISH, config).weighing(1.2, 0.3, 9)
        again = pickle.loads(pickle.dumps(decoder))
        assert str(again) == str(decoder)
        assert again.readings(log_probs, 3) == decoder.readings(log_probs, 3)


def test_a_decoder_takes_its_language_model_along_when_it_goes(tmp_path: Path) -> None:
    from pyctcdecode import BeamSearchDecoderCTC

    language_model(["hello you"], tmp_path)
    gc.collect()
    before = len(BeamSearchDecoderCTC.model_container)
    decoders = [BeamDecoder(ENGLISH, BeamConfig(lm=tmp_path))]
    decoders.append(decoders[0].weighing(1.0, 1.0, 8))
    assert len(BeamSearchDecoderCTC.model_container) == before + 2
    decoders.clear()
    gc.collect()
    assert len(BeamSearchDecoderCTC.model_container) == before


def test_no_frames_are_an_empty_and_certain_transcript() -> None:
    decoder = make_decoder("beam", ENGLISH)
    assert decoder.decode(np.zeros((0, len(ENGLISH)), dtype=np.float32)) == Hypothesis("", 0.0)
    assert decoder.start().hypothesis() == Hypothesis("", 0.0)


@pytest.mark.parametrize(("value", "words"), [(np.nan, "they are NaN"), (-1.0, "the probabilities sum to")])
def test_what_are_no_probabilities_is_refused(value: float, words: str) -> None:
    log_probs = spoken("ab")
    log_probs[2] = value
    with pytest.raises(InferenceError, match=f"Frame 2 .*: {words}"):
        BeamDecoder(ENGLISH).decode(log_probs)
    stream = BeamDecoder(ENGLISH).start()
    stream.accept(log_probs[:1])
    with pytest.raises(InferenceError, match="Frame 2 "):
        stream.accept(log_probs[1:])


@pytest.mark.parametrize("fields", [{"alpha": -1}, {"alpha": 1e3}, {"beta": math.nan}, {"beam_width": 0}])
def test_settings_beyond_reason(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        BeamConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no section"),
        ("hello\nworld\n", "no section"),
        ("\\data\\\nngram 1=2\n\n\\1-grams:\n-1\ta\n", "cut off"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\t</s>\n\n\\end\\\n", "knows no word"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tпривет\n\n\\end\\\n", "another alphabet"),
        ("\\data\\\nngram 1=9\n\n\\1-grams:\n-x\thello\n\n\\end\\\n", "KenLM cannot read"),
        ("\\data\\\nngram 1=1\nngram 2=-9\n\n\\1-grams:\n-1\thello\n\n\\end\\\n", "damaged: it says 'ngram 2=-9'"),
        ("mmap lm http://kheafield.com/code format", "words.txt"),
    ],
)
def test_broken_language_models(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(content, encoding="utf-8")
    with pytest.raises(LanguageModelError, match=words):
        BeamDecoder(ENGLISH, BeamConfig(lm=tmp_path / "lm.arpa"))


def test_a_language_model_that_says_a_word_in_several_ways_is_not_another_alphabets(tmp_path: Path) -> None:
    words = ["one", "One", "ONE", "two", "TWO"]
    assert spelled(words, Alphabet.of(" enotw"), tmp_path) == {"one": "one", "two": "two"}
    (tmp_path / "lm.arpa").write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1\tone\n-1\tone\n-1\ttwo\n\n\\end\\\n")
    assert words_of_model(find_language_model(tmp_path)) == ["one", "two"]


def test_words_of_an_arpa_file_are_parted_by_ascii_spaces_alone(tmp_path: Path) -> None:
    """As KenLM parts them; of the web there are words with others."""
    arpa = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1\tnew\u00a0york\n-1\t\u3000\t-0.1\n-1 ok\n\n\\end\\\n"
    (tmp_path / "lm.arpa").write_text(arpa, encoding="utf-8")
    assert words_of_model(find_language_model(tmp_path)) == ["new\u00a0york", "\u3000", "ok"]
    alphabet = Alphabet.of(" bcéf")
    assert spelled(["fe\u0301e\u0301", "BE\u0301"], alphabet, tmp_path) == {"féé": "fe\u0301e\u0301", "bé": "BE\u0301"}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (gzip.compress, "is packed: unpack it first"),
        (bz2.compress, "is packed: unpack it first"),
        (lzma.compress, "is packed: unpack it first"),
        (codecs.BOM_UTF8.__add__, "begins with a byte order mark: save it as UTF-8 without one"),
        (lambda content: content.decode().encode("utf-16"), "begins with a byte order mark: save it as UTF-8"),
    ],
)
@pytest.mark.parametrize("search", ["beam", "flashlight"])
def test_language_models_as_they_were_downloaded_or_saved(
    search: str, written: Callable[[bytes], bytes], words: str, tmp_path: Path
) -> None:
    if search == "flashlight":
        pytest.importorskip("flashlight.lib.text.decoder")
    language_model(["hello you"], tmp_path)
    (tmp_path / "4gram.arpa.gz").write_bytes(written((tmp_path / "lm.arpa").read_bytes()))
    with pytest.raises(LanguageModelError, match=rf"4gram\.arpa\.gz {words}"):
        make_decoder(BeamConfig(search=search, lm=tmp_path / "4gram.arpa.gz"), ENGLISH)


def test_no_language_model_there(tmp_path: Path) -> None:
    with pytest.raises(LanguageModelError, match="no language model at"):
        BeamDecoder(ENGLISH, BeamConfig(lm=tmp_path / "nothing"))
    with pytest.raises(LanguageModelError, match=r"neither lm\.bin nor lm\.arpa"):
        BeamDecoder(ENGLISH, BeamConfig(lm=tmp_path))
    with pytest.raises(LanguageModelError, match="neither a file nor a folder"):
        BeamDecoder(ENGLISH, BeamConfig(lm=Path(os.devnull)))


@pytest.mark.parametrize(
    "content",
    [
        '{"alpha": 99, "beta": 1, "beam_width": 8}',
        '{"alpha": 1, "beta": 1, "beam_width": 0}',
        '{"alpha": 1, "beta": 1, "beam_width": 8, "x": ' + "[" * 100_000,
    ],
)
def test_settings_of_a_language_model_beyond_reason(content: str, tmp_path: Path) -> None:
    language_model(["hello you"], tmp_path)
    (tmp_path / "decoder.json").write_text(content)
    with pytest.raises(LanguageModelError, match=r"decoder\.json cannot be read: .*; let ds2 lm-tune write it again"):
        BeamDecoder(ENGLISH, BeamConfig(lm=tmp_path))


def test_words_beside_a_binary(tmp_path: Path) -> None:
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code")
    (tmp_path / "words.txt").write_text("hello\nyou\nhello\n", encoding="utf-8-sig")
    files = find_language_model(tmp_path)
    assert words_of_model(files) == ["hello", "you"]
    (tmp_path / "words.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(LanguageModelError, match=r"words\.txt is not text in UTF-8"):
        words_of_model(files)


@pytest.mark.parametrize("search", ["beam", "flashlight"])
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_weights_of_a_language_model_that_is_not_there(search: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--{name} weighs a language model, and there is none"):
        make_decoder(BeamConfig(search=search, **{name: 0.5}), ENGLISH, tmp_path)  # type: ignore[arg-type]
    alone = make_decoder(search, ENGLISH, tmp_path)
    assert str(pickle.loads(pickle.dumps(alone))) == str(alone) == f"{search} 64"


def test_the_models_own_language_model_is_taken_with_its_settings(tmp_path: Path) -> None:
    (tmp_path / "lm").mkdir()
    language_model(["hello you"], tmp_path / "lm")
    (tmp_path / "lm" / "decoder.json").write_text('{"alpha": 1.25, "beta": 2.5, "beam_width": 8}')
    decoder = make_decoder("beam", ENGLISH, tmp_path)
    assert isinstance(decoder, BeamDecoder)
    assert (decoder.alpha, decoder.beta, decoder.beam_width) == (1.25, 2.5, 8)
    named = make_decoder(BeamConfig(lm=tmp_path / "lm" / "lm.arpa"), ENGLISH, tmp_path)  # the file, not the folder
    assert str(named) == "beam 64, language model (alpha 0.5, beta 1)"
    chosen = make_decoder(BeamConfig(alpha=0.5), ENGLISH, tmp_path)
    assert isinstance(chosen, BeamDecoder)
    assert (chosen.alpha, chosen.beta) == (0.5, 2.5)
    alone = make_decoder(BeamConfig(lm="none"), ENGLISH, tmp_path)
    assert str(pickle.loads(pickle.dumps(alone))) == str(alone) == str(make_decoder("beam", ENGLISH)) == "beam 64"
    (tmp_path / "lm" / "decoder.json").write_text("{}")
    with pytest.raises(LanguageModelError, match=r"decoder\.json cannot be read"):
        make_decoder("beam", ENGLISH, tmp_path)
