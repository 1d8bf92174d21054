"""Backend: audio in, log-probabilities out. NumPy alone.

Shapes: B batch, S samples, T output frames, V vocabulary; in streams C samples and t frames of a chunk, N state.
"""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ds2_deploy.errors import InferenceError, reason_of

INPUTS, OUTPUTS = ["audio", "audio_lengths"], ["log_probs", "lengths"]
"""Names of the offline graph's tensors, in every runtime."""
STREAM_INPUTS, STREAM_OUTPUTS = [*INPUTS, "state"], [*OUTPUTS, "next_state"]
"""Names of the streaming graph's."""

STAGES = ("h2d", "compute", "d2h")
"""Parts of a run on a GPU: host to device, computing, device to host. A backend may have `run_in_stages`, which is
`run` with the milliseconds of each, for `ds2 bench`, and of `enqueue`, while the host was busy launching the second."""


class Emissions(NamedTuple):
    """What a network says about a batch."""

    log_probs: npt.NDArray[np.float32]
    """(B, T, V) natural logarithms of probabilities."""
    lengths: npt.NDArray[np.int64]
    """(B,) frames that belong to each recording; what lies beyond is padding."""


class Step(NamedTuple):
    """What one chunk of each of several streams gives."""

    log_probs: npt.NDArray[np.float32]
    """(B, t, V) natural logarithms of probabilities; each row's frames come first."""
    lengths: npt.NDArray[np.int64]
    """(B,) frames each row gives: none at first, while the layers still wait for what lies to the right."""
    state: npt.NDArray[np.float32]
    """(B, N) to be passed in with the next chunk."""


class Backend(Protocol):
    """One loaded model on one device; safe to call from several threads."""

    name: str
    """As the command line spells it: `onnxruntime`, `torch`, `tensorrt`."""
    device: str
    """`cpu` or `cuda:N`."""

    @property
    def max_samples(self) -> int | None:
        """Longest recording that `run` takes; None: any."""
        ...

    def run(self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> Emissions:
        """Whole recordings: `audio` (B, S) in [-1, 1], zero-padded; `lengths` (B,) samples of each. B is at least 1.

        S may be less than the graph takes: the backend pads.
        """
        ...


class StreamBackend(Protocol):
    """One loaded streaming model on one device; safe to call from several threads, and without any memory of its own:
    a stream is its row of state."""

    name: str
    device: str
    chunk_samples: int
    """C, what a step takes of each stream."""

    def initial_state(self, batch: int) -> npt.NDArray[np.float32]:
        """(B, N) of streams that have heard nothing."""
        ...

    def step(
        self, audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], state: npt.NDArray[np.float32]
    ) -> Step:
        """One chunk of each stream: `audio` (B, C), of which `lengths` (B,) samples are there.

        A row of fewer than C samples ends its recording; rows of none after it flush what the layers hold back.
        """
        ...


def longest_piece_s(backend: Backend, rate: int, wanted_s: float) -> float:
    """The longest piece of a long recording: `wanted_s`, or what the backend takes where that is less."""
    return wanted_s if backend.max_samples is None else min(wanted_s, backend.max_samples / rate)


def failed_on(library: str, audio: npt.NDArray[np.float32], error: Exception) -> InferenceError:
    """What a backend raises where its library fails on a batch (B, S), with the first line of what that says."""
    return InferenceError(
        f"{library} failed on a batch of {audio.shape[0]} x {audio.shape[1]} samples: {reason_of(error)[:200]}. If "
        "memory ran short, split the recording or use a smaller batch."
    )


def at_least(audio: npt.NDArray[np.float32], min_samples: int) -> npt.NDArray[np.float32]:
    """(B, S) padded with zeros to the shortest input a graph accepts; the same array where it is long enough."""
    missing = min_samples - audio.shape[1]
    return np.pad(audio, ((0, 0), (0, missing))) if missing > 0 else audio


def run_alone(backend: Backend, recording: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-probabilities (T, V) of one recording (S,)."""
    log_probs, lengths = backend.run(*pad_batch([recording]))
    return log_probs[0, : int(lengths[0])]


def pad_batch(recordings: list[npt.NDArray[np.float32]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Recordings (S_i,) -> audio (B, S) padded with zeros to the longest, lengths (B,)."""
    lengths = np.array([len(r) for r in recordings], dtype=np.int64)
    audio = np.zeros((len(recordings), int(lengths.max())), dtype=np.float32)
    for row, recording in zip(audio, recordings, strict=True):
        row[: len(recording)] = recording
    return audio, lengths
