"""Error rates and speed of a recogniser on recordings with known text."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ds2_deploy.errors import AudioError, DS2Error, ManifestError
from ds2_deploy.metrics import Errors, bootstrap_wer
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.text.languages import normalize


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What `ds2 evaluate --json` prints; rates are fractions."""

    wer: float
    wer_low: float
    """Ends of the 95% bootstrap interval over utterances."""
    wer_high: float
    cer: float
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
        return (
            f"WER {self.wer:.2%} (95% interval {self.wer_low:.2%} to {self.wer_high:.2%}): {self.word_errors} of "
            f"{self.words} words\n"
            f"CER {self.cer:.2%}: {self.character_errors} of {self.characters} characters\n"
            f"{self.utterances} utterances, {self.audio_s:.1f} s of audio in {self.seconds:.2f} s: "
            f"{self.rtfx:.0f} times real time by {self.backend} on {self.device}"
        )


def evaluate(recognizer: Recognizer, references: Sequence[tuple[Path, str]]) -> tuple[Evaluation, list[DS2Error]]:
    """Transcribe every (path, text) and count; recordings that cannot be read are left out and returned as errors."""
    language = recognizer.metadata.language
    start = time.perf_counter()
    results = list(recognizer.transcribe(path for path, _ in references))
    seconds = time.perf_counter() - start
    errors: list[Errors] = []
    failures: list[DS2Error] = []
    audio_s = 0.0
    for (_, text), result in zip(references, results, strict=True):
        audio_s += result.duration_s
        if result.error is not None or result.hypothesis is None:
            failures.append(result.error or AudioError("A recording gave no result."))
        else:
            errors.append(Errors.between(normalize(text, language), normalize(result.hypothesis.text, language)))
    if not errors:
        raise ManifestError(f"None of the {len(references)} recordings could be transcribed; the first: {failures[0]}")
    total = Errors.total(errors)
    low, high = bootstrap_wer(errors)
    return Evaluation(
        wer=total.wer,
        wer_low=low,
        wer_high=high,
        cer=total.cer,
        **total._asdict(),
        utterances=len(errors),
        audio_s=audio_s,
        seconds=seconds,
        rtfx=audio_s / seconds,
        backend=recognizer.backend.name,
        device=recognizer.backend.device,
    ), failures
