"""A model step for several streams at once; and the stepper of a stream that runs in its caller's thread.

Shapes: B streams, C samples of a chunk, N values of state.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ds2_deploy.errors import InferenceError
from ds2_deploy.runtime.protocol import Step, StreamBackend

if TYPE_CHECKING:
    from ds2_deploy.streaming.stream import Stream

log = logging.getLogger(__name__)


def step_streams(backend: StreamBackend, streams: Sequence["Stream"]) -> None:
    """One chunk of each stream that has one. A model that fails fails the streams it fails on, one by one."""
    audio = np.empty((len(streams), backend.chunk_samples), dtype=np.float32)
    taken: list[Stream] = []
    lengths, states = [], []
    for stream in streams:
        if (chunk := stream.take(audio[len(taken)])) is not None:
            taken.append(stream)
            lengths.append(chunk[0])
            states.append(chunk[1])
    if taken:
        _step(backend, taken, audio[: len(taken)], np.array(lengths, dtype=np.int64), np.array(states))


def _step(
    backend: StreamBackend,
    streams: list["Stream"],
    audio: npt.NDArray[np.float32],
    lengths: npt.NDArray[np.int64],
    states: npt.NDArray[np.float32],
) -> None:
    failure = None
    try:
        step = backend.step(audio, lengths, states)
        if not len(step.log_probs) == len(step.lengths) == len(step.state) == len(streams):
            raise InferenceError(f"The model gave {len(step.lengths)} rows for a step of {len(streams)} streams.")
    except Exception as error:  # whatever it is: the streams hear it, and the stepper lives on
        log.debug("A model step failed", exc_info=True)
        failure = error.with_traceback(None)  # which would keep alive all that is in these frames
    except BaseException:  # Ctrl-C: the chunks are not lost
        for stream, row, length in zip(streams, audio, lengths, strict=True):
            stream.untake(row[:length].copy())
        raise
    if failure is None:
        _deliver(step, streams)
    elif len(streams) == 1:
        streams[0].fail(failure)
    else:
        for i, stream in enumerate(streams):
            _step(backend, [stream], audio[i : i + 1], lengths[i : i + 1], states[i : i + 1])


def _deliver(step: Step, streams: list["Stream"]) -> None:
    for stream, log_probs, frames, state in zip(streams, step.log_probs, step.lengths, step.state, strict=True):
        try:
            stream.put(log_probs[:frames], state.copy())  # a view would keep the whole batch
        except Exception as error:  # the decoder's
            log.debug("A stream's decoder failed", exc_info=True)
            stream.fail(error.with_traceback(None))


class OwnThread:
    """Steps a stream at once, in the thread that feeds it."""

    def __init__(self, backend: StreamBackend) -> None:
        self.backend = backend

    def pump(self, stream: "Stream") -> None:
        """Step all its chunks."""
        while stream.ready:
            step_streams(self.backend, [stream])

    def release(self, stream: "Stream") -> None:
        """Nothing is kept of a stream."""

    def is_worker(self) -> bool:
        """There are none."""
        return False
