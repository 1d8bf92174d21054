"""What all searches for the most probable text have in common: their options, and words, streams and checks.

Q(y) = ln P_ctc(y | x) + alpha · ln P_lm(y) + beta · words(y)        (Amodei et al. 2016, section 3.8)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.alignment import aligned
from ds2_deploy.decoding.greedy import GreedyDecoder, no_probabilities
from ds2_deploy.decoding.language_model import (
    FORMS,
    MAX_ALPHA,
    MAX_BETA,
    MAX_WIDTH,
    LmFiles,
    LmSettings,
    find_language_model,
    with_apostrophe,
)
from ds2_deploy.decoding.protocol import Hypothesis, Reading, Word
from ds2_deploy.decoding.words import words_of
from ds2_deploy.errors import ConfigError
from ds2_deploy.extras import require
from ds2_deploy.ranges import between, check_range, check_ranges
from ds2_deploy.text.alphabet import Alphabet

PRESET = LmSettings(alpha=0.5, beta=1.0, beam_width=64)
"""Where neither the caller nor the language model's folder says otherwise."""
NO_LM = Path("none")
"""In place of a language model: to search without one, also where the model's folder has one."""
WIDTH_PER_READING = 4
"""Prefixes kept for each reading that is asked for: many of them end alike, and a tuned beam may be narrower."""
HOT_WEIGHT, MAX_HOT = 10.0, 100.0
"""What a hot word adds where the caller does not say, and at most."""
TOLERANCE = 1e-2
"""How far from one the probabilities of a frame may sum: FP16 is off by 1e-3."""


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """What a search may try and what it prefers. Scores are natural logarithms."""

    search: str = "beam"
    """Who searches: a name in DECODERS."""
    lm: str | PathLike[str] | None = None
    """An ARPA file, a KenLM binary, or a folder with one; NO_LM: none; None: that of the model's folder, if any."""
    alpha: float | None = None
    """Weight of the language model; None: as its folder says, else PRESET."""
    beta: float | None = None
    """What each word adds; None: as the folder says, else PRESET. Neither of the two goes without a language model."""
    beam_width: int | None = None
    """Prefixes kept from frame to frame; None: as the folder says, else PRESET, but enough for `n_best`."""
    beam_prune_logp: float = -10.0
    """A prefix that much worse than the best is dropped."""
    token_min_logp: float = -5.0
    """A label less probable than that is not tried, unless it is the most probable one."""
    unknown: float = -10.0
    """What a word adds that the language model does not know; flashlight does not hear such words at all."""
    hot_words: Mapping[str, float] = field(default_factory=dict)
    """Words and phrases to expect, in any case, known to the language model or not, and what each of them adds."""
    n_best: int = 1
    """Readings that a hypothesis comes with."""

    def __post_init__(self) -> None:
        width = between(1, MAX_WIDTH)
        try:
            check_ranges(
                self, "", alpha=between(0, MAX_ALPHA), beta=between(-MAX_BETA, MAX_BETA), beam_width=width, n_best=width
            )
            for word, weight in self.hot_words.items():
                check_range(f"The weight of the hot word {word!r}", weight, between(0, MAX_HOT))
        except ValueError as error:
            raise ConfigError(f"{error}.") from error


def _spelled(hot_words: Mapping[str, float], alphabet: Alphabet) -> dict[str, float]:
    """Each in the case, and with the apostrophe, that the alphabet can write; ConfigError where it can in none."""
    spelled = {}
    for word, weight in hot_words.items():
        if not word.split():
            raise ConfigError(f"The hot word {word!r} has no letter.")
        spellings = [form(with_apostrophe(" ".join(word.split()), alphabet.labels)) for form in FORMS]
        best = min(spellings, key=lambda spelling: len(alphabet.missing(spelling)))
        if missing := alphabet.missing(best):
            raise ConfigError(f"The hot word {word!r} has letters that the model does not know: {sorted(missing)}.")
        spelled[best] = weight
    return spelled


class SearchDecoder(ABC):
    """A beam search; a subclass says who searches, and how it does so in pieces."""

    package: str
    """What it needs to be installed."""

    def __init__(self, alphabet: Alphabet, config: BeamConfig | None = None) -> None:
        require(self.package)
        self.alphabet = alphabet
        config = config or BeamConfig()
        self.config = config = replace(config, hot_words=_spelled(config.hot_words, alphabet))
        lm = NO_LM if config.lm is None else Path(config.lm)
        files = find_language_model(lm) if lm != NO_LM else None
        for name, weight in (("alpha", config.alpha), ("beta", config.beta)):
            if files is None and weight is not None:
                raise ConfigError(f"--{name} weighs a language model, and there is none: name one with --lm.")
        preset = (files.settings if files else None) or PRESET
        self.alpha = preset.alpha if config.alpha is None else config.alpha
        self.beta = preset.beta if config.beta is None else config.beta
        enough = min(WIDTH_PER_READING * config.n_best, MAX_WIDTH) if config.n_best > 1 else 1
        self.beam_width = max(preset.beam_width, enough) if config.beam_width is None else config.beam_width
        self.has_lm = files is not None
        self._load(files)

    def __reduce__(self) -> tuple[type[Self], tuple[Alphabet, BeamConfig]]:
        """Of what it was made: another process loads the language model for itself."""
        config = replace(self.config, beam_width=self.beam_width)
        if self.has_lm:
            config = replace(config, alpha=self.alpha, beta=self.beta)
        return type(self), (self.alphabet, config)

    def __str__(self) -> str:
        lm = f", language model (alpha {self.alpha:g}, beta {self.beta:g})" if self.has_lm else ""
        return f"{self.config.search} {self.beam_width}{lm}"

    def weighing(self, alpha: float, beta: float, beam_width: int) -> Self:
        """The same with other weights; the language model is not loaded again."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.alpha, other.beta, other.beam_width = alpha, beta, beam_width
        other._weigh()
        return other

    @abstractmethod
    def _load(self, files: LmFiles | None) -> None:
        """Make ready to search, with the language model of `files` if there is one."""

    @abstractmethod
    def _weigh(self) -> None:
        """The weights have changed."""

    def decode(self, log_probs: npt.NDArray[np.float32]) -> Hypothesis:
        """`log_probs` (T, V), the valid frames of one utterance; T may be 0."""
        return self._heard(log_probs).finish()

    def readings(self, log_probs: npt.NDArray[np.float32], most: int = 1) -> list[Reading]:
        """The best ones of (T, V), best first, at most as many as asked for."""
        return self._heard(log_probs).readings(most)

    def _heard(self, log_probs: npt.NDArray[np.float32]) -> "SearchStream":
        stream = self.start()
        stream.accept(log_probs)
        return stream

    @abstractmethod
    def start(self, going_on: int | None = None) -> "SearchStream":
        """For an utterance that comes in pieces; `going_on`: the label that the one before it ended with."""


class SearchStream(ABC):
    """One utterance in pieces. What the search makes of it does not depend on how it was cut.

    The frames are kept, for at the end the words' times are read out of them: 4 V bytes each.
    """

    def __init__(self, decoder: SearchDecoder, going_on: int | None = None) -> None:
        self._decoder, self._alphabet = decoder, decoder.alphabet
        self._ears = GreedyDecoder(decoder.alphabet).start()  # hears where letters are before a search is sure which
        self._pieces: list[npt.NDArray[np.float32]] = []
        self._going_on = decoder.alphabet.blank if going_on is None else going_on
        self._last = self._going_on
        self._known = 0, Hypothesis("", 0.0)

    @abstractmethod
    def _advance(self, log_probs: npt.NDArray[np.float32]) -> None:
        """The next frames (t, V), t at least one, which are kept already."""

    @abstractmethod
    def _so_far(self) -> Hypothesis:
        """The best reading of all frames, at least one, without its words."""

    @abstractmethod
    def _end(self, most: int) -> list[Reading]:
        """Of all frames, at least one, best first; there will be no more."""

    @property
    def frames(self) -> int:
        """Taken in so far."""
        return self._ears.frames

    @property
    def spoken(self) -> tuple[int, int] | None:
        """The first frame with a letter, in the greedy reading, and the one after the last."""
        return self._ears.spoken

    def accept(self, log_probs: npt.NDArray[np.float32]) -> None:
        """`log_probs` (t, V), the next frames of the utterance; t may be 0. InferenceError where they are none."""
        if not len(log_probs):
            return
        _check_probabilities(log_probs, self.frames)
        self._last = int(log_probs[-1].argmax())
        frames = self._without_the_last_letter(log_probs)
        self._pieces.append(frames)
        self._ears.accept(frames)
        self._advance(frames)

    def _without_the_last_letter(self, log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A copy; as blank, where the letter goes on that the utterance before ended with."""
        kept, blank = log_probs.copy(), self._alphabet.blank  # of a batch, which is not to be kept
        if self._going_on == blank:
            return kept
        others = (kept.argmax(axis=-1) != self._going_on).nonzero()[0]
        count = int(others[0]) if len(others) else len(kept)
        kept[:count] = -np.inf
        kept[:count, blank] = 0.0
        if len(others):
            self._going_on = blank
        return kept

    def _kept(self) -> npt.NDArray[np.float32]:
        """(T, V) all frames."""
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0] if self._pieces else np.zeros((0, len(self._alphabet)), np.float32)

    def hypothesis(self) -> Hypothesis:
        """The best reading of all frames so far."""
        if self._known[0] != self.frames:
            self._known = self.frames, self._so_far()
        return self._known[1]

    def readings(self, most: int) -> list[Reading]:
        """The best ones of the whole utterance, to which nothing can be added any more."""
        return self._end(most) if self.frames else [Reading("", 0.0, 0.0, 0.0)]

    def finish(self) -> Hypothesis:
        """The best reading of the whole utterance, with its words; nothing can be added any more."""
        readings = self.readings(self._decoder.config.n_best)
        best = readings[0]
        others = tuple(readings) if self._decoder.config.n_best > 1 else ()
        return Hypothesis(best.text, best.score, self._words(best.text), others)

    def _words(self, text: str) -> tuple[Word, ...]:
        return words_of(aligned(self._kept(), text, self._alphabet), self._alphabet)

    def stable(self) -> str:
        """Nothing: a later word may change what an earlier one is taken for."""
        return ""

    def next(self) -> "SearchStream":
        """For the utterance that follows on the next frame: a label that goes on is not a second one."""
        return self._decoder.start(self._last)


def _check_probabilities(log_probs: npt.NDArray[np.float32], first: int) -> None:
    """InferenceError for the first frame, counted from `first`, whose probabilities do not sum to one: what a search
    makes of such frames looks like speech."""
    totals = np.exp(log_probs.astype(np.float64)).sum(axis=-1)  # (T,)
    if not np.abs(totals - 1).max() <= TOLERANCE:  # also where there is a NaN
        frame = int((~(np.abs(totals - 1) <= TOLERANCE)).argmax())
        total = totals[frame]
        what = "they are NaN" if math.isnan(total) else f"the probabilities sum to {total:.3g}, not to one"
        raise no_probabilities(first + frame, what)
