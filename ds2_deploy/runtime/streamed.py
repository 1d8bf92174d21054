"""A stream backend in the place of an offline one: recordings cut into chunks, side by side in one batch."""

import numpy as np
import numpy.typing as npt

from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.runtime.protocol import Emissions, StreamBackend


class Streamed:
    """`run` as in Backend: the frames of whole recordings, computed chunk by chunk."""

    max_samples = None

    def __init__(self, backend: StreamBackend, metadata: ModelMetadata) -> None:
        self.backend, self.metadata = backend, metadata
        self.name = f"{backend.name} stream"
        self.device = backend.device

    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        """Whole recordings: `audio` (B, S) in [-1, 1], zero-padded; `lengths` (B,) samples of each."""
        chunk = self.backend.chunk_samples
        state = self.backend.initial_state(len(audio))
        pieces: list[list[npt.NDArray[np.float32]]] = [[] for _ in lengths]
        for start in range(0, int(lengths.max()) + flush_samples(self.metadata, chunk), chunk):
            present = np.clip(lengths - start, 0, chunk)
            block = np.zeros((len(audio), chunk), dtype=np.float32)
            heard = audio[:, start : start + chunk]
            block[:, : heard.shape[1]] = heard
            step = self.backend.step(block, present, state)
            state = step.state
            for parts, log_probs, valid in zip(pieces, step.log_probs, step.lengths, strict=True):
                parts.append(log_probs[:valid])
        rows = [np.concatenate(parts) for parts in pieces]
        frames = np.array([len(row) for row in rows], dtype=np.int64)
        log_probs = np.zeros((len(rows), int(frames.max()), len(self.metadata.alphabet)), dtype=np.float32)
        for target, row in zip(log_probs, rows, strict=True):
            target[: len(row)] = row
        return Emissions(log_probs, frames)


def flush_samples(metadata: ModelMetadata, chunk_samples: int) -> int:
    """Samples' worth of chunks after which a recording that has ended gives nothing more."""
    assert metadata.delay_s is not None
    feature = metadata.feature
    after = feature.window_samples + feature.padding[1]
    return round(metadata.delay_s * feature.sample_rate) + after + 2 * chunk_samples
