"""Best-path decoding: the most probable label of each frame, repeats merged, blanks removed."""

from array import array

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.decoding.words import Letter, words_of
from ds2_deploy.errors import InferenceError
from ds2_deploy.text.alphabet import Alphabet


def no_probabilities(frame: int, what: str) -> InferenceError:
    """A network's numbers of that frame are no probabilities: what they are instead."""
    return InferenceError(f"The probabilities of frame {frame} are no probabilities: they are {what}.")


class GreedyDecoder:
    """CTC best path (Graves et al. 2006, section 3.2)."""

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        self.separator, self.boundary, self.word_end = alphabet.separator, alphabet.boundary, alphabet.word_end
        self.is_letter = np.ones(len(alphabet), dtype=bool)  # (V,)
        self.is_letter[alphabet.blank] = False
        if self.boundary is not None:
            self.is_letter[self.boundary] = False

    def __str__(self) -> str:
        return "greedy"

    def decode(self, log_probs: npt.NDArray[np.float32]) -> Hypothesis:
        """`log_probs` (T, V), the valid frames of one utterance; T may be 0."""
        stream = self.start()
        stream.accept(log_probs)
        return stream.finish()

    def start(self) -> "GreedyStream":
        """For an utterance that comes in pieces."""
        return GreedyStream(self)


class GreedyStream:
    """One utterance's best path so far. Later frames add to it and change nothing."""

    def __init__(self, decoder: GreedyDecoder) -> None:
        self.frames = 0
        self.spoken: tuple[int, int] | None = None
        self._decoder = decoder
        self._letters: list[str] = []
        self._labels, self._starts, self._ends = (array("i") for _ in range(3))  # of each letter; see Letter
        self._log_probs = array("f")
        self._between_words = True  # or before the first: a boundary here would be one too many
        self._last = -1
        self._goes_on = False  # the last letter may be heard in the next frame, too
        self._score = 0.0

    def accept(self, log_probs: npt.NDArray[np.float32]) -> None:
        """`log_probs` (t, V), the next frames of the utterance; t may be 0. InferenceError where they hold a NaN."""
        if not len(log_probs):
            return
        best, most = log_probs.argmax(axis=-1), log_probs.max(axis=-1)  # (t,), (t,)
        if (strange := np.isnan(most)).any():
            raise no_probabilities(self.frames + int(strange.argmax()), "not numbers")
        self._score += float(most.sum())
        letters = self._decoder.is_letter[best].nonzero()[0]
        if len(letters):
            begin = self.frames + int(letters[0]) if self.spoken is None else self.spoken[0]
            self.spoken = (begin, self.frames + int(letters[-1]) + 1)
        before = np.empty_like(best)
        before[0], before[1:] = self._last, best[:-1]
        begins = (best != before).nonzero()[0]  # of each run of one label
        going_on = int(begins[0]) if len(begins) else len(best)
        if going_on and self._goes_on:
            self._ends[-1] = self.frames + going_on
            self._log_probs[-1] = max(self._log_probs[-1], float(most[:going_on].max()))
        if len(begins):
            ends = np.append(begins[1:], len(best))
            self._write(best[begins], self.frames + begins, self.frames + ends, np.maximum.reduceat(most, begins))
        self._last = int(best[-1])
        self.frames += len(best)

    def _write(self, *runs: npt.NDArray[np.generic]) -> None:
        """Label, start, end and log probability of runs, without blanks, and with one boundary between words however
        many were heard."""
        alphabet, boundary = self._decoder.alphabet, self._decoder.boundary
        for label, start, end, log_prob in zip(*(run.tolist() for run in runs), strict=True):
            self._goes_on = label != alphabet.blank and not (label == boundary and self._between_words)
            if not self._goes_on:
                continue
            self._between_words = label == boundary
            self._letters.append(alphabet.labels[label])
            self._labels.append(label)
            self._starts.append(start)
            self._ends.append(end)
            self._log_probs.append(log_prob)

    def hypothesis(self) -> Hypothesis:
        """The reading of all frames so far; ln of the best path's probability."""
        return Hypothesis(self._text().removesuffix(self._decoder.word_end), self._score)

    def finish(self) -> Hypothesis:
        """The reading of the whole utterance, with its words."""
        letters = map(Letter, self._labels, self._starts, self._ends, self._log_probs)
        return self.hypothesis()._replace(words=words_of(letters, self._decoder.alphabet))

    def stable(self) -> str:
        """All but the word that may still grow; all where the language parts no words."""
        end = self._decoder.word_end
        return self._text().rpartition(end)[0] if end else self._text()

    def _text(self) -> str:
        return self._decoder.separator.join(self._letters)

    def next(self) -> "GreedyStream":
        """For the utterance that follows on the next frame: a label that goes on is not a second one."""
        following = GreedyStream(self._decoder)
        following._last = self._last
        return following
