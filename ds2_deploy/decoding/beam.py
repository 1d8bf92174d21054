"""Beam search over CTC's prefixes, with an n-gram language model and hot words (pyctcdecode and KenLM).

P_ctc sums over all paths that spell a text; P_lm includes the end of the sentence. Where a language has no spaces, or
its labels are phonemes, each label is a word to the language model, which so scores every one of them as it is heard.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.language_model import LmFiles, NGramScorer, load_scorer
from ds2_deploy.decoding.search import Reading, SearchDecoder
from ds2_deploy.extras import require

MARGIN = 0.01
"""pyctcdecode normalises the frames again, which moves them by less."""
PIECE = "▁"
"""How pyctcdecode marks a label that begins a word."""


class BeamDecoder(SearchDecoder):
    """CTC prefix beam search (Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition")."""

    package = "pyctcdecode"

    def _load(self, files: LmFiles | None) -> None:
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
        return pyctcdecode.BeamSearchDecoderCTC(pyctcdecode.Alphabet(labels, self.alphabet.label_is_word), self._scorer)

    def _search(self, log_probs: npt.NDArray[np.float32], most: int) -> list[Reading]:
        needless = self._needless(log_probs)  # (T,)
        left_out = float(log_probs[needless, self.alphabet.blank].sum())  # of every reading's score alike
        found = self._searcher.decode_beams(
            log_probs[~needless],
            beam_width=self.beam_width,
            beam_prune_logp=self.config.beam_prune_logp,
            token_min_logp=self.config.token_min_logp,
            hotwords=self.config.hot_words or None,
            hotword_weight=self.config.hot_word_weight,
        )
        join = "".join if self.alphabet.label_is_word and not self.alphabet.separator else " ".join
        return [Reading(join(text.split()), q + left_out, p + left_out, q - p) for text, _, _, p, q in found[:most]]

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
