"""Do two backends say the same? Compared on the same recordings, in NumPy; no torch of its own.

FP32 runtimes differ by the order of float32 sums alone. Half precision moves small probabilities by more on the log,
and by nothing that matters: its limit for a log-probability is wider. In both the most probable labels must agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import soxr
from msgspec.structs import replace

from ds2_deploy.decoding.outcome import text_or_nothing
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.metrics import Errors
from ds2_deploy.model_folder import Precision
from ds2_deploy.runtime.protocol import Backend, Emissions, pad_batch
from ds2_deploy.structs import INFINITE, as_finite, struct_json
from ds2_deploy.text.languages import Metric, language_named, respelled

MAX_ABS: dict[Precision, float] = {"fp32": 5e-3, "fp16": 0.1}
"""Largest difference of a log-probability, in nats. Two correct float32 spectrograms differ by up to 8e-4 near the
floor (PyTorch and ONNX Runtime on AN4 and 8 kHz digits), and a network passes that on: measured 6e-5 on AN4, 2e-4 on
the digits, 8e-4 on the worst probe. A wrong gate order, mask or length is off by 0.1 and more."""
MIN_EQUAL_ARGMAX = 0.999
"""Share of frames whose most probable label is the same."""
TIE = 0.05
"""Nats between the reference's two best labels below which it is undecided and either one counts as the same."""

SIZES = (1, 1, 3, 8)
"""Of batches, the last for all that follow."""


class Recording(NamedTuple):
    name: str
    samples: npt.NDArray[np.float32]
    """(S,) at the model's rate."""
    text: str | None = None
    """What is said in it, as the model's language spells it, where that is known."""


Candidate = tuple[Backend, Precision]
"""What is compared with the reference."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How far one backend is from the reference over all recordings."""

    backend: str
    precision: Precision
    device: str = ""
    """Empty in reports from before it was written down."""
    frames: int
    max_abs: float
    """Of log-probabilities, in nats; infinite where one is no number, which in JSON is INFINITE."""
    mean_abs: float
    equal_argmax: float
    equal_lengths: bool
    max_abs_allowed: float
    equal_argmax_required: float
    different_words: int | None = None
    """Edits between the backend's transcripts and the reference's, in words, or in what the language is measured by:
    characters, phonemes; None where nothing was decoded."""
    wer: float | None = None
    """Of the recordings whose text is known, as a fraction; phonemes count as words."""
    cer: float | None = None

    @property
    def passed(self) -> bool:
        within = self.max_abs <= self.max_abs_allowed and self.equal_argmax >= self.equal_argmax_required
        return self.equal_lengths and self.frames > 0 and within

    def told(self) -> str:
        """What is wrong with it, in words."""
        if not self.equal_lengths:
            return "gives other numbers of frames"
        if not self.frames:
            return "was compared on no frame"
        if self.max_abs >= INFINITE:
            return "differs infinitely, for a log-probability is no number"
        return (
            f"differs by up to {self.max_abs:.2g} nats (allowed {self.max_abs_allowed:g}) with {self.equal_argmax:.2%} "
            f"equal labels (required {self.equal_argmax_required:.1%})"
        )


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """parity.json: what was compared, on which shapes, with which tolerances, and the result."""

    reference: str
    recordings: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    """(B, S) of every batch."""
    differences: tuple[Difference, ...]
    passed: bool
    reference_words: int | None = None
    """Words, or characters or phonemes, in the reference's transcripts."""
    reference_wer: float | None = None
    reference_cer: float | None = None

    def to_json(self) -> str:
        differences = (
            replace(d, max_abs=as_finite(d.max_abs), mean_abs=as_finite(d.mean_abs)) for d in self.differences
        )
        return struct_json(replace(self, differences=tuple(differences)))

    def failures(self) -> str:
        """Which backends are too far off, and by how much."""
        return ", ".join(f"{d.backend} {d.precision} {d.told()}" for d in self.differences if not d.passed)


def probe_recordings(metadata: ModelMetadata) -> list[Recording]:
    """Signals that need no files: voices-like pulses, noise, silence, near silence, telephone band, the shortest.

    In batches, they are of a single frame, and of a length in each profile that an engine has by default.
    """
    rate, rng = metadata.feature.sample_rate, np.random.default_rng(0)

    def voice(seconds: float) -> npt.NDArray[np.float64]:
        t = np.arange(round(seconds * rate)) / rate
        pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 3 * t)) / rate
        tone = sum(np.sin(k * pitch) / k for k in range(1, 25))
        syllables = np.clip(np.sin(2 * np.pi * 2.5 * t), 0, 1)
        return np.asarray(0.1 * tone * syllables + 1e-3 * rng.standard_normal(len(t)))

    speech = voice(3.1)
    telephone = soxr.resample(soxr.resample(speech, rate, 8000), 8000, rate)  # nothing above 4 kHz
    signals = {
        "shortest": 0.1 * rng.standard_normal(metadata.min_samples),
        "voice 20 s": voice(20.0),
        "voice 7.7 s": voice(7.7),
        "noise 1 s": 0.2 * rng.standard_normal(rate),
        "clipped 2 s": np.clip(20 * voice(2.0), -1, 1),
        "near silence 2 s": 1e-4 * voice(2.0),
        "digital silence 1.3 s": np.zeros(round(1.3 * rate)),
        "telephone band 3.1 s": telephone,
        "voice 3.1 s": speech,
        "one sample less": 0.1 * rng.standard_normal(metadata.min_samples - 1),
        "half a window": 0.1 * rng.standard_normal(metadata.feature.window_samples // 2),
        "empty": np.zeros(0),
    }
    return [Recording(name, samples.astype(np.float32)) for name, samples in signals.items()]


def batches_of(recordings: Sequence[Recording]) -> list[list[Recording]]:
    """Batches of growing size until every recording has been in one, long and short ones mixed."""
    batches, start = [], 0
    for i in range(len(recordings)):
        size = SIZES[min(i, len(SIZES) - 1)]
        if start < len(recordings):
            batches.append(list(recordings[start : start + size]))
        start += size
    return batches


def compare(
    reference: Backend,
    others: Sequence[Candidate],
    recordings: Sequence[Recording],
    decoder: Decoder | None = None,
    language: str = "en",
) -> ParityReport:
    """Run `recordings` through the reference and every (backend, precision); the report tells whether all agree.

    With a `decoder` it tells their words and error rates as well, as `language` spells them, which decide nothing: they
    follow from the frames.
    """
    gaps = [_Gap(backend, precision) for backend, precision in others]
    own = _Words()
    shapes = []
    for batch in batches_of(recordings):
        audio, lengths = pad_batch([recording.samples for recording in batch])
        shapes.append((audio.shape[0], audio.shape[1]))
        expected = reference.run(audio, lengths)
        said = _texts(expected, decoder, language)
        for recording, text in zip(batch, said, strict=False):
            own.add(recording.text, text, text)
        for gap in gaps:
            got = gap.backend.run(audio, lengths)
            gap.equal_lengths &= bool(np.array_equal(got.lengths, expected.lengths))
            for row, other, length in zip(expected.log_probs, got.log_probs, expected.lengths, strict=True):
                gap.add(row[:length], other[:length])
            for recording, text, heard in zip(batch, said, _texts(got, decoder, language), strict=False):
                gap.words.add(recording.text, heard, text)
    metric = language_named(language).metric if decoder else None
    differences = tuple(gap.difference(metric) for gap in gaps)
    return ParityReport(
        reference=reference.name,
        recordings=tuple(recording.name for recording in recordings),
        shapes=tuple(shapes),
        differences=differences,
        passed=all(difference.passed for difference in differences),
        reference_words=own.apart.counted(metric)[1] if metric else None,
        reference_wer=own.wer,
        reference_cer=own.cer,
    )


def _texts(emissions: Emissions, decoder: Decoder | None, language: str) -> list[str]:
    """Each recording's transcript as the language spells it; none without a decoder."""
    rows = zip(emissions.log_probs, emissions.lengths, strict=True)
    return [respelled(text_or_nothing(decoder, row[:length]), language) for row, length in rows] if decoder else []


class _Words:
    """Sums up transcripts: how far they are from the reference's, and from the truth."""

    def __init__(self) -> None:
        self.apart = self.wrong = Errors()

    def add(self, text: str | None, heard: str, said: str) -> None:
        """One utterance: what was spoken, what the backend made of it, and what the reference did."""
        self.apart = Errors.total([self.apart, Errors.between(said, heard)])
        if text is not None:
            self.wrong = Errors.total([self.wrong, Errors.between(text, heard)])

    @property
    def wer(self) -> float | None:
        return self.wrong.wer if self.wrong.words else None

    @property
    def cer(self) -> float | None:
        return self.wrong.cer if self.wrong.words else None


class _Gap:
    """Sums up one backend's differences."""

    def __init__(self, backend: Backend, precision: Precision) -> None:
        self.backend, self.precision = backend, precision
        self.equal_lengths = True
        self.frames = self.equal = self.values = 0
        self.max_abs = self.sum_abs = 0.0
        self.words = _Words()

    def add(self, expected: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> None:
        """One utterance: (T, V) each."""
        if expected.shape != got.shape:
            self.equal_lengths = False
            return
        if not len(expected):
            return
        gap = np.where(np.isfinite(got) & np.isfinite(expected), np.abs(expected - got), np.inf)
        self.max_abs = max(self.max_abs, float(gap.max()))
        self.sum_abs += float(gap.sum())
        self.values += gap.size
        chosen = np.take_along_axis(expected, got.argmax(-1)[:, None], axis=-1)[:, 0]
        self.equal += int((chosen >= expected.max(-1) - TIE).sum())
        self.frames += len(expected)

    def difference(self, metric: Metric | None) -> Difference:
        """`metric`: the language's, where transcripts were decoded."""
        return Difference(
            backend=self.backend.name,
            device=self.backend.device,
            precision=self.precision,
            frames=self.frames,
            max_abs=self.max_abs,
            mean_abs=self.sum_abs / max(self.values, 1),
            equal_argmax=self.equal / self.frames if self.frames else 1.0,
            equal_lengths=self.equal_lengths,
            max_abs_allowed=MAX_ABS[self.precision],
            equal_argmax_required=MIN_EQUAL_ARGMAX,
            different_words=self.words.apart.counted(metric)[0] if metric else None,
            wer=self.words.wer,
            cer=self.words.cer,
        )
