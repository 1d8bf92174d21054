"""A fast beam search in C++ (flashlight-text, Kahn et al. 2022), with KenLM built in.

With a language model it hears the model's words and no others, out of a tree of their spellings; without one, any
letters. Its score counts a prefix's paths together as long as they share the state of the search, so it is a little
below the true sum.
"""

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.language_model import LmFiles, spelled, unreadable, words_of_model
from ds2_deploy.decoding.protocol import Hypothesis, Reading
from ds2_deploy.decoding.search import SearchDecoder, SearchStream
from ds2_deploy.errors import ConfigError
from ds2_deploy.extras import require

UNKNOWN = "<unk>"
NEVER = -1e4
"""Logarithm of a probability of nothing that can still be added up."""
UNENDED = -50.0
"""What it costs a reading to end within a word: more than any pruning allows where another ends with one."""


class FlashlightDecoder(SearchDecoder):
    """The same formula as BeamDecoder's; hot words and alphabets without words are not for it."""

    package = "flashlight.lib.text.decoder"

    def _load(self, files: LmFiles | None) -> None:
        if self.config.hot_words:
            raise ConfigError("The decoder flashlight knows no hot words: take beam.")
        if self.alphabet.label_is_word:
            raise ConfigError("The decoder flashlight needs words with spaces between them: take beam.")
        self.boundary = self.alphabet.boundary
        self._lexicon = _Lexicon(files, self) if files else None

    def _weigh(self) -> None:
        """The weights are handed over with each search."""

    def start(self, going_on: int | None = None) -> "FlashlightStream":
        """For an utterance that comes in pieces."""
        return FlashlightStream(self, going_on)

    def language(self, lm_score: float, words: int) -> float:
        """What the language model, by its logarithm of ten, and the words add to a score."""
        return self.alpha * math.log(10) * lm_score + self.beta * words if self._lexicon else 0.0

    def searcher(self) -> Any:
        """Of one utterance: it keeps what it is at."""
        flashlight = require(self.package)
        boundary, blank = self.boundary, self.alphabet.blank
        width, labels, threshold = self.beam_width, len(self.alphabet), -self.config.beam_prune_logp
        if self._lexicon is None:
            options = flashlight.LexiconFreeDecoderOptions(
                width, labels, threshold, 0.0, 0.0, True, flashlight.CriterionType.CTC
            )
            return flashlight.LexiconFreeDecoder(options, flashlight.ZeroLM(), boundary, blank, [])
        weight = self.alpha * math.log(10)  # KenLM's logarithms are of ten
        options = flashlight.LexiconDecoderOptions(
            width, labels, threshold, weight, self.beta, -math.inf, 0.0, True, flashlight.CriterionType.CTC
        )
        lexicon = self._lexicon
        return flashlight.LexiconDecoder(
            options, lexicon.trie, lexicon.model, boundary, blank, lexicon.unknown, [], False
        )


class FlashlightStream(SearchStream):
    """Goes on from piece to piece. Before the end a word is heard when the next one begins.

    A path holds a label for each frame, between two of the library's own.
    """

    _decoder: FlashlightDecoder

    def __init__(self, decoder: FlashlightDecoder, going_on: int | None = None) -> None:
        super().__init__(decoder, going_on)
        self._searcher = decoder.searcher()
        self._searcher.decode_begin()

    def _advance(self, log_probs: npt.NDArray[np.float32]) -> None:
        frames = np.ascontiguousarray(np.maximum(log_probs, np.float32(NEVER)))
        self._searcher.decode_step(frames.ctypes.data, *frames.shape)

    def _so_far(self) -> Hypothesis:
        best = self._searcher.get_best_hypothesis(0)
        return Hypothesis(self._text(best.tokens[1:]), best.score)

    def _end(self, most: int) -> list[Reading]:
        """As if a space followed, so that the last word ends like any other; half a word is no word."""
        boundary = self._decoder.boundary
        end = np.full((1, len(self._alphabet)), NEVER, np.float32)
        end[0, [boundary, self._alphabet.blank]] = 0.0, UNENDED
        self._searcher.decode_step(end.ctypes.data, *end.shape)
        self._searcher.decode_end()
        readings: dict[str, Reading] = {}
        for result in self._searcher.get_all_final_hypothesis():
            path, extra = result.tokens[1:-1], 0.0
            if path[-1] != boundary:
                extra = UNENDED
                path = path[: len(path) - path[::-1].index(boundary)] if boundary in path else []
            text, score = self._text(path), result.score - extra
            language = self._decoder.language(result.lmScore, len(text.split()))
            readings.setdefault(text, Reading(text, score, score - language, language))
        return list(readings.values())[:most] or [Reading("", 0.0, 0.0, 0.0)]

    def _text(self, path: list[int]) -> str:
        """Repeats merged, blanks removed, single spaces between words."""
        letters = [label for i, label in enumerate(path) if i == 0 or label != path[i - 1]]
        return " ".join(self._alphabet.decode(letters).split())


class _Lexicon:
    """A language model's words as a tree of letters, each ending in a space."""

    def __init__(self, files: LmFiles, decoder: FlashlightDecoder) -> None:
        flashlight, kenlm = require(decoder.package), require(f"{decoder.package}.kenlm")
        create_word_dict = require("flashlight.lib.text.dictionary").create_word_dict
        alphabet, boundary = decoder.alphabet, decoder.alphabet.boundary
        words = spelled(words_of_model(files), alphabet, files.model)
        known = create_word_dict({word: [] for word in [*words.values(), UNKNOWN]})
        self.model = _load_kenlm(kenlm, files.model, known)
        self.unknown = known.get_index(UNKNOWN)
        self.trie = flashlight.Trie(len(alphabet), boundary)
        start = self.model.start(False)
        for ours, theirs in words.items():
            index = known.get_index(theirs)
            _, score = self.model.score(start, index)
            self.trie.insert([*alphabet.encode(ours), boundary], index, score)
        self.trie.smear(flashlight.SmearingMode.MAX)


def _load_kenlm(kenlm: Any, path: Path, words: Any) -> Any:
    try:
        with _quiet():
            return kenlm.KenLM(str(path), words)
    except (RuntimeError, ValueError, OSError) as error:
        raise unreadable(path, error) from error


_STDERR = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what a library in C++ writes to stderr: KenLM's progress, which this one cannot switch off."""
    with _STDERR, Path(os.devnull).open("w") as nowhere:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
