"""What `ds2 evaluate` counts and shows, against counts made by hand and by the edit distance."""

import html.parser
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import soundfile

from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.errors import AudioError
from ds2_deploy.evaluation import Group, Scored, evaluate
from ds2_deploy.manifest import Utterance
from ds2_deploy.metadata import Provenance
from ds2_deploy.metrics import Errors, Kinds, align_tokens
from ds2_deploy.output.differences import (
    differences,
    for_pipe,
    for_terminal,
    group_columns,
    group_row,
    worst,
    write_html,
)
from ds2_deploy.result import Result
from ds2_deploy.text.alphabet import Alphabet
from ds2_deploy.text.languages import LANGUAGES
from tests.conftest import ConvModel, Ds2, noise
from tests.tiny import MODELS, tiny_metadata

ENGLISH = LANGUAGES["en"]


def scored(name: str, reference: str, hypothesis: str, speaker: str = "", duration_s: float = 1.0) -> Scored:
    errors, kinds = Errors.between(reference, hypothesis), Kinds.between(reference.split(), hypothesis.split())
    return Scored(Utterance(Path(name), duration_s, reference, speaker), hypothesis, duration_s, errors, kinds)


@pytest.mark.parametrize("seed", range(50))
def test_an_alignment_has_as_many_errors_as_the_edit_distance_and_everything_in_order(seed: int) -> None:
    draw = random.Random(seed)
    reference, hypothesis = ([draw.choice("abc") for _ in range(draw.randint(0, 9))] for _ in range(2))
    pairs = align_tokens(reference, hypothesis)
    assert [i for i, _ in pairs if i is not None] == list(range(len(reference)))
    assert [j for _, j in pairs if j is not None] == list(range(len(hypothesis)))
    wrong = sum(i is None or j is None or reference[i] != hypothesis[j] for i, j in pairs)
    assert wrong == Errors.between(" ".join(reference), " ".join(hypothesis)).word_errors
    assert sum(Kinds.between(reference, hypothesis)) == wrong


@pytest.mark.parametrize(
    ("reference", "hypothesis", "kinds", "shown"),
    [
        ("a b c", "a b c", (0, 0, 0), "a b c"),
        ("a b c", "a x c", (1, 0, 0), "a [-b-] {+x+} c"),
        ("a b c", "a c", (0, 1, 0), "a [-b-] c"),
        ("a c", "a b c", (0, 0, 1), "a {+b+} c"),
        ("", "a", (0, 0, 1), "{+a+}"),
        ("a", "", (0, 1, 0), "[-a-]"),
        ("a b c d", "x c d e", (1, 1, 1), "[-a b-] {+x+} c d {+e+}"),
    ],
)
def test_kinds_and_differences(reference: str, hypothesis: str, kinds: tuple[int, int, int], shown: str) -> None:
    assert Kinds.between(reference.split(), hypothesis.split()) == kinds
    assert for_pipe(differences(scored("1", reference, hypothesis), ENGLISH), " ") == shown


def test_a_terminal_sees_colours() -> None:
    assert for_terminal(differences(scored("1", "a b", "a c"), ENGLISH), " ") == "a \x1b[31;9mb\x1b[0m \x1b[32mc\x1b[0m"


def test_the_worst_come_first_and_right_ones_not_at_all() -> None:
    every = [scored("1", "a b", "a b"), scored("2", "a b", "a x"), scored("3", "a b c", "x y c"), scored("4", "a", "")]
    assert [s.reference.path.name for s in worst(every, 2, ENGLISH)] == ["3", "4"]
    assert [s.reference.path.name for s in worst(every, 9, ENGLISH)] == ["3", "4", "2"]


def test_where_no_spaces_part_words_errors_are_characters() -> None:
    mandarin = LANGUAGES["zh"]
    every = [scored("1", "设定三十二度上下", "设定三十度上下了"), scored("2", "好的吗", "不是了")]
    assert for_pipe(differences(every[0], mandarin), mandarin.unit_separator) == "设定三十[-二-]度上下{+了+}"
    assert [s.reference.path.name for s in worst(every, 2, mandarin)] == ["2", "1"]
    assert group_columns(mandarin) == ("recordings", "CER", "characters wrong", "WER")
    assert group_row(Group.of("a", every), mandarin) == ("a", "2", "45.45%", "5 of 11", "100.00%")


def test_a_group_counts_words_not_recordings() -> None:
    group = Group.of("x", [scored("1", "a b c", "a b c"), scored("2", "a", "b")])
    assert (group.utterances, group.word_errors, group.words, group.wer) == (2, 1, 4, 0.25)


class Reader(html.parser.HTMLParser):
    """The tags that are open, and the text within each."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, _: object) -> None:
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_a_manifest_is_evaluated_speaker_by_speaker(ds2: Ds2, conv_model: ConvModel, tmp_path: Path) -> None:
    import json

    import soundfile

    from tests.conftest import noise

    lines, said = [], []
    for i, speaker in enumerate(["ann", "bob", "bob"]):
        samples = noise(16000 * (i + 1), seed=i)
        soundfile.write(tmp_path / f"{i}.wav", samples, 16000, subtype="FLOAT")
        text = conv_model.text(samples) if i != 1 else "<b> & nothing of that"
        said.append(text)
        lines.append({"audio_filepath": f"{i}.wav", "duration": i + 1.0, "text": text, "speaker": speaker})
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = tmp_path / "page.html"
    code, out, err = ds2("evaluate", conv_model.path, manifest, "--worst", "5", "--breakdown", "--html", page)
    warning = "ds2: 1 of 3 texts have characters that the model cannot write ('&' '<' '>'): they count as errors.\n"
    assert (code, err) == (0, warning)
    assert "substituted" in out
    assert f"{tmp_path / '1.wav'}: " in out
    assert str(tmp_path / "0.wav") not in out
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.open == []
    assert "<b> & nothing of that" in reader.texts["del"]
    as_json = json.loads(ds2("evaluate", conv_model.path, manifest, "--json").out)
    assert (as_json["unwritable"], as_json["unwritable_texts"]) == (["&", "<", ">"], 1)
    assert [(g["name"], g["utterances"]) for g in as_json["speakers"]] == [("bob", 2), ("ann", 1)]
    assert as_json["speakers"][1]["wer"] == 0
    assert [g["name"] for g in as_json["lengths"]] == ["1 to 2 s", "2 to 4 s"]
    kinds = [as_json[name] for name in ("substitutions", "deletions", "insertions")]
    assert sum(kinds) == as_json["word_errors"] > 0
    assert as_json["decoder"] == "greedy"


def test_what_was_learnt_from_and_durations_that_lie_are_told(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One recording longer by 0.1 s and a tenth is as long as said; another one is a part of it, by its line."""
    name = Path("corpus", "train.jsonl")
    told = {"a": 1.0, "b": 0.9, "c": 0.3}
    (tmp_path / "corpus").mkdir()
    lines = (f'{{"audio_filepath": "{key}.wav", "duration": {s}, "text": "a"}}\n' for key, s in told.items())
    (tmp_path / name).write_text("".join(lines))
    recognizer = one_who_hears(
        [Result(key, Hypothesis("a", 0.0), 1.0) for key in told], provenance=Provenance(train=(name.as_posix(),))
    )
    monkeypatch.setattr("ds2_deploy.recognizer.Recognizer.open", lambda *_, **__: recognizer)
    monkeypatch.chdir(tmp_path / "corpus")
    code, _, err = ds2("evaluate", "default", "train.jsonl")
    learnt, durations = err.splitlines()
    assert (code, learnt) == (
        0,
        "ds2: default has learnt from a manifest called corpus/train.jsonl: if it is this one, this is no test.",
    )
    assert "1 of 3 recordings are not as long as train.jsonl says" in durations
    assert f"{tmp_path / 'corpus' / 'c.wav'} (0.3 s there, 1.0 s heard)" in durations


@pytest.fixture
def two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of forty recordings of two words; of the model `new` every second one has the first word wrong, of
    `old` every fourth, and `deaf` cannot be heard on the last."""
    results = {
        name: [Result(str(i), Hypothesis("x b" if i % every == 0 else "a b", 0.0), 1.0) for i in range(40)]
        for name, every in {"new": 2, "old": 4, "deaf": 4}.items()
    }
    results["deaf"][-1] = Result("39", AudioError("39.wav: cut off"), 1.0)
    monkeypatch.setattr("ds2_deploy.recognizer.Recognizer.open", lambda name, **_: one_who_hears(results[name]))
    lines = (f'{{"audio_filepath": "{i}.wav", "duration": 1.0, "text": "a b"}}\n' for i in range(40))
    (tmp_path / "m.jsonl").write_text("".join(lines))
    return tmp_path / "m.jsonl"


def test_two_models_are_compared_recording_by_recording(ds2: Ds2, two_models: Path) -> None:
    """The interval is of the differences: by those of each model alone the two might be as good."""
    code, out, err = ds2("evaluate", "new", two_models, "--against", "old")
    assert (code, err) == (0, "")
    assert re.search(r"^WER 25.00% .*: 20 of 80 words$", out, re.MULTILINE)
    line = out.splitlines()[-1]
    found = re.fullmatch(
        r"against old, WER 12.50%: \+12.50% \(95% interval \+(.*)% to \+(.*)%\), \+10 words wrong", line
    )
    assert found
    deviation = 100 * (0.25 * 0.75 / 40) ** 0.5 / 2  # of a share of a quarter of 40, each of two words
    assert [float(end) for end in found.groups()] == pytest.approx(
        [12.5 - 1.96 * deviation, 12.5 + 1.96 * deviation], abs=1
    )
    same = json.loads(ds2("evaluate", "new", two_models, "--against", "new", "--json").out)["against"]
    assert same == {
        "model": "new", "wer": 0.25, "cer": pytest.approx(1 / 6), "more_errors": 0,
        "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "against", "fail_over", "code"),
    [
        ("new", "old", 0, 1),
        ("new", "old", 12.4, 1),
        ("new", "old", 12.6, 0),
        ("old", "new", 0, 0),
        ("old", "old", 0, 0),
    ],
)
def test_a_worse_model_ends_with_1(
    ds2: Ds2, two_models: Path, model: str, against: str, fail_over: float, code: int
) -> None:
    outcome = ds2("evaluate", model, two_models, "--against", against, "--fail-over", fail_over)
    assert outcome.code == code
    assert ("ds2: new is worse than old by more than" in outcome.err) == (code == 1)


def test_what_only_one_model_heard_is_not_compared(ds2: Ds2, two_models: Path) -> None:
    code, out, err = ds2("evaluate", "new", two_models, "--against", "deaf")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "ds2: 39.wav: cut off",
        "ds2: deaf was not heard on the same recordings and texts: there is nothing to compare.",
    ]
    assert ds2("evaluate", "new", two_models, "--fail-over", "1").code == 2


def test_worst_recordings_are_not_for_json(ds2: Ds2, conv_model: ConvModel, tmp_path: Path) -> None:
    outcome = ds2("evaluate", conv_model.path, tmp_path / "m.jsonl", "--json", "--worst", "3")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--worst does not go with --json" in " ".join(outcome.err.split())


def test_a_file_of_its_name_does_not_hide_a_bundled_model(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000), 16000)
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 0.5, "text": "a"}\n')
    (tmp_path / "default").write_text("notes")
    monkeypatch.chdir(tmp_path)
    assert ds2("evaluate", "default", "m.jsonl").code == 0


def one_who_hears(results: list[Result], **metadata: Any) -> Any:
    """A recogniser with these results, of a model with such metadata."""
    return SimpleNamespace(
        metadata=msgspec.structs.replace(tiny_metadata(MODELS["gru, two directions, 2d"]), **metadata),
        backend=SimpleNamespace(name="onnxruntime", device="cpu"),
        decoder="greedy",
        transcribe=lambda paths: iter(results[: len(list(paths))]),
    )


@pytest.mark.parametrize(
    ("language", "labels", "texts", "unwritable"),
    [
        ("en", " ab", ["a b", "Ab"], []),
        ("en", " AB", ["a b", "Ab"], []),
        ("en", " ab", ["a, b.", "b.", "ab"], [",", "."]),
        ("en", " ae\u0301", ["\u00e9a", "e"], []),
        ("en", " ae", ["\u00e9a", "e"], ["\u00e9"]),
        ("en", " ae\u00e9\u00e0", ["\u00e9a", "\u00e1"], ["\u00e1"]),  # which is made of parts of several labels
        ("zh", "\uac00\ub9c9\ub098", ["\uac01"], ["\uac01"]),
        ("en-phonemes", ["SIL", "HH", "AH"], ["HH AH", "HH OW"], ["OW"]),
        ("zh", "你好", ["你，好", "好吗"], ["吗"]),
    ],
)
def test_what_a_model_cannot_write_is_named(
    language: str, labels: str | list[str], texts: list[str], unwritable: list[str]
) -> None:
    results = [Result("1", Hypothesis("", 0.0), 1.0)] * len(texts)
    recognizer = one_who_hears(results, language=language, alphabet=Alphabet.of(labels))
    evaluation, _, _ = evaluate(recognizer, [Utterance(Path(text), 1.0, text) for text in texts])
    assert evaluation.unwritable == unwritable
    assert evaluation.unwritable_texts == sum(any(sign in text for sign in unwritable) for text in texts)
    assert (evaluation.warning() is None) == (not unwritable)


def test_of_the_many_that_a_model_cannot_write_ten_are_shown() -> None:
    recognizer = one_who_hears([Result("1", Hypothesis("", 0.0), 1.0)])
    evaluation, _, _ = evaluate(recognizer, [Utterance(Path("1"), 1.0, "one 0123456789+-")])
    assert evaluation.warning() == (
        "1 of 1 texts have characters that the model cannot write ('+' '-' '0' '1' '2' '3' '4' '5' '6' '7' and 2 more):"
        " they count as errors."
    )


def test_mandarin_is_counted_ranked_and_shown_by_characters(tmp_path: Path) -> None:
    """With a recording that failed after a second of it was heard, which counts in nothing."""
    told = {"1": ("设定三十二度上下", "设定三十度上下了", "a"), "2": ("好的吗", "不是了", "b"), "3": ("好", "", "b")}
    results = [
        Result("1", Hypothesis(told["1"][1], 0.0), 2.0),
        Result("2", Hypothesis(told["2"][1], 0.0), 1.0),
        Result("3", AudioError("cut off"), 1.0),
    ]
    recognizer = one_who_hears(results, language="zh")
    references = [Utterance(Path(name), 1.0, said, speaker) for name, (said, _, speaker) in told.items()]
    evaluation, every, failures = evaluate(recognizer, references)
    assert [str(failure) for failure in failures] == ["cut off"]
    assert evaluation.audio_s == 3.0
    assert (evaluation.substitutions, evaluation.deletions, evaluation.insertions) == (3, 1, 1)
    assert [group.name for group in evaluation.speakers] == ["b", "a"]
    assert "of the characters 3 substituted" in evaluation.summary()
    write_html(tmp_path / "page.html", "title", evaluation, every)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<th>Characters wrong</th>" in page
    assert page.index("3/3") < page.index("2/8")


def test_texts_without_words_have_no_rate() -> None:
    recognizer = one_who_hears([Result("1", Hypothesis("oh no", 0.0), 1.0)])
    evaluation, _, _ = evaluate(recognizer, [Utterance(Path("1"), 1.0, "", None)])
    assert evaluation.summary().startswith("WER of nothing: no text has words; 2 were heard\n")
    assert group_row(evaluation.lengths[0], LANGUAGES["en"])[2:] == ("-", "2 of 0", "-")
