"""Best-path decoding: the most probable label of each frame, repeats merged, blanks removed."""

import math
from array import array

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.decoding.words import Letter, words_of
from ds2_deploy.errors import InferenceError
from ds2_deploy.text.alphabet import Alphabet


def no_probabilities(frame: int, what: str) -> InferenceError:
    """The error where a network's output of a frame cannot be decoded; `what` says why."""
    return InferenceError(f"Frame {frame} holds no valid log-probabilities: {what}.")


class GreedyDecoder:
    """CTC best path (Graves et al. 2006, section 3.2)."""

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        self.separator, self.boundary, self.word_end = alphabet.separator, alphabet.boundary, alphabet.word_end
        self.is_letter = [label not in (alphabet.blank, self.boundary) for label in range(len(alphabet))]

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
        best, most = log_probs.argmax(axis=-1).tolist(), log_probs.max(axis=-1).tolist()
        if any(strange := list(map(math.isnan, most))):
            raise no_probabilities(self.frames + strange.index(True), "they are NaN")
        self._score += sum(most)
        for label, log_prob in zip(best, most, strict=True):  # a stream's few frames are too few for numpy
            if label != self._last:
                self._begin(label, log_prob)
            elif self._goes_on:
                self._ends[-1] = self.frames + 1
                self._log_probs[-1] = max(self._log_probs[-1], log_prob)
            if self._goes_on and self._decoder.is_letter[label]:  # and not of the utterance before
                self.spoken = (self.frames if self.spoken is None else self.spoken[0], self.frames + 1)
            self.frames += 1

    def _begin(self, label: int, log_prob: float) -> None:
        """A run of one label: a letter, unless it is blank or one boundary more than parts two words."""
        alphabet, boundary = self._decoder.alphabet, self._decoder.boundary
        self._last = label
        self._goes_on = label != alphabet.blank and not (label == boundary and self._between_words)
        if self._goes_on:
            self._between_words = label == boundary
            self._letters.append(alphabet.labels[label])
            self._labels.append(label)
            self._starts.append(self.frames)
            self._ends.append(self.frames + 1)
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
