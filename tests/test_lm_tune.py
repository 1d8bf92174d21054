"""Tuning a language model's weights: what is tried does not depend on the machine."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import training.lm_tune
from ds2_deploy.metrics import Errors
from ds2_deploy.text.alphabet import ENGLISH
from training.lm_tune import ASKED, Heard, Trial, tune


class OneProcess:
    """A pool that runs everything here and counts what is given to it at once."""

    given: list[int] = []  # noqa: RUF012

    def __init__(self, workers: int, *_: object) -> None:
        self.workers = workers

    def __enter__(self) -> "OneProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[..., Trial], choices: Iterable[tuple[float, ...]]) -> Iterator[Trial]:
        listed = list(choices)
        self.given.append(len(listed))
        return iter([self.trial(*choice) for choice in listed])

    @staticmethod
    def trial(alpha: float, beta: float, width: int = 64) -> Trial:
        cost = (alpha - 1) ** 2 + (beta - 2) ** 2
        return Trial(alpha, beta, width, Errors(1, 10, 1, 10), cost)


def test_any_number_of_processes_tries_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr(training.lm_tune, "ProcessPoolExecutor", OneProcess)
    monkeypatch.setattr(training.lm_tune, "BeamDecoder", lambda *_: None)
    monkeypatch.setattr(Heard, "errors", lambda *_: Errors(1, 10, 1, 10))
    heard = Heard(ENGLISH, "en", [], ["a"])
    one, two, many = (tune(heard, Path("lm"), 2 * ASKED + 3, workers) for workers in (1, 2, 96))
    assert one.trials == two.trials == many.trials
    assert OneProcess.given[:4] == [ASKED, ASKED, 3, 6]  # proposals, then beams
    assert len({trial.alpha for trial in one.trials}) == 2 * ASKED + 3
