"""ds2 lm-build and lm-tune, and the decoder's options, as a user calls them."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ds2_deploy.commands.common import chosen_decoder
from ds2_deploy.decoding.beam import BeamDecoder
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.language_model import LmSettings, find_language_model
from ds2_deploy.decoding.search import BeamConfig
from ds2_deploy.errors import LanguageModelError
from ds2_deploy.metrics import Errors
from ds2_deploy.text.alphabet import ENGLISH, Alphabet
from tests.conftest import Ds2, noise, read_only
from tests.test_beam import spoken
from training.lm_tune import ALPHAS, ASKED, SEARCH_WIDTH, WIDTHS, Heard, Trial, Tuned, plot, steadiest, tune
from training.ngram import estimate

pytest.importorskip("pyctcdecode")
SAMPLE = Path(__file__).parent.parent / "samples" / "code-rms.flac"


def test_a_text_becomes_a_language_model_that_the_search_takes(ds2: Ds2, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Six two nine eight. Six, TWO!\n\ncafé 3, 33\nnine eight “six”?\n")
    code, out, err = ds2("lm-build", text, "--out", tmp_path / "lm", "--order", "2")
    assert (code, out) == (0, "")
    assert "3 sentences, 9 words" in err
    assert err.startswith("ds2: 1 of 4 sentences are left out: default cannot spell '3' in 1, 'é' in 1 of them.\n")
    assert "ngram 1=7\n" in (tmp_path / "lm" / "lm.arpa").read_text()  # four words and three marks
    code, out, err = ds2("transcribe", SAMPLE, "--lm", tmp_path / "lm")
    assert (code, out, err) == (0, "six two nine eight\n", "")


def test_another_language_model_is_replaced_on_demand_with_all_that_belonged_to_it(ds2: Ds2, tmp_path: Path) -> None:
    text, lm = tmp_path / "text.txt", tmp_path / "lm"
    text.write_text("hello you\n", encoding="utf-8-sig")
    lm.mkdir()
    for name in ("lm.bin", "words.txt", "decoder.json"):
        (lm / name).write_text("old")
    code, _, err = ds2("lm-build", text, "--out", lm)
    assert code == 1
    assert "lm.bin exists" in err
    assert ds2("lm-build", text, "--out", lm, "--overwrite").code == 0
    assert [path.name for path in lm.iterdir()] == ["lm.arpa"]
    assert "\thello\t" in (lm / "lm.arpa").read_text()  # no byte order mark


def test_a_manifest_is_a_text_too(ds2: Ds2, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "a.wav", "duration": 1.0, "text": "hello you"}) + "\n")
    assert ds2("lm-build", manifest, "--out", tmp_path / "lm")[0] == 0
    assert "\thello you\t" in (tmp_path / "lm" / "lm.arpa").read_text()


def test_several_sources_and_a_text_that_is_mostly_lost(ds2: Ds2, tmp_path: Path) -> None:
    """Of a manifest each text is one, which the search will hear as one; of a text file each sentence."""
    manifest, names = tmp_path / "m.jsonl", tmp_path / "names.txt"
    manifest.write_text(json.dumps({"audio_filepath": "a.wav", "duration": 1.0, "text": "Hello. You!"}) + "\n")
    names.write_text("Model 3 it is. Model 4. 4!\n4\n")
    code, out, err = ds2("lm-build", manifest, names, "--out", tmp_path / "lm")
    assert (code, out) == (0, "")
    left_out, made = err.splitlines()
    lost = "4 of 5 sentences, most of the text, are left out"
    assert left_out == f"ds2: {lost}: default cannot spell '4' in 3, '3' in 1 of them."
    assert "1 sentences, 2 words" in made
    assert "\thello you\t" in (tmp_path / "lm" / "lm.arpa").read_text()


@pytest.mark.parametrize(
    ("content", "options", "code", "words"),
    [
        (None, [], 1, "no text at"),
        (b"\xff\xfe\x00", [], 1, "not text in UTF-8: byte 0 is none of it."),
        (b"\n", [], 1, "text.txt holds no text."),
        (b"...\n", [], 1, "no sentence in"),
        ("привет\n".encode(), [], 1, "default cannot spell 'в' in 1, 'е' in 1"),
        ("привет\n".encode(), [], 1, "that the letters of default can spell: --model names another"),
        (b"hello\n", ["--order", "9"], 2, "order is 9"),
        (b"hello\n", ["--order", "1"], 2, "--order is 1"),
        (b"hello\n", ["--prune", "0", "--prune", "2", "--prune", "1"], 2, "thresholds"),
        (b"hello\n", ["--prune", "1", "--prune", "0"], 2, "thresholds"),
    ],
)
def test_wrong_texts(
    ds2: Ds2, tmp_path: Path, content: bytes | None, options: list[str], code: int, words: str
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    found, out, err = ds2("lm-build", text, "--out", tmp_path / "lm", *options)
    assert (found, out) == (code, "")
    assert words in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "lm").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--decoder", "fancy"], 2, "no decoder 'fancy'"),
        (["--decoder", "greedy", "--alpha", "1"], 2, "--alpha is for a search"),
        (["--decoder", "greedy", "--hot-word", "x"], 2, "--hot-word is for a search"),
        (["--alpha", "99"], 2, "alpha is 99"),
        (["--lm", "none", "--alpha", "1"], 2, "--alpha weighs a language model, and there is none"),
        (["--lm", "nowhere.arpa"], 1, "no language model at nowhere.arpa"),
        (["--hot-word", "naïve"], 2, "naïve"),
        (["--hot-word", "anna=much"], 2, "'anna=much' has no number after its ="),
        (["--hot-words", "nowhere.txt"], 1, "no text at nowhere.txt"),
        (["--hot-word", "anna=-1"], 2, "'anna' is -1"),
        (["--n-best", "3"], 2, "--format json"),
        (["--n-best", "3", "--format", "json", "--stream"], 2, "--stream"),
        (["--n-best", "3", "--format", "json", "--decoder", "greedy"], 2, "--n-best is for a search"),
    ],
)
def test_wrong_options_of_the_search(ds2: Ds2, options: list[str], code: int, words: str) -> None:
    found, out, err = ds2("transcribe", SAMPLE, *options)
    assert (found, out) == (code, "")
    assert words in " ".join(err.replace("│", " ").split())


def test_hot_words_come_from_a_file_too(ds2: Ds2, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("Lisboa\r\n\n Anna Lee = 3\nzoe\n", encoding="utf-8-sig")
    found = chosen_decoder(None, None, None, None, None, ["zoe=1"], file)
    assert isinstance(found, BeamConfig)
    assert found.hot_words == {"Lisboa": 10.0, "Anna Lee ": 3.0, "zoe": 1.0}
    assert ds2("transcribe", SAMPLE, "--hot-words", file).out == "six two nine eight\n"
    file.write_text("\n")
    code, _, err = ds2("transcribe", SAMPLE, "--hot-words", file)
    assert (code, err) == (1, f"ds2: {file} holds no hot word.\n")


def heard(texts: list[str]) -> Heard:
    """Recordings in which every double letter is hard to hear."""
    frames = []
    for text in texts:
        log_probs = spoken(text, 0.5)
        for i in range(1, len(text)):
            if text[i] == text[i - 1]:  # hardly a blank between the two: one letter is as probable
                log_probs[2 * i - 1] = np.log(0.01 / (len(ENGLISH) - 2))
                log_probs[2 * i - 1, [ENGLISH.blank, ENGLISH.encode(text[i])[0]]] = np.log([0.45, 0.54])
        frames.append(log_probs)
    return Heard(ENGLISH, "en", frames, texts)


TEXTS = ["hello miss anna", "anna will see all", "miss hello", "all will see anna"]


def language_model(folder: Path) -> Path:
    folder.mkdir()
    with (folder / "lm.arpa").open("w") as out:
        estimate([text.split() for text in TEXTS], 2).write(out)
    return folder


def test_tuning_finds_weights_that_mend_what_the_network_misheard(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    lm = language_model(tmp_path / "lm")
    tuned = tune(heard(TEXTS), lm, 6, 2)
    assert tuned.greedy.word_errors >= 8
    assert tuned.best.errors.word_errors < tuned.greedy.word_errors
    assert tuned.best.cost == min(trial.cost for trial in tuned.widths)
    assert next(trial.beam_width for trial in tuned.widths if trial.cost <= tuned.best.cost) == tuned.best.beam_width
    assert len({trial.alpha for trial in tuned.trials}) == 6
    assert all(ALPHAS[0] <= trial.alpha <= ALPHAS[1] for trial in tuned.trials)
    plot(tuned, tmp_path / "surface.png")
    assert (tmp_path / "surface.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much a pool of processes, which is this one, is given at once."""
    sizes: list[int] = []

    class Here:
        def __init__(self, *_: object) -> None: ...

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...

        def map(self, function: Callable[..., Trial], choices: Iterable[tuple[float, ...]]) -> Iterator[Trial]:
            listed = list(choices)
            sizes.append(len(listed))
            return map(function, listed)

    monkeypatch.setattr("training.lm_tune.ProcessPoolExecutor", Here)
    return sizes


def test_any_number_of_processes_tries_the_same_weights(given: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")

    def tried(alpha: float, beta: float, width: int = SEARCH_WIDTH) -> Trial:
        return Trial(alpha, beta, width, Errors(1, 10, 1, 10), (alpha - 1) ** 2 + (beta - 2) ** 2)

    for name in ("tried", "at_width"):
        monkeypatch.setattr(f"training.lm_tune._Worker.{name}", lambda choice: tried(*choice))
    one, two, many = (tune(heard(TEXTS), Path("lm"), 2 * ASKED + 3, workers) for workers in (1, 2, 96))
    assert one.trials == two.trials == many.trials
    assert given[:4] == [ASKED, ASKED, 3, 6]  # proposals, then beams
    assert len({trial.alpha for trial in one.trials}) == 2 * ASKED + 3


@pytest.mark.usefixtures("given")
def test_tuning_takes_the_steadiest_weights_and_the_narrowest_beam_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 60 trials one outside the good place is cheaper than all others, by luck; and beams below 16 lose words."""
    pytest.importorskip("optuna")
    lucky: list[tuple[float, float]] = []

    def good(alpha: float, beta: float) -> bool:
        return 0.3 <= alpha <= 1.8 and -1.0 <= beta <= 2.0

    def tried(alpha: float, beta: float, width: int) -> Trial:
        if not lucky and not good(alpha, beta):
            lucky.append((alpha, beta))
        wrong = 18 if (alpha, beta) in lucky else 20 if good(alpha, beta) else 40
        wrong += 5 * (width < 16)
        return Trial(alpha, beta, width, Errors(wrong, 100, wrong, 400), wrong / 100)

    monkeypatch.setattr("training.lm_tune._Worker.tried", lambda choice: tried(*choice, SEARCH_WIDTH))
    monkeypatch.setattr("training.lm_tune._Worker.at_width", lambda choice: tried(*choice))
    steps: list[None] = []
    tuned = tune(heard(TEXTS), tmp_path, 60, 4, lambda: nullcontext(steps.append(None)))
    assert len(steps) == len(tuned.trials) == 60
    cheapest = min(tuned.trials, key=lambda trial: trial.cost)
    assert [(cheapest.alpha, cheapest.beta)] == lucky
    assert sum(good(trial.alpha, trial.beta) for trial in tuned.trials) > 6
    assert good(tuned.best.alpha, tuned.best.beta)
    settings = tuned.settings
    assert (settings.alpha, settings.beta) == (round(tuned.best.alpha, 3), round(tuned.best.beta, 3))
    assert (settings.beam_width, tuned.best.beam_width, tuned.best.cost) == (16, 16, 0.2)
    assert [(trial.alpha, trial.beta) for trial in tuned.widths] == [(tuned.best.alpha, tuned.best.beta)] * len(WIDTHS)


def test_of_a_flat_place_the_middle_is_taken() -> None:
    """A hundred trials on a grid: right in a square, where its edges end at once, and by luck at one lone point."""

    def trial(alpha: float, beta: float) -> Trial:
        inside = 0.5 <= alpha <= 1.7 and -1.0 <= beta <= 1.4
        wrong = 18 if (alpha, beta) == (2.7, 3.4) else 20 if inside else 40
        errors = Errors(word_errors=wrong, words=100, character_errors=wrong, characters=400)
        return Trial(alpha, beta, 64, errors, wrong / 100)

    grid = [trial(round(0.3 * i, 3), round(-2 + 0.6 * j, 3)) for i in range(10) for j in range(10)]
    assert trial(2.7, 3.4) in grid
    middle = steadiest(grid)
    assert abs(middle.alpha - 1.1) <= 0.31
    assert abs(middle.beta - 0.2) <= 0.61
    few = grid[-9:]  # too few to have neighbours
    assert steadiest(few) == min(few, key=lambda trial: trial.cost)


def test_other_weights_are_those_of_a_new_decoder(tmp_path: Path) -> None:
    lm = language_model(tmp_path / "lm")
    frames: list[npt.NDArray[np.float32]] = heard(TEXTS).frames
    reweighed = BeamDecoder(ENGLISH, BeamConfig(lm=lm)).weighing(1.5, -0.5, 16)
    new = BeamDecoder(ENGLISH, BeamConfig(lm=lm, alpha=1.5, beta=-0.5, beam_width=16))
    assert reweighed._scorer._model is BeamDecoder.weighing(reweighed, 1.0, 1.0, 4)._scorer._model  # type: ignore[union-attr]
    assert [reweighed.readings(f, 4) for f in frames] == [new.readings(f, 4) for f in frames]


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("an4-test.jsonl", True),
        ("an4.test.jsonl", True),
        ("test.clean.jsonl", True),
        ("test2.jsonl", True),
        ("Test/all.jsonl", True),
        ("test-clean/all.jsonl", True),
        ("test/valid.jsonl", False),
        ("sets/contest.jsonl", False),
        ("tested/latest.jsonl", False),
    ],
)
def test_tuning_refuses_a_test_set(ds2: Ds2, tmp_path: Path, name: str, refused: bool) -> None:
    code, _, err = ds2("lm-tune", "default", tmp_path / name, "--lm", tmp_path / "none")
    assert (code, "is a test set by its name" in err) == (1, refused)


def test_tuning_refuses_what_is_no_language_model(ds2: Ds2, tmp_path: Path) -> None:
    code, _, err = ds2("lm-tune", "default", tmp_path / "valid.jsonl", "--lm", tmp_path / "none")
    assert code == 1
    assert "ds2 lm-build" in err


def test_the_bundled_models_have_language_models_with_settings() -> None:
    from ds2_deploy.model_folder import bundled_models, open_model

    for name in bundled_models():
        try:
            files = find_language_model(open_model(name).path / "lm")
        except LanguageModelError:
            pytest.fail(f"{name} has no language model")
        assert files.settings is not None


@pytest.mark.parametrize("language", ["en", "en-phonemes"])
def test_what_is_heard_counts_as_the_language_spells_it(language: str) -> None:
    """A network with capitals among its labels; one of phonemes that no word has is taken as it is."""
    alphabet = Alphabet.of("ab AB") if language == "en" else Alphabet.of(["AA", "QQ"])
    text, said = ("ab ba", "aB Ba") if language == "en" else ("AA", "AA QQ")
    path = [label for one in alphabet.encode(said) for label in (one, alphabet.blank)]
    frames = np.full((len(path), len(alphabet)), -9.0, np.float32)
    frames[np.arange(len(path)), path] = -0.01
    errors = Heard(alphabet, language, [frames], [text]).errors(GreedyDecoder(alphabet))
    assert errors.word_errors == (0 if language == "en" else 1)


def test_texts_without_a_spelling_are_left_out_before_anything_is_heard(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    language_model(tmp_path / "lm")
    texts = ["hello", "a name that CMUdict lacks", "miss"]
    told = "".join(f'{{"audio_filepath": "a.wav", "duration": 1, "text": "{text}"}}\n' for text in texts)
    (tmp_path / "valid.jsonl").write_text(told)
    monkeypatch.setattr("ds2_deploy.text.languages.spelling", lambda text, _: None if " " in text else text)
    code, _, err = ds2("lm-tune", "default", tmp_path / "valid.jsonl", "--lm", tmp_path / "lm")
    first, *lost, last = err.splitlines()
    assert (code, first) == (1, "ds2: 1 of 3 recordings left out: their texts have words without a spelling.")
    assert len(lost) == 2
    assert all("There is no file" in line for line in lost)
    assert last == "ds2: No recording that was heard has words to tune with."


def test_texts_without_words_are_told_before_anything_is_heard(ds2: Ds2, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    language_model(tmp_path / "lm")
    (tmp_path / "valid.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1, "text": " "}\n')
    code, _, err = ds2("lm-tune", "default", tmp_path / "valid.jsonl", "--lm", tmp_path / "lm")
    assert (code, err) == (1, "ds2: No text of the manifest has words to tune with.\n")


def test_the_packages_own_weights_are_not_tuned(ds2: Ds2, tmp_path: Path) -> None:
    (tmp_path / "valid.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1, "text": "hello"}\n')
    code, _, err = ds2("lm-tune", "default", tmp_path / "valid.jsonl")
    assert (code, "comes with the package: ds2 export default --out FOLDER" in err) == (1, True)


def test_recordings_that_cannot_be_read_are_told_and_left_out(ds2: Ds2, tmp_path: Path) -> None:
    """As ds2 evaluate does: hours of the others are not lost."""
    pytest.importorskip("optuna")
    language_model(tmp_path / "lm")
    soundfile.write(tmp_path / "fine.wav", noise(8000), 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing more")
    names = ("broken", "fine")
    told = "".join(f'{{"audio_filepath": "{name}.wav", "duration": 0.5, "text": "hello"}}\n' for name in names)
    (tmp_path / "valid.jsonl").write_text(told)
    options = ("--lm", tmp_path / "lm", "--trials", 1, "--workers", 1)
    code, out, err = ds2("lm-tune", "default", tmp_path / "valid.jsonl", *options)
    settings, picture = tmp_path / "lm" / "decoder.json", tmp_path / "lm" / "lm-tune.png"
    assert (code, "broken.wav" in err) == (1, True)
    assert err.endswith(f"Wrote {settings} and {picture}.\n" if picture.is_file() else f"Wrote {settings}.\n")
    assert "of 1" in out
    assert (tmp_path / "lm" / "decoder.json").is_file()


@pytest.mark.parametrize(("wrong", "told"), [(7, True), (1, False), (0, False)])
def test_a_language_model_that_does_harm_is_told(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int, told: bool
) -> None:
    lm = language_model(tmp_path / "lm")
    line = {"audio_filepath": str(SAMPLE), "duration": 2.0, "text": "six two nine eight"}
    (tmp_path / "valid.jsonl").write_text(json.dumps(line) + "\n")
    best, greedy = (Trial(1.0, 1.0, 8, Errors(count, 100, count, 400), 0.0) for count in (wrong, 1))
    settings = LmSettings(alpha=1.0, beta=1.0, beam_width=8)
    tuned = Tuned(settings, best, [best], [best], greedy.errors, greedy.errors, "WER")
    monkeypatch.setattr("training.lm_tune.tune", lambda *_: tuned)
    code, _, err = ds2("lm-tune", "default", tmp_path / "valid.jsonl", "--lm", lm)
    warning = "With this language model more words are wrong than by greedy decoding (7, was 1)"
    assert (code, warning in err) == (0, told)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_heard(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lm").mkdir()
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    code, _, err = ds2("lm-tune", "default", tmp_path / "valid.jsonl", "--lm", tmp_path / "lm")
    assert (code, err) == (1, f"ds2: Cannot write into {tmp_path / 'lm'}: Read-only file system.\n")
