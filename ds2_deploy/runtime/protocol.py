"""Backend: audio in, log-probabilities out. NumPy alone.

Shapes: B batch, S samples, T output frames, V vocabulary.
"""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

INPUTS, OUTPUTS = ["audio", "audio_lengths"], ["log_probs", "lengths"]
"""Names of the offline graph's tensors, in every runtime."""


class Emissions(NamedTuple):
    """What a network says about a batch."""

    log_probs: npt.NDArray[np.float32]
    """(B, T, V) natural logarithms of probabilities."""
    lengths: npt.NDArray[np.int64]
    """(B,) frames that belong to each recording; what lies beyond is padding."""


class Backend(Protocol):
    """One loaded model on one device; safe to call from several threads."""

    name: str
    """As the command line spells it: `onnxruntime`, `torch`, `tensorrt`."""
    device: str
    """`cpu` or `cuda:N`."""

    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        """Whole recordings: `audio` (B, S) in [-1, 1], zero-padded; `lengths` (B,) samples of each."""
        ...


def at_least(audio: npt.NDArray[np.float32], min_samples: int) -> npt.NDArray[np.float32]:
    """(B, S) padded with zeros to the shortest input a graph accepts; the same array where it is long enough."""
    missing = min_samples - audio.shape[1]
    return np.pad(audio, ((0, 0), (0, missing))) if missing > 0 else audio


def pad_batch(
    recordings: list[npt.NDArray[np.float32]], min_samples: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Recordings (S_i,) -> audio (B, S) padded with zeros to the longest (at least `min_samples`), lengths (B,)."""
    lengths = np.array([len(r) for r in recordings], dtype=np.int64)
    audio = np.zeros((len(recordings), max(int(lengths.max(initial=0)), min_samples)), dtype=np.float32)
    for row, recording in zip(audio, recordings, strict=True):
        row[: len(recording)] = recording
    return audio, lengths
