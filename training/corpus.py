"""Corpus: the utterances of manifests, read from disk when they are wanted. No torch.

A million utterances are two numbers each, where the line begins and how long it lasts; path and text stay in the
manifest, so that a training starts in seconds and a worker holds next to nothing.
"""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.audio.load import audio_duration_s
from ds2_deploy.errors import AlphabetError, ManifestError, PronunciationError
from ds2_deploy.files import is_pipe
from ds2_deploy.manifest import Line, Utterance, lines, parse
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.output.listing import first_of
from ds2_deploy.text.alphabet import Alphabet
from ds2_deploy.text.languages import language_named
from training.labels import SHOWN, characters_of, known_alphabet, shown
from training.recipe import Recipe

LOOKED_FOR = 10_000
"""Recordings of a corpus that are looked for, and of the validation set opened, before the training starts, evenly
spread: a network drive needs milliseconds for each. The others are missed when their turn comes."""

_CHANGED = "The manifest {} was changed during the training: start it again."

Fits = Callable[[float, Sequence[str]], bool]
"""Whether a recording of so many seconds is long enough for these labels."""


class Corpus(Sequence[Utterance]):
    """`corpus[i]` is an utterance with its text in the language's spelling."""

    def __init__(
        self,
        manifests: Sequence[Path],
        ends: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        durations_s: npt.NDArray[np.float64],
        language: str,
        fingerprint: str,
    ) -> None:
        self.manifests, self.language = tuple(manifests), language
        self.ends = ends
        """(manifests,) where the utterances of each end, in `offsets`."""
        self.offsets = offsets
        """(N,) bytes before an utterance's line in its manifest."""
        self.durations_s = durations_s
        """(N,) as the manifests say."""
        self.fingerprint = fingerprint
        """Of the utterances' number, lengths, texts and order."""

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...
    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        manifest = self.manifests[int(np.searchsorted(self.ends, range(len(self))[index], side="right"))]
        try:
            with manifest.open("rb") as file:
                file.seek(int(self.offsets[index]))
                line = parse(file.readline(), manifest, 0, Line)
        except OSError as error:
            raise ManifestError(f"Cannot read the manifest {manifest}: {error.strerror or error}.") from error
        except ManifestError as error:
            raise ManifestError(_CHANGED.format(manifest)) from error
        if line.duration != self.durations_s[index]:  # a whole line begins here, but another one
            raise ManifestError(_CHANGED.format(manifest))
        return line.utterance(manifest)._replace(text=language_named(self.language).normalize(line.text))

    @property
    def hours(self) -> float:
        return float(self.durations_s.sum()) / 3600

    @property
    def distinct_hours(self) -> float:
        """Of manifests that are there several times, once."""
        parts = np.split(self.durations_s, self.ends[:-1])
        once = dict(zip(self.manifests, parts, strict=True))
        return float(sum(part.sum() for part in once.values())) / 3600


class Survey(NamedTuple):
    """A corpus, and what one look at every line of it has shown."""

    corpus: Corpus
    tokens: Counter[str]
    """Each label and the number of texts that it is in."""
    unspoken: int
    """Utterances left out because the language has no spelling for a word of theirs."""
    first_unspoken: str
    """What was wrong with the first of them."""
    short: int
    """Utterances left out because they are too short for their text."""


def corpora(
    recipe: Recipe, train_manifests: Sequence[Path], valid_manifests: Sequence[Path], say: Callable[[str], None]
) -> tuple[Corpus, Corpus, Alphabet]:
    """What to learn from, what to validate on, and their labels; says what is left out, and why."""
    known = known_alphabet(recipe.alphabet, recipe.language)
    recordings = Recordings()
    validated = survey(valid_manifests, recipe.language, known, note=recordings.validate)
    learnt = survey(train_manifests, recipe.language, known, ctc_fits(recipe.feature, recipe.model), recordings.learn)
    recordings.say_which_come_again(say)
    alphabet = known or characters_of(learnt.tokens.keys() | validated.tokens.keys())
    if known is None:
        _say_what_is_learnt(learnt.tokens, say)
        _say_what_is_not_learnt(validated.tokens.keys() - learnt.tokens.keys(), alphabet, say)
    for found in (learnt, validated):
        check_labels(found, alphabet)
        _say_what_is_left_out(found, say)
    for utterance in _some_of(validated.corpus):
        audio_duration_s(utterance.path)  # one that cannot be opened would end the first epoch, learnt for nothing
    return learnt.corpus, validated.corpus, alphabet


class Recordings:
    """Those of the validation set: how often each comes, and which are learnt, too."""

    def __init__(self) -> None:
        self.validated, self.learnt = Counter[str](), set[str]()

    def validate(self, path: str) -> None:
        self.validated[path] += 1

    def learn(self, path: str) -> None:
        if path in self.validated:
            self.learnt.add(path)

    def say_which_come_again(self, say: Callable[[str], None]) -> None:
        count = len(self.validated)
        if self.learnt:
            say(
                f"{len(self.learnt)} of {count} validation recordings are in the training set, too, such as "
                f"{min(self.learnt)}: the error rates are lower than those of new recordings would be."
            )
        if again := self.validated.total() - count:
            say(
                f"{again} of {again + count} lines of the validation set name a recording again, which counts each "
                "time: give each once."
            )


def _say_what_is_learnt(tokens: Counter[str], say: Callable[[str], None]) -> None:
    """The rarest first: most often what was left in a text by mistake."""
    rarest = sorted(tokens, key=lambda token: (tokens[token], token))
    counted = first_of([f"{token!r} in {tokens[token]}" for token in rarest], SHOWN)
    say(f"{len(rarest)} labels from the training transcripts, the rarest first: {counted}")


def _say_what_is_not_learnt(tokens: Set[str], alphabet: Alphabet, say: Callable[[str], None]) -> None:
    if tokens:
        alone = shown(sorted(tokens))
        say(f"Of {len(alphabet) - 1} labels, {len(tokens)} are in validation texts alone, not learnt: {alone}")


def _say_what_is_left_out(found: Survey, say: Callable[[str], None]) -> None:
    total = len(found.corpus) + found.unspoken + found.short
    if found.unspoken:
        say(f"Left out {found.unspoken} of {total} utterances; the first: {found.first_unspoken}")
    if found.short:
        say(
            f"Left out {found.short} of {total} training utterances: too short for their text (CTC needs a frame per "
            "label)."
        )


def survey(
    manifests: Sequence[Path],
    language: str,
    alphabet: Alphabet | None,
    fits: Fits | None = None,
    note: Callable[[str], None] = lambda path: None,
) -> Survey:
    """Read manifests to the end; ManifestError names the line that is wrong, or recordings that are missing.

    Without an alphabet, every character of a text is a label. `fits` leaves out what is too short; `note` is told
    the path of each recording that stays, the manifest's folder free of links.
    """
    tokens_of = alphabet.tokens if alphabet else list
    offsets: list[int] = []
    durations_s: list[float] = []
    ends: list[int] = []
    found, texts = _Findings(), hashlib.sha256()
    for manifest in manifests:
        if is_pipe(manifest):
            raise ManifestError(f"{manifest} is a pipe, and a manifest is read again for each epoch: give a file.")
        before, folder = found.lines, os.path.realpath(manifest.parent)
        for offset, line, text in _spelled(manifest, language, found):
            tokens = tokens_of(text)
            if fits is not None and not fits(line.duration, tokens):
                found.short += 1
                continue
            found.tokens.update(set(tokens))
            note(os.path.normpath(os.path.join(folder, line.audio_filepath)))  # noqa: PTH118 - ten times as fast
            offsets.append(offset)
            durations_s.append(line.duration)
            texts.update(f"{text}\n".encode("utf-8", "surrogatepass"))
        if found.lines == before:
            raise ManifestError(f"The manifest {manifest} holds no utterance.")
        ends.append(len(offsets))
    if not offsets:
        raise ManifestError(found.nothing(language))
    lengths = np.array(durations_s)
    texts.update(lengths.tobytes())
    corpus = Corpus(manifests, np.array(ends), np.array(offsets, dtype=np.int64), lengths, language, texts.hexdigest())
    _look_for_recordings(corpus)
    return Survey(corpus, found.tokens, found.unspoken, found.first_unspoken, found.short)


class _Findings:
    """What a survey counts."""

    def __init__(self) -> None:
        self.lines, self.unspoken, self.short, self.first_unspoken = 0, 0, 0, ""
        self.tokens = Counter[str]()

    def nothing(self, language: str) -> str:
        if self.short:
            return "No utterance of the training set is long enough for its text."
        return f"No transcript can be spelled in {language!r}; the first: {self.first_unspoken}"


def _spelled(manifest: Path, language: str, found: _Findings) -> Iterator[tuple[int, Line, str]]:
    """Offset, line and spelled text of what the language can spell."""
    spell = language_named(language).normalize
    for offset, line in lines(manifest, Line):
        found.lines += 1
        line.check_whole(manifest)
        try:
            text = spell(line.text)
        except PronunciationError as error:
            found.first_unspoken = found.first_unspoken or str(error)
            found.unspoken += 1
            continue
        yield offset, line, text


def _look_for_recordings(corpus: Corpus) -> None:
    some = _some_of(corpus)
    missing = [utterance.path for utterance in some if not utterance.path.is_file()]
    if missing:
        raise ManifestError(f"{len(missing)} of {len(some)} recordings do not exist, the first is {missing[0]}.")


def _some_of(corpus: Corpus) -> list[Utterance]:
    """LOOKED_FOR at most, evenly spread."""
    count = min(len(corpus), LOOKED_FOR)
    return [corpus[i * len(corpus) // count] for i in range(count)]


def check_labels(found: Survey, alphabet: Alphabet) -> None:
    """AlphabetError counts what the alphabet cannot write."""
    unknown = found.tokens.keys() - set(alphabet.labels)
    if not unknown:
        return
    faults = Counter(token for utterance in found.corpus for token in alphabet.missing(utterance.text))
    listed = ", ".join(f"{token!r} in {count}" for token, count in faults.most_common(8))
    raise AlphabetError(
        f"The alphabet does not cover the transcripts: no label for {listed} of {len(found.corpus)} utterances. "
        "Add the characters to the recipe's alphabet, or clean the texts."
    )


def ctc_fits(feature: FeatureConfig, model: ModelConfig) -> Fits:
    """Whether CTC can align the labels of a recording."""

    def fits(duration_s: float, labels: Sequence[str]) -> bool:
        frames = model.output_frames(feature.frames(round(duration_s * feature.sample_rate)))
        return frames >= max(2 * len(labels), 1) or frames >= ctc_frames(labels)  # the first whatever the labels are

    return fits


def ctc_frames(labels: Sequence[object]) -> int:
    """The fewest output frames with which CTC can align `labels`: one for each, and one between equal neighbours."""
    return max(len(labels) + sum(a == b for a, b in itertools.pairwise(labels)), 1)
