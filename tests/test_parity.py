"""Parity in words: what two backends that say known things are reported to say."""

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from ds2_deploy.commands.parity import print_report, that_all_take
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.errors import InferenceError
from ds2_deploy.model_folder import Precision
from ds2_deploy.runtime.protocol import Emissions
from ds2_deploy.structs import INFINITE
from ds2_deploy.text.alphabet import ENGLISH, Alphabet
from export.parity import TIE, ParityReport, Recording, _Gap, batches_of, compare


class Says:
    """A backend that says one of `texts` by the recording's length, a frame a letter and a blank after it."""

    device = "cpu"
    max_samples: int | None = None

    def __init__(self, name: str, texts: dict[int, str]) -> None:
        self.name, self.texts = name, texts

    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        labels = [[label for one in ENGLISH.encode(self.texts[int(n)]) for label in (one, 0)] for n in lengths]
        frames = max(map(len, labels))
        log_probs = np.full((len(labels), frames, len(ENGLISH)), -9.0, np.float32)
        for row, path in zip(log_probs, labels, strict=True):
            row[np.arange(len(path)), path] = -0.01
        return Emissions(log_probs, np.array([len(path) for path in labels], np.int64))


TRUTH = {1: "yes", 2: "one two three", 3: "go on"}
REFERENCE = Says("torch", {1: "yes", 2: "one two tree", 3: "go on"})
RECORDINGS = [Recording(f"{n}.wav", np.zeros(n, np.float32), text) for n, text in TRUTH.items()]


def test_words_apart_and_error_rates() -> None:
    same = Says("same", REFERENCE.texts)
    other = Says("other", {1: "yes", 2: "one two free", 3: "no on"})
    report = compare(REFERENCE, [(same, "fp32"), (other, "fp16")], RECORDINGS, GreedyDecoder(ENGLISH))
    assert (report.reference_words, report.reference_wer) == (6, 1 / 6)
    one, two = report.differences
    assert (one.different_words, one.wer, one.passed) == (0, 1 / 6, True)
    assert (two.different_words, two.wer) == (2, 2 / 6)
    assert two.cer == pytest.approx((1 + 2) / len("yes" + "one two three" + "go on"))
    assert not two.passed  # four labels of 44 frames differ


def test_what_is_counted_by_characters_is_compared_by_them(capsys: pytest.CaptureFixture[str]) -> None:
    other = Says("other", {1: "yes", 2: "one two free", 3: "no on"})
    report = compare(REFERENCE, [(other, "fp32")], RECORDINGS, GreedyDecoder(ENGLISH), "zh")
    assert report.reference_words == len("yes" + "onetwotree" + "goon")
    assert report.differences[0].different_words == 1 + 1
    print_report(report, "zh")
    out = capsys.readouterr().out
    assert "characters apart" in out
    assert "torch fp32 says 17 characters, CER" in out


def test_texts_that_are_not_known_count_in_no_rate() -> None:
    recordings = [RECORDINGS[0], Recording("2.wav", np.zeros(2, np.float32))]
    report = compare(REFERENCE, [(REFERENCE, "fp32")], recordings, GreedyDecoder(ENGLISH))
    assert (report.reference_words, report.reference_wer) == (4, 0.0)
    nothing = compare(REFERENCE, [(REFERENCE, "fp32")], recordings[1:], GreedyDecoder(ENGLISH))
    assert (nothing.differences[0].wer, nothing.differences[0].different_words) == (None, 0)


def test_recordings_longer_than_an_engine_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Says("engine", REFERENCE.texts)
    assert that_all_take(RECORDINGS, [(engine, "fp32")], 2) == RECORDINGS
    engine.max_samples = 2
    assert that_all_take(RECORDINGS, [(engine, "fp32"), (REFERENCE, "fp32")], 2) == RECORDINGS[:2]
    assert capsys.readouterr().err == "Left out 1 of 3: longer than 1 s, the most that an engine here takes.\n"
    with pytest.raises(InferenceError, match=r"All recordings are longer than 1 s.*longer --seconds"):
        that_all_take(RECORDINGS[2:], [(engine, "fp32")], 2)


def test_without_a_decoder_there_are_no_words() -> None:
    report = compare(REFERENCE, [(REFERENCE, "fp32")], RECORDINGS)
    assert (report.reference_words, report.differences[0].different_words, report.differences[0].wer) == (None,) * 3


def test_what_is_not_a_number_is_far_off_and_says_nothing() -> None:
    broken = Says("broken", REFERENCE.texts)
    run = broken.run

    def poisoned(audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        emissions = run(audio, lengths)
        emissions.log_probs[:, 1:] = np.nan
        return emissions

    broken.run = poisoned  # type: ignore[method-assign]
    report = compare(REFERENCE, [(broken, "fp16")], RECORDINGS, GreedyDecoder(ENGLISH))
    assert (report.passed, report.differences[0].max_abs, report.differences[0].different_words) == (False, np.inf, 6)
    read = msgspec.json.decode(report.to_json(), type=ParityReport)  # JSON has no infinity
    assert (read.passed, read.differences[0].passed, read.differences[0].max_abs) == (False, False, INFINITE)
    assert read.differences[0].mean_abs == INFINITE
    assert read.failures() == report.failures() == "broken fp16 differs infinitely, for a log-probability is no number"
    report = compare(broken, [(REFERENCE, "fp16")], RECORDINGS, GreedyDecoder(ENGLISH))  # nor can it be compared with
    assert (report.passed, report.differences[0].max_abs) == (False, np.inf)


def test_words_are_compared_as_the_language_spells_them() -> None:
    said = Says("shouts", {1: "yes", 2: "one two tree", 3: "go on"})
    capitals = Alphabet(labels=tuple(label.upper() for label in ENGLISH.labels), blank=ENGLISH.blank)
    report = compare(said, [(said, "fp32")], RECORDINGS, GreedyDecoder(capitals), "en")
    assert (report.reference_wer, report.differences[0].wer) == (1 / 6, 1 / 6)
    assert compare(said, [], RECORDINGS, GreedyDecoder(capitals), "zh").reference_wer == 5 / 6  # no spaces


def test_the_largest_gap_of_all_utterances_counts_and_of_undecided_labels_either() -> None:
    gap = _Gap(REFERENCE, "fp32")
    gap.add(np.float32([[0, -9]]), np.float32([[-1, -9]]))
    for apart in (0.9 * TIE, 1.1 * TIE):  # the other label is the likelier one
        gap.add(np.float32([[0, -apart]]), np.float32([[-apart, 0]]))
    found = gap.difference(None)
    assert (found.frames, found.max_abs, found.equal_argmax) == (3, 1.0, 2 / 3)
    assert found.mean_abs == pytest.approx((1 + 2 * (0.9 + 1.1) * TIE) / 6)


@pytest.mark.parametrize(("precision", "passed"), [("fp32", False), ("fp16", True)])
def test_half_precision_may_differ_by_more(precision: Precision, passed: bool) -> None:
    gap = _Gap(REFERENCE, precision)
    gap.add(np.float32([[0, -9]]), np.float32([[-0.02, -9]]))
    assert gap.difference(None).passed is passed


def test_what_was_compared_on_nothing_has_not_passed() -> None:
    found = _Gap(REFERENCE, "fp32").difference(None)
    assert (found.passed, found.told()) == (False, "was compared on no frame")


def test_batches_grow_until_all_were_in_one() -> None:
    assert [len(batch) for batch in batches_of(RECORDINGS * 5)] == [1, 1, 3, 8, 2]


def test_other_numbers_of_frames_are_called_that() -> None:
    short = Says("short", {1: "ye", 2: "one two tree", 3: "go on"})
    report = compare(REFERENCE, [(short, "fp32"), (REFERENCE, "fp32")], RECORDINGS)
    assert (report.passed, report.failures()) == (False, "short fp32 gives other numbers of frames")
