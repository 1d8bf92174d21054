"""What all searches for the most probable text have in common: their options, and words, streams and checks.

Q(y) = ln P_ctc(y | x) + alpha · ln P_lm(y) + beta · words(y)        (Amodei et al. 2016, section 3.8)
"""

import math
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.alignment import aligned
from ds2_deploy.decoding.greedy import GreedyDecoder, GreedyStream
from ds2_deploy.decoding.language_model import LmFiles, LmSettings, find_language_model
from ds2_deploy.decoding.protocol import Hypothesis, Word
from ds2_deploy.decoding.words import words_of
from ds2_deploy.errors import ConfigError, InferenceError
from ds2_deploy.extras import require
from ds2_deploy.text.alphabet import Alphabet

PRESET = LmSettings(alpha=0.5, beta=1.0, beam_width=64)
"""Where neither the caller nor the language model's folder says otherwise."""
MAX_ALPHA, MAX_BETA, MAX_WIDTH = 10.0, 20.0, 10_000
TOLERANCE = 1e-2
"""How far from one the probabilities of a frame may sum: FP16 is off by 1e-3."""


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """What a search may try and what it prefers. Scores are natural logarithms."""

    search: str = "beam"
    """Who searches: a name in DECODERS."""
    lm: Path | None = None
    """An ARPA file, a KenLM binary, or a folder with one."""
    alpha: float | None = None
    """Weight of the language model; None: as its folder says, else PRESET."""
    beta: float | None = None
    """What each word adds; None: as the folder says, else PRESET. Nothing without a language model."""
    beam_width: int | None = None
    """Prefixes kept from frame to frame; None: as the folder says, else PRESET."""
    beam_prune_logp: float = -10.0
    """A prefix that much worse than the best is dropped."""
    token_min_logp: float = -5.0
    """A label less probable than that is not tried, unless it is the most probable one."""
    unknown: float = -10.0
    """What a word adds that the language model does not know; flashlight does not hear such words at all."""
    hot_words: tuple[str, ...] = ()
    """Words to expect, known to the language model or not."""
    hot_word_weight: float = 10.0

    def __post_init__(self) -> None:
        _check("alpha", self.alpha, 0, MAX_ALPHA)
        _check("beta", self.beta, -MAX_BETA, MAX_BETA)
        _check("beam_width", self.beam_width, 1, MAX_WIDTH)
        _check("hot_word_weight", self.hot_word_weight, 0, 100)


def _check(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise ConfigError(f"{name} is {value:g}: it must lie between {least:g} and {most:g}.")


class Reading(NamedTuple):
    """One of several that the search found, with its scores apart; natural logarithms."""

    text: str
    score: float
    """Q: all together."""
    acoustic: float
    """ln P_ctc."""
    language: float
    """What language model, words and hot words added."""


class SearchDecoder(ABC):
    """A beam search; a subclass says who searches."""

    package: str
    """What it needs to be installed."""

    def __init__(self, alphabet: Alphabet, config: BeamConfig | None = None) -> None:
        require(self.package)
        self.alphabet = alphabet
        self.config = config = config or BeamConfig()
        files = find_language_model(config.lm) if config.lm else None
        preset = (files.settings if files else None) or PRESET
        self.alpha = preset.alpha if config.alpha is None else config.alpha
        self.beta = preset.beta if config.beta is None else config.beta
        self.beam_width = preset.beam_width if config.beam_width is None else config.beam_width
        self.has_lm = files is not None
        for word in config.hot_words:
            if missing := alphabet.missing(word):
                raise ConfigError(f"The hot word {word!r} has letters that the model does not know: {sorted(missing)}.")
        self._load(files)

    def __str__(self) -> str:
        lm = f", language model (alpha {self.alpha:g}, beta {self.beta:g})" if self.has_lm else ""
        return f"{self.config.search} {self.beam_width}{lm}"

    def weighing(self, alpha: float, beta: float, beam_width: int) -> Self:
        """The same with other weights; the language model is not loaded again."""
        other = copy(self)
        other.alpha, other.beta, other.beam_width = alpha, beta, beam_width
        other._weigh()
        return other

    @abstractmethod
    def _load(self, files: LmFiles | None) -> None:
        """Make ready to search, with the language model of `files` if there is one."""

    @abstractmethod
    def _weigh(self) -> None:
        """The weights have changed."""

    @abstractmethod
    def _search(self, log_probs: npt.NDArray[np.float32], most: int) -> list[Reading]:
        """Of (T, V), T at least one, best first."""

    def decode(self, log_probs: npt.NDArray[np.float32]) -> Hypothesis:
        """`log_probs` (T, V), the valid frames of one utterance; T may be 0."""
        best = self.readings(log_probs)[0]
        labels = self.alphabet.encode(best.text)
        words = words_of(aligned(log_probs, labels, self.alphabet.blank), self.alphabet)
        return Hypothesis(best.text, best.score, words)

    def readings(self, log_probs: npt.NDArray[np.float32], most: int = 1) -> list[Reading]:
        """The best ones of (T, V), best first, at most as many as asked for."""
        if not len(log_probs):
            return [Reading("", 0.0, 0.0, 0.0)]
        _check_probabilities(log_probs)
        return self._search(log_probs, most)

    def start(self) -> "SearchStream":
        """For an utterance that comes in pieces."""
        return SearchStream(self)


def _check_probabilities(log_probs: npt.NDArray[np.float32]) -> None:
    """InferenceError where they are none; what a search makes of such numbers looks like speech."""
    totals = np.exp(log_probs.astype(np.float64)).sum(axis=-1)  # (T,)
    if not np.abs(totals - 1).max() <= TOLERANCE:  # also where there is a NaN
        frame = int((~(np.abs(totals - 1) <= TOLERANCE)).argmax())
        what = "not numbers" if math.isnan(totals[frame]) else f"sum to {totals[frame]:.3g}, not to one"
        raise InferenceError(f"The probabilities of frame {frame} are no probabilities: they are {what}.")


class SearchStream:
    """One utterance in pieces: the frames are kept, and read anew as a whole when somebody asks.

    So the end is `decode`'s, whatever the pieces were. A later frame may change any word of it.
    """

    def __init__(self, decoder: SearchDecoder, going_on: int | None = None) -> None:
        self._decoder = decoder
        self._ears: GreedyStream = GreedyDecoder(decoder.alphabet).start()  # hears where letters are
        self._pieces: list[npt.NDArray[np.float32]] = []
        self._going_on = decoder.alphabet.blank if going_on is None else going_on
        self._read: tuple[int, Hypothesis] = (0, Hypothesis("", 0.0))

    @property
    def frames(self) -> int:
        return self._ears.frames

    @property
    def spoken(self) -> tuple[int, int] | None:
        return self._ears.spoken

    def accept(self, log_probs: npt.NDArray[np.float32]) -> None:
        """`log_probs` (t, V), the next frames of the utterance; t may be 0."""
        frames = self._without_the_last_letter(log_probs)
        self._ears.accept(frames)
        self._pieces.append(frames)

    def _without_the_last_letter(self, log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """As blank, where the letter goes on that the utterance before ended with."""
        blank = self._decoder.alphabet.blank
        if self._going_on == blank or not len(log_probs):
            return log_probs
        others = (log_probs.argmax(axis=-1) != self._going_on).nonzero()[0]
        count = int(others[0]) if len(others) else len(log_probs)
        silent = log_probs.copy()
        silent[:count] = -np.inf
        silent[:count, blank] = 0.0
        if len(others):
            self._going_on = blank
        return silent

    def hypothesis(self) -> Hypothesis:
        """The best reading of all frames so far."""
        return self._reading()._replace(words=())

    def words(self) -> tuple[Word, ...]:
        """Of the best reading, with their frames."""
        return self._reading().words

    def _reading(self) -> Hypothesis:
        if self._read[0] != self.frames:
            self._pieces = [np.concatenate(self._pieces)]
            self._read = self.frames, self._decoder.decode(self._pieces[0])
        return self._read[1]

    def stable(self) -> str:
        """Nothing: a later word may change what an earlier one is taken for."""
        return ""

    def next(self) -> "SearchStream":
        """For the utterance that follows on the next frame: a label that goes on is not a second one."""
        last = next((piece[-1] for piece in reversed(self._pieces) if len(piece)), None)
        return SearchStream(self._decoder, None if last is None else int(last.argmax()))
