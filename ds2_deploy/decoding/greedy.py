"""Best-path decoding: the most probable label of each frame, repeats merged, blanks removed."""

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.protocol import Hypothesis
from ds2_deploy.text.alphabet import Alphabet


class GreedyDecoder:
    """CTC best path (Graves et al. 2006, section 3.2)."""

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet

    def decode(self, log_probs: npt.NDArray[np.float32]) -> Hypothesis:
        best = log_probs.argmax(axis=-1) if len(log_probs) else np.zeros(0, dtype=np.int64)  # (T,)
        score = float(log_probs.max(axis=-1, initial=-np.inf).sum()) if len(log_probs) else 0.0
        starts = np.ones(len(best), dtype=bool)
        starts[1:] = best[1:] != best[:-1]
        text = self.alphabet.decode(best[starts].tolist())
        return Hypothesis(" ".join(text.split()), score)
