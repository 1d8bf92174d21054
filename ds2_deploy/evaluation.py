"""Error rates and speed of a recogniser on recordings with known text."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ds2_deploy.errors import AudioError, DS2Error, ManifestError, PronunciationError
from ds2_deploy.metrics import Errors, bootstrap_interval
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.text.languages import language_named


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What `ds2 evaluate --json` prints; rates are fractions."""

    language: str
    wer: float
    """Of phonemes, where the language is written in them."""
    wer_low: float
    """Ends of the 95% bootstrap interval over utterances."""
    wer_high: float
    cer: float
    cer_low: float
    cer_high: float
    mean_distance: float
    """Mean Levenshtein distance of an utterance, in labels: phonemes or characters."""
    word_errors: int
    words: int
    character_errors: int
    characters: int
    utterances: int
    audio_s: float
    seconds: float
    """From the first file opened to the last transcript."""
    rtfx: float
    """Seconds of audio per second."""
    backend: str
    device: str

    def to_json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    def summary(self) -> str:
        """The language's own metric first, with its interval."""
        words = _Rate(self.wer, self.wer_low, self.wer_high, self.word_errors, self.words)
        characters = _Rate(self.cer, self.cer_low, self.cer_high, self.character_errors, self.characters)
        match language_named(self.language).metric:
            case "PER":
                distance = f"mean Levenshtein distance {self.mean_distance:.2f} phonemes per utterance"
                lines = [words.line("PER", "phonemes, silences between words included"), distance]
            case "CER":
                lines = [characters.line("CER", "characters"), words.line("WER", "words; a text without spaces is one")]
            case "WER":
                lines = [words.line("WER", "words"), characters.line("CER", "characters")]
        speed = (
            f"{self.utterances} utterances, {self.audio_s:.1f} s of audio in {self.seconds:.2f} s: "
            f"{self.rtfx:.0f} times real time by {self.backend} on {self.device}"
        )
        return "\n".join((*lines, speed))


class _Rate(NamedTuple):
    """An error rate for the eye."""

    rate: float
    low: float
    high: float
    errors: int
    units: int

    def line(self, name: str, unit: str) -> str:
        interval = f"95% interval {self.low:.2%} to {self.high:.2%}"
        return f"{name} {self.rate:.2%} ({interval}): {self.errors} of {self.units} {unit}"


def evaluate(recognizer: Recognizer, references: Sequence[tuple[Path, str]]) -> tuple[Evaluation, list[DS2Error]]:
    """Transcribe every (path, text) and count.

    Recordings that cannot be read, and texts that cannot be put into the language's phonemes, are left out and
    returned as errors.
    """
    language, alphabet = recognizer.metadata.language, recognizer.metadata.alphabet
    spelled, failures = _spelled(references, language)
    start = time.perf_counter()
    results = list(recognizer.transcribe(path for path, _ in spelled))
    seconds = time.perf_counter() - start
    errors: list[Errors] = []
    audio_s = 0.0
    for (_, text), result in zip(spelled, results, strict=True):
        audio_s += result.duration_s
        if result.error is not None or result.hypothesis is None:
            failures.append(result.error or AudioError("A recording gave no result."))
        else:
            errors.append(Errors.between(text, result.hypothesis.text))  # labels, so in the language's spelling
    if not errors:
        raise ManifestError(f"None of the {len(references)} recordings could be transcribed; the first: {failures[0]}")
    total = Errors.total(errors)
    wer_low, wer_high = bootstrap_interval([(e.word_errors, e.words) for e in errors])
    cer_low, cer_high = bootstrap_interval([(e.character_errors, e.characters) for e in errors])
    return Evaluation(
        language=language,
        wer=total.wer,
        wer_low=wer_low,
        wer_high=wer_high,
        cer=total.cer,
        cer_low=cer_low,
        cer_high=cer_high,
        mean_distance=total.mean_distance(len(errors), alphabet.separator),
        **total._asdict(),
        utterances=len(errors),
        audio_s=audio_s,
        seconds=seconds,
        rtfx=audio_s / seconds,
        backend=recognizer.backend.name,
        device=recognizer.backend.device,
    ), failures


def _spelled(references: Sequence[tuple[Path, str]], language: str) -> tuple[list[tuple[Path, str]], list[DS2Error]]:
    """With texts in the language's spelling; apart, an error for each that has none."""
    normalize = language_named(language).normalize
    spelled: list[tuple[Path, str]] = []
    failures: list[DS2Error] = []
    for path, text in references:
        try:
            spelled.append((path, normalize(text)))
        except PronunciationError as error:
            failures.append(PronunciationError(f"{path}: {error}"))
    return spelled, failures
