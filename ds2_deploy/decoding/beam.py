"""Beam search over CTC's prefixes, with an n-gram language model and hot words (pyctcdecode and KenLM).

P_ctc sums over all paths that spell a text; P_lm includes the end of the sentence. Where a language has no spaces, or
its labels are phonemes, each label is a word to the language model, which so scores every one of them as it is heard.
"""

import logging
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.language_model import BoundaryScorer, HotWordScorer, LmFiles, NGramScorer, load_scorer
from ds2_deploy.decoding.protocol import Hypothesis, Reading
from ds2_deploy.decoding.search import SearchDecoder, SearchStream
from ds2_deploy.errors import ConfigError
from ds2_deploy.extras import require

MARGIN = 0.01
"""pyctcdecode normalises the frames again, which moves them by less."""
PIECE = "▁"
"""How pyctcdecode marks a label that begins a word."""
logging.getLogger("pyctcdecode").setLevel(logging.ERROR)  # it warns of a missing kenlm, and we say what to do


class BeamDecoder(SearchDecoder):
    """CTC prefix beam search (Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition")."""

    package = "pyctcdecode"

    def _load(self, files: LmFiles | None) -> None:
        if self.config.hot_words and self.alphabet.label_is_word:
            raise ConfigError("Hot words are for languages that write words with spaces between them.")
        scorer = load_scorer(files, self.alphabet, self.alpha, self.beta, self.config.unknown) if files else None
        self._scorer: NGramScorer | None = scorer
        self._searcher = self._new_searcher()

    def _weigh(self) -> None:
        self._scorer = self._scorer.weighing(self.alpha, self.beta) if self._scorer else None
        self._searcher = self._new_searcher()

    def _new_searcher(self) -> Any:
        pyctcdecode = require(self.package)
        labels = [PIECE + label if self.alphabet.label_is_word else label for label in self.alphabet.labels]
        labels[self.alphabet.blank] = ""
        searcher = pyctcdecode.BeamSearchDecoderCTC(
            pyctcdecode.Alphabet(labels, self.alphabet.label_is_word), self._scorer_of_search()
        )
        # The class keeps every language model under its searcher's key, until it is told to forget it.
        weakref.finalize(searcher, type(searcher).model_container.pop, searcher._model_key, None)
        return searcher

    def _scorer_of_search(self) -> Any:
        if self.config.hot_words:
            return HotWordScorer(self.config.hot_words, self._scorer)
        boundary = self.alphabet.boundary
        if self._scorer and self.alphabet.label_is_word and boundary is not None:
            return BoundaryScorer(self.alphabet.labels[boundary], self._scorer)
        return self._scorer

    def start(self, going_on: int | None = None) -> "BeamStream":
        """For an utterance that comes in pieces."""
        return BeamStream(self, going_on)

    def search(self, log_probs: npt.NDArray[np.float32], most: int) -> list[Reading]:
        """The best readings of (T, V), T at least one, best first."""
        needless = self._needless(log_probs)  # (T,)
        left_out = float(log_probs[needless, self.alphabet.blank].sum())  # of every reading's score alike
        found = self._searcher.decode_beams(
            log_probs[~needless],
            beam_width=self.beam_width,
            beam_prune_logp=self.config.beam_prune_logp,
            token_min_logp=self.config.token_min_logp,
        )
        readings: dict[str, Reading] = {}
        for said, _, _, p, q in found:
            text, acoustic, language = self._text(said.split()), p + left_out, q - p
            if text in readings:  # with boundaries elsewhere, which a text does not show
                acoustic = float(np.logaddexp(acoustic, readings[text].acoustic))
            readings[text] = Reading(text, acoustic + language, acoustic, language)
        return sorted(readings.values(), key=lambda reading: -reading.score)[:most]

    def _text(self, words: list[str]) -> str:
        """Written as the greedy decoder does: a boundary between words, and none around them."""
        if not self.alphabet.label_is_word:
            return " ".join(words)
        end = self.alphabet.word_end.strip()  # between phonemes; elsewhere there is none
        words = [word for i, word in enumerate(words) if word != end or (i and words[i - 1] != end)]
        return self.alphabet.separator.join(words[:-1] if words and words[-1] == end else words)

    def _needless(self, log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """(T,) the frames that add the same to every prefix: where nothing but the blank is tried, as in the frame
        before. That is most of them, and leaving them out changes nothing."""
        others = np.delete(log_probs, self.alphabet.blank, axis=1).max(axis=1, initial=-np.inf)
        only_blank = others < self.config.token_min_logp - MARGIN
        only_blank &= log_probs[:, self.alphabet.blank] > others
        needless: npt.NDArray[np.bool_] = only_blank.copy()
        needless[1:] &= only_blank[:-1]
        needless[:1] = False
        return needless


class BeamStream(SearchStream):
    """pyctcdecode cannot go on where it stopped, so each question reads all frames anew."""

    _decoder: BeamDecoder

    def _advance(self, log_probs: npt.NDArray[np.float32]) -> None:
        """They are kept, which is enough."""

    def _so_far(self) -> Hypothesis:
        return Hypothesis(*self._end(1)[0][:2])

    def _end(self, most: int) -> list[Reading]:
        return self._decoder.search(self._kept(), most)
