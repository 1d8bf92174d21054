"""Processes that decode while the network hears on: the searches are Python, or hold its lock, so threads queue up."""

import logging
import signal
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import Any

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.protocol import Decoder, Hypothesis
from ds2_deploy.errors import DS2Error
from ds2_deploy.extras import require

log = logging.getLogger(__name__)

IDLE_S = 60
"""So long a process waits for more before it ends."""

Outcome = Hypothesis | DS2Error


def decode_row(decoder: Decoder, log_probs: npt.NDArray[np.float32]) -> Outcome:
    """The hypothesis of one utterance (T, V), or why there is none."""
    try:
        return decoder.decode(log_probs)
    except DS2Error as error:
        return error


class DecodingPool:
    """Decodes batches with copies of a decoder in `processes` of their own; until they have begun, right here.

    The log-probabilities travel by pipe: that costs a thousandth of decoding them (benchmarks/decoding_pool.py), so
    shared memory would save nothing.
    """

    def __init__(self, decoder: Decoder, processes: int) -> None:
        self._decoder, self._processes = decoder, processes
        loky = require("loky")  # it does not import the caller's script, as multiprocessing's would
        self._executor = loky.ProcessPoolExecutor(processes, timeout=IDLE_S, initializer=_begin, initargs=(decoder,))
        self._warm: list[Future[None]] = [self._executor.submit(_ready) for _ in range(processes)]

    @property
    def is_ready(self) -> bool:
        """Whether a process has loaded its decoder."""
        return any(future.done() for future in self._warm)

    def decode(self, rows: Sequence[npt.NDArray[np.float32]]) -> list[Outcome]:
        """Of each utterance (T_i, V), in order."""
        if not self.is_ready:
            return [decode_row(self._decoder, row) for row in rows]
        try:
            shares = [list(rows[first :: self._processes]) for first in range(min(self._processes, len(rows)))]
            futures = [self._executor.submit(_decode, share) for share in shares]
            found: list[Outcome] = [None] * len(rows)  # type: ignore[list-item]
            for first, future in enumerate(futures):
                found[first :: self._processes] = future.result()
            return found
        except BrokenExecutor as error:
            log.warning("The processes that decode have ended (%s): decoding goes on here.", error)
            return [decode_row(self._decoder, row) for row in rows]


_own: Any = None
"""The decoder of a process of the pool."""


def _begin(decoder: Decoder) -> None:
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that asked
    _own = decoder


def _ready() -> None:
    """Nothing; done once the process has its decoder."""


def _decode(rows: list[npt.NDArray[np.float32]]) -> list[Outcome]:
    return [decode_row(_own, row) for row in rows]
