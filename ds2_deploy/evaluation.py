"""Error rates and speed of a recogniser on recordings with known text."""

import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from ds2_deploy.errors import DS2Error, ManifestError, PronunciationError
from ds2_deploy.manifest import Utterance
from ds2_deploy.metrics import Errors, Kinds, bootstrap_interval
from ds2_deploy.output.listing import first_of
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.structs import struct_json
from ds2_deploy.text.alphabet import Alphabet
from ds2_deploy.text.languages import Language, language_named, respelled


class Scored(NamedTuple):
    """A recording, what was said in the language's spelling, and what was heard."""

    reference: Utterance
    hypothesis: str
    duration_s: float
    """As heard; the reference has what the manifest says."""
    errors: Errors
    kinds: Kinds


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Error rates of a part of the recordings."""

    name: str
    utterances: int
    word_errors: int
    words: int
    wer: float
    character_errors: int
    characters: int
    cer: float

    @classmethod
    def of(cls, name: str, scored: Sequence[Scored]) -> "Group":
        total = Errors.total(s.errors for s in scored)
        return cls(name=name, utterances=len(scored), wer=total.wer, cer=total.cer, **total._asdict())

    @property
    def errors(self) -> Errors:
        return Errors(self.word_errors, self.words, self.character_errors, self.characters)


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """Another model, on the same recordings."""

    model: str
    wer: float
    cer: float
    more_errors: int
    """Of the language's own units, that the model has beyond this other one; negative where it has fewer."""
    difference: float
    """Of the language's own error rate."""
    difference_low: float
    """Ends of its 95% interval, over utterances that are drawn for both alike."""
    difference_high: float

    def is_better(self, percent: float) -> bool:
        """By more than so many percentage points, and not by chance."""
        return self.difference > percent / 100 and self.difference_low > 0


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    substitutions: int
    """Of words; of characters, where the language is measured by them."""
    deletions: int
    insertions: int
    words: int
    character_errors: int
    characters: int
    utterances: int
    left_out: int
    """Recordings that could not be read or whose text could not be spelled: in no other number."""
    unwritable: list[str]
    """Characters, or phonemes, of the texts that the model cannot write: they count as errors."""
    unwritable_texts: int
    """Of how many texts."""
    audio_s: float
    seconds: float
    """From the first file opened to the last transcript."""
    rtfx: float
    """Seconds of audio per second."""
    backend: str
    device: str
    decoder: str
    speakers: list[Group]
    """Most errors per word, or per character, first; none where the manifest names no speaker."""
    lengths: list[Group]
    """By seconds, shortest first."""
    against: Against | None = None

    def to_json(self) -> str:
        return struct_json(self)

    def warning(self) -> str | None:
        """What makes the model look worse than it hears, where something does."""
        if not self.unwritable:
            return None
        shown = first_of(list(map(repr, self.unwritable)), UNWRITABLE_SHOWN, " ")
        signs = "phonemes" if language_named(self.language).metric == "PER" else "characters"
        return (
            f"{self.unwritable_texts} of {self.utterances} texts have {signs} that the "
            f"model cannot write ({shown}): they count as errors."
        )

    def summary(self) -> str:
        """The language's own metric first, with its interval."""
        words = _Rate(self.wer, self.wer_low, self.wer_high, self.word_errors, self.words)
        characters = _Rate(self.cer, self.cer_low, self.cer_high, self.character_errors, self.characters)
        language = language_named(self.language)
        match language.metric:
            case "PER":
                distance = f"mean Levenshtein distance {self.mean_distance:.2f} phonemes per utterance"
                lines = [words.line("PER", "phonemes, silences between words included"), distance]
            case "CER":
                lines = [characters.line("CER", "characters"), words.line("WER", "words; a text without spaces is one")]
            case "WER":
                lines = [words.line("WER", "words"), characters.line("CER", "characters")]
        speed = (
            f"{self.utterances} utterances, {self.audio_s:.1f} s of audio in {self.seconds:.2f} s: "
            f"{self.rtfx:.0f} times real time by {self.backend} on {self.device}, {self.decoder}"
        )
        kinds = f"{self.substitutions} substituted, {self.deletions} deleted, {self.insertions} inserted"
        kinds = f"of the {language.unit} {kinds}"
        left_out = f"{self.left_out} of {self.left_out + self.utterances} recordings are left out: see the errors"
        compared = [self._comparison(self.against, language)] if self.against else []
        return "\n".join((*lines, kinds, speed, *([left_out] if self.left_out else []), *compared))

    def _comparison(self, other: Against, language: Language) -> str:
        rate = other.cer if language.metric == "CER" else other.wer
        interval = f"95% interval {other.difference_low:+.2%} to {other.difference_high:+.2%}"
        wrong = f"{other.more_errors:+} {language.unit} wrong"
        return f"against {other.model}, {language.metric} {rate:.2%}: {other.difference:+.2%} ({interval}), {wrong}"


class _Rate(NamedTuple):
    """An error rate for the eye."""

    rate: float
    low: float
    high: float
    errors: int
    units: int

    def line(self, name: str, unit: str) -> str:
        if not self.units:
            return f"{name} of nothing: no text has {unit}; {self.errors} were heard"
        interval = f"95% interval {self.low:.2%} to {self.high:.2%}"
        return f"{name} {self.rate:.2%} ({interval}): {self.errors} of {self.units} {unit}"


UNWRITABLE_SHOWN = 10
"""Of the characters that a model cannot write: Mandarin may lack thousands."""
LENGTHS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Where the breakdown by length is cut."""


def evaluate(
    recognizer: Recognizer, references: Sequence[Utterance]
) -> tuple[Evaluation, list[Scored], list[DS2Error]]:
    """Transcribe all and count; every recording's own result; what went wrong.

    Recordings that cannot be read, and texts that cannot be put into the language's phonemes, are left out and
    returned as errors.
    """
    name, alphabet = recognizer.metadata.language, recognizer.metadata.alphabet
    language = language_named(name)
    spelled, failures = _spelled(references, language)
    start = time.perf_counter()
    results = list(recognizer.transcribe(reference.path for reference in spelled))
    seconds = time.perf_counter() - start
    scored: list[Scored] = []
    audio_s = 0.0
    for reference, result in zip(spelled, results, strict=True):
        if isinstance(result.outcome, DS2Error):
            failures.append(result.outcome)
        else:
            audio_s += result.duration_s
            heard = respelled(result.outcome.text, name)
            errors = Errors.between(reference.text, heard)
            kinds = Kinds.between(language.units(reference.text), language.units(heard))
            scored.append(Scored(reference, heard, result.duration_s, errors, kinds))
    if not scored:
        raise ManifestError(f"None of the {len(references)} recordings could be transcribed; the first: {failures[0]}")
    every = [s.errors for s in scored]
    missing = _missing([s.reference.text for s in scored], alphabet, name)
    total = Errors.total(every)
    wer_low, wer_high = bootstrap_interval([e.counted("WER") for e in every])
    cer_low, cer_high = bootstrap_interval([e.counted("CER") for e in every])
    evaluation = Evaluation(
        language=name,
        wer=total.wer,
        wer_low=wer_low,
        wer_high=wer_high,
        cer=total.cer,
        cer_low=cer_low,
        cer_high=cer_high,
        mean_distance=total.mean_distance(len(scored), alphabet.separator),
        **total._asdict(),
        **Kinds.total(s.kinds for s in scored)._asdict(),
        utterances=len(scored),
        left_out=len(failures),
        unwritable=sorted(set().union(*missing)),
        unwritable_texts=sum(map(bool, missing)),
        audio_s=audio_s,
        seconds=seconds,
        rtfx=audio_s / seconds,
        backend=recognizer.backend.name,
        device=recognizer.backend.device,
        decoder=str(recognizer.decoder),
        speakers=_by_speaker(scored, language),
        lengths=_by_length(scored),
    )
    return evaluation, scored, failures


def compared(
    evaluation: Evaluation, scored: Sequence[Scored], model: str, other: Evaluation, others: Sequence[Scored]
) -> Evaluation:
    """With the difference from the model called `model`; ManifestError where it did not hear the same."""
    if [s.reference for s in scored] != [s.reference for s in others]:
        raise ManifestError(f"{model} was not heard on the same recordings and texts: there is nothing to compare.")
    metric = language_named(evaluation.language).metric
    counts = [(one.errors.counted(metric), two.errors.counted(metric)) for one, two in zip(scored, others, strict=True)]
    differences = [(wrong - wrong_there, units) for (wrong, units), (wrong_there, _) in counts]
    low, high = bootstrap_interval(differences)
    more = sum(difference for difference, _ in differences)
    against = Against(
        model=model,
        wer=other.wer,
        cer=other.cer,
        more_errors=more,
        difference=more / max(sum(units for _, units in differences), 1),
        difference_low=low,
        difference_high=high,
    )
    return msgspec.structs.replace(evaluation, against=against)


def _by_speaker(scored: Sequence[Scored], language: Language) -> list[Group]:
    speakers: dict[str, list[Scored]] = defaultdict(list)
    for s in scored:
        if s.reference.speaker:
            speakers[s.reference.speaker].append(s)
    groups = (Group.of(*item) for item in speakers.items())
    return sorted(groups, key=lambda group: (-group.errors.rate(language.metric), group.name))


def _by_length(scored: Sequence[Scored]) -> list[Group]:
    edges = (0.0, *LENGTHS_S, float("inf"))
    groups = []
    for low, high in pairwise(edges):
        within = [s for s in scored if low <= s.duration_s < high]
        if within:
            groups.append(Group.of(f"{low:g} to {high:g} s" if high < float("inf") else f"from {low:g} s", within))
    return groups


def _missing(texts: Iterable[str], alphabet: Alphabet, language: str) -> list[set[str]]:
    """Of each text, in the language's spelling, what no label writes, neither as it is nor as the language spells it.

    An accent may have a label of its own, so a letter may be written in its parts, too.
    """
    labels = [label for i, label in enumerate(alphabet.labels) if i != alphabet.blank]
    writable = {unicodedata.normalize("NFC", label) for own in labels for label in (own, respelled(own, language))}

    def is_writable(token: str) -> bool:
        parts = alphabet.tokens(unicodedata.normalize("NFD", token))
        return unicodedata.normalize("NFC", token) in writable or all(part in writable for part in parts)

    return [{token for token in alphabet.tokens(text) if not is_writable(token)} for text in texts]


def _spelled(references: Sequence[Utterance], language: Language) -> tuple[list[Utterance], list[DS2Error]]:
    """With texts in the language's spelling; apart, an error for each that has none."""
    spelled: list[Utterance] = []
    failures: list[DS2Error] = []
    for reference in references:
        try:
            spelled.append(reference._replace(text=language.normalize(reference.text)))
        except PronunciationError as error:
            failures.append(PronunciationError(f"{reference.path}: {error}"))
    return spelled, failures
