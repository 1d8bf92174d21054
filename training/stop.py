"""Stop: Ctrl-C and SIGTERM, which a training answers between two steps."""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn, Self, TypeVar

from training.distributed import Processes

T = TypeVar("T")


class StoppedError(Exception):
    """Between two batches of what can be done again."""


class Stop:
    """Within `with`, a signal only sets `signal`: how the training was asked to end, if it was.

    One process ends at once with the second Ctrl-C. Of several none does: torchrun repeats the signal to all.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.signal: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other can
            for number in (signal.SIGINT, signal.SIGTERM):
                # ignored, as of what a shell runs in the background, or another program's, which hosts Python
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT and self.processes.count == 1:
            signal.signal(number, self.before[signal.SIGINT])

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """These, until the only process is to stop; several go on, since none can leave the others waiting."""
        for batch in batches:
            if self.signal and self.processes.count == 1:
                raise StoppedError
            yield batch

    def end(self) -> NoReturn:
        """As the signal ends a process: exit code 130 or 143."""
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + signal.SIGTERM)
