"""Processes that decode while the network hears on: the searches are Python, or hold its lock, so threads queue up."""

import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import Any

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.outcome import Outcome, decode_row
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.extras import require

log = logging.getLogger(__name__)

WORTH_IT_S = 3.0
"""So much decoding is done here first: a process takes a second to begin, which a few recordings are not worth."""
IDLE_S = 20
"""So long a process waits for more before it ends."""
PARENT_S = 0.5
"""How often a process looks whether the one that began it is still there."""


class DecodingPool:
    """Decodes batches with copies of a decoder in `processes` of their own, as soon as there is enough to do.

    The log-probabilities go and the words come back by pipe, which takes a fifteenth of decoding them, most of it for
    the words (benchmarks/decoding_pool.py): shared memory would save nothing.
    """

    def __init__(self, decoder: Decoder, processes: int) -> None:
        require("loky")
        self._decoder, self._processes = decoder, processes
        self._spent_s = 0.0
        self._lock = threading.Lock()
        self._executor: Any = None
        self._warm: list[Future[None]] = []
        self._gave_up = False

    @property
    def is_ready(self) -> bool:
        """Whether a process has loaded its decoder."""
        return any(future.done() for future in self._warm)

    def begin(self) -> None:
        """Start the processes, where they have not been; this does not wait for them."""
        with self._lock:
            if self._executor is not None or self._gave_up:
                return
            loky = require("loky")  # it does not import the caller's script, as multiprocessing's would
            start = {"timeout": IDLE_S, "initializer": _begin, "initargs": (self._decoder, os.getpid())}
            self._executor = loky.ProcessPoolExecutor(self._processes, **start)
            self._warm = [self._executor.submit(_ready) for _ in range(self._processes)]
            _RUNNING.add(self)

    def decode(self, rows: Sequence[npt.NDArray[np.float32]]) -> list[Outcome]:
        """Of each utterance (T_i, V), in order."""
        if not self.is_ready:
            return self._here(rows)
        try:
            shares = [list(rows[first :: self._processes]) for first in range(min(self._processes, len(rows)))]
            futures = [self._executor.submit(_decode, share) for share in shares]
            found: list[Outcome] = [None] * len(rows)  # type: ignore[list-item]
            for first, future in enumerate(futures):
                found[first :: self._processes] = future.result()
            return found
        except BrokenExecutor:
            self._give_up()
            return self._here(rows)

    def _here(self, rows: Sequence[npt.NDArray[np.float32]]) -> list[Outcome]:
        start = time.perf_counter()
        found = [decode_row(self._decoder, row) for row in rows]
        self._spent_s += time.perf_counter() - start
        if self._spent_s > WORTH_IT_S:
            self.begin()
        return found

    def _give_up(self) -> None:
        with self._lock:
            if not self._gave_up:
                log.warning("A process that decodes was ended: decoding goes on in this one.")
            self._gave_up, self._warm = True, []

    def kill(self) -> None:
        """End the processes, whatever they are doing."""
        if self._executor is not None:
            self._gave_up, self._warm = True, []
            self._executor.shutdown(wait=False, kill_workers=True)


_RUNNING: "weakref.WeakSet[DecodingPool]" = weakref.WeakSet()


def kill_all() -> None:
    """Every pool's processes, before this one ends without its clean-up."""
    for pool in list(_RUNNING):
        pool.kill()


_own: Any = None
"""The decoder of a process of the pool."""


def _begin(decoder: Decoder, parent: int) -> None:
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that asked
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    _own = decoder


def _follow(parent: int) -> None:
    """End with the process that began this one, even where that was killed."""
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    os._exit(1)


def _ready() -> None:
    """Nothing; done once the process has its decoder."""


def _decode(rows: list[npt.NDArray[np.float32]]) -> list[Outcome]:
    return [decode_row(_own, row) for row in rows]
