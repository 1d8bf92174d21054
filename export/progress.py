"""How far a build is: TensorRT tells of phases inside phases, people want one bar."""

import threading
from collections.abc import Callable


class BuildProgress:
    """Turns the builder's phases into a share of the whole, and can stop it. Called from the builder's threads.

    `report(share, phase)` hears of every step: 0 to 1 of the whole build, and the innermost phase's name.
    """

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report
        self._phases: dict[str, list[int]] = {}
        """Steps and finished steps of every open phase, the outermost first."""
        self._share = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let the builder give up at its next step."""
        self._stopped.set()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._change(phase, [steps, 0])

    def step(self, phase: str, number: int) -> bool:
        known = self._phases.get(phase)
        if known:
            self._change(phase, [known[0], number + 1])
        return not self._stopped.is_set()

    def finish(self, phase: str) -> None:
        self._change(phase, None)

    def _change(self, phase: str, state: list[int] | None) -> None:
        with self._lock:
            if state is None:
                self._phases.pop(phase, None)
            else:
                self._phases[phase] = state
            share, weight = 0.0, 1.0
            for steps, done in self._phases.values():
                share += weight * min(done / max(steps, 1), 1.0)
                weight *= 1 / max(steps, 1) if done < steps else 0.0
            self._share = max(self._share, share)  # a finished phase counts before its parent's step does
            name = next(reversed(self._phases), None)
        if name is not None:
            self._report(self._share, name)
