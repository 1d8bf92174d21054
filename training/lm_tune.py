"""The weights of a language model: alpha, beta and beam width with the fewest errors on a validation manifest.

The network hears each recording once. Optuna's sampler (Watanabe 2023, "Tree-structured Parzen estimator") proposes
weights, ASKED at a time, each of which one process decodes everything with: the same ones on any number of cores. A
few hundred recordings tell neighbours apart by a word or by none, so the choice is the one whose neighbourhood is best:
the middle of a flat place, not its edge. Of the beams that make as few errors as the one that was searched with, the
narrowest is taken.
"""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ds2_deploy.audio.load import load_audio
from ds2_deploy.decoding.beam import BeamDecoder
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.language_model import LmSettings
from ds2_deploy.decoding.outcome import text_or_nothing
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.decoding.search import BeamConfig
from ds2_deploy.errors import AudioError, ManifestError
from ds2_deploy.extras import require
from ds2_deploy.files import atomic_path
from ds2_deploy.manifest import Utterance
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.metrics import Errors
from ds2_deploy.runtime.protocol import Backend, run_alone
from ds2_deploy.text.alphabet import Alphabet
from ds2_deploy.text.languages import language_named, normalize, respelled

ALPHAS, BETAS = (0.0, 3.0), (-2.0, 4.0)
"""What is searched."""
WIDTHS = (4, 8, 16, 32, 64, 128)
SEARCH_WIDTH = 64
SEED = 2026
ASKED = 8
"""Proposals made before the result of any of them is known, whatever the cores: else these would choose the weights."""
NEIGHBOURHOOD = 0.1
"""Share of the trials, the nearest ones and itself, by whose mean a choice is judged."""
CHARACTERS_WEIGH = 0.01
"""Of two choices with as many wrong words, the one with fewer wrong characters is better."""


class Heard(NamedTuple):
    """What a network made of recordings whose texts are known."""

    alphabet: Alphabet
    language: str
    frames: list[npt.NDArray[np.float32]]
    """(T, V) log-probabilities of each."""
    texts: list[str]
    """In the language's spelling."""

    def errors(self, decoder: Decoder) -> Errors:
        return Errors.total(
            Errors.between(text, respelled(text_or_nothing(decoder, frames), self.language))
            for frames, text in zip(self.frames, self.texts, strict=True)
        )

    @property
    def metric(self) -> str:
        """The language's own: WER, PER or CER."""
        return language_named(self.language).metric

    def cost(self, errors: Errors) -> float:
        """What is to be made small: the language's own error rate, with a little of that of characters."""
        return errors.rate(self.metric) + CHARACTERS_WEIGH * errors.cer


class Trial(NamedTuple):
    """One choice and what came of it."""

    alpha: float
    beta: float
    beam_width: int
    errors: Errors
    cost: float


class Tuned(NamedTuple):
    """The best choice, all that was tried, and what is to be compared with it."""

    settings: LmSettings
    best: Trial
    trials: list[Trial]
    """Of the search, in the order of asking."""
    widths: list[Trial]
    greedy: Errors
    beam: Errors
    """Without a language model."""
    metric: str

    def rate(self, errors: Errors) -> float:
        return errors.rate(self.metric)


def hear(backend: Backend, metadata: ModelMetadata, utterances: Sequence[Utterance]) -> tuple[Heard, list[AudioError]]:
    """Run the network over all recordings, one at a time; those that cannot be read are left out, and their errors
    returned. PronunciationError, before that, for a text without a spelling."""
    texts = [normalize(utterance.text, metadata.language) for utterance in utterances]
    heard, failures = Heard(metadata.alphabet, metadata.language, [], []), []
    for utterance, text in zip(utterances, texts, strict=True):
        try:
            audio = load_audio(utterance.path, metadata.feature.sample_rate)
        except AudioError as error:
            failures.append(error)
            continue
        heard.frames.append(run_alone(backend, audio).copy())
        heard.texts.append(text)
    return heard, failures


def check(alphabet: Alphabet, lm: Path, utterances: Sequence[Utterance]) -> None:
    """Raise what is wrong with the texts or the language model, or is not installed, before hours of work."""
    if not any(utterance.text.strip() for utterance in utterances):
        raise ManifestError("No text of the manifest has words to tune with.")
    require("optuna")
    BeamDecoder(alphabet, BeamConfig(lm=lm))


def tune(
    heard: Heard,
    lm: Path,
    trials: int,
    workers: int,
    step: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tuned:
    """Search alpha and beta, then the beam's width, with `workers` processes; `with step():` after each trial."""
    optuna = require("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not any(text.strip() for text in heard.texts):
        raise ManifestError("No recording that was heard has words to tune with.")
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED, constant_liar=True))
    tried: list[Trial] = []
    with ProcessPoolExecutor(workers, get_context("spawn"), _Worker.begin, (heard, lm)) as pool:
        while len(tried) < trials:
            asked = [study.ask() for _ in range(min(ASKED, trials - len(tried)))]
            choices = [(t.suggest_float("alpha", *ALPHAS), t.suggest_float("beta", *BETAS)) for t in asked]
            for trial, found in zip(asked, pool.map(_Worker.tried, choices), strict=True):
                study.tell(trial, found.cost)
                with step():
                    tried.append(found)
        first = steadiest(tried)
        widths = list(pool.map(_Worker.at_width, [(first.alpha, first.beta, width) for width in WIDTHS]))
    best = next(trial for trial in widths if trial.cost <= first.cost)
    settings = LmSettings(alpha=round(best.alpha, 3), beta=round(best.beta, 3), beam_width=best.beam_width)
    plain = BeamDecoder(heard.alphabet, BeamConfig(beam_width=best.beam_width))
    greedy = heard.errors(GreedyDecoder(heard.alphabet))
    return Tuned(settings, best, tried, widths, greedy, heard.errors(plain), heard.metric)


def steadiest(trials: Sequence[Trial]) -> Trial:
    """The trial with the least mean cost of its neighbourhood, in which both weights' ranges are of one length."""
    count = max(1, int(NEIGHBOURHOOD * len(trials)))
    at = np.array([[t.alpha, t.beta] for t in trials]) / [np.ptp(ALPHAS), np.ptp(BETAS)]
    costs = np.array([trial.cost for trial in trials])

    def mean_cost(here: npt.NDArray[np.float64]) -> float:
        return float(costs[np.argsort(np.linalg.norm(at - here, axis=1))[:count]].mean())

    return trials[int(np.argmin([mean_cost(here) for here in at]))]  # all distances at once would be gigabytes


class _Worker:
    """What each process keeps: the frames, and a decoder with the language model loaded once."""

    heard: Heard
    decoder: BeamDecoder

    @classmethod
    def begin(cls, heard: Heard, lm: Path) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it at once and silently
        cls.heard, cls.decoder = heard, BeamDecoder(heard.alphabet, BeamConfig(lm=lm))

    @classmethod
    def tried(cls, choice: tuple[float, float]) -> Trial:
        return cls.at_width((*choice, SEARCH_WIDTH))

    @classmethod
    def at_width(cls, choice: tuple[float, float, int]) -> Trial:
        errors = cls.heard.errors(cls.decoder.weighing(*choice))
        return Trial(*choice, errors, cls.heard.cost(errors))


def plot(tuned: Tuned, path: Path) -> None:
    """The surface of the error rate over alpha and beta, with every trial and the best one marked."""
    require("matplotlib").use("Agg")
    plt = require("matplotlib.pyplot")
    alphas, betas, rates = zip(*((t.alpha, t.beta, 100 * tuned.rate(t.errors)) for t in tuned.trials), strict=True)
    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    if len(tuned.trials) >= 4 and len(set(rates)) > 1:
        levels = np.linspace(min(rates), np.quantile(rates, 0.9) + 1e-3, 12)
        surface = axes.tricontourf(alphas, betas, rates, levels=levels, cmap="viridis_r", extend="max")
        figure.colorbar(surface, label=f"{tuned.metric} in %", format="%.1f")
    axes.plot(alphas, betas, ".", color="white", markeredgecolor="black", markersize=6)
    axes.plot(tuned.best.alpha, tuned.best.beta, "*", color="red", markersize=16)
    axes.set(
        xlabel="alpha: weight of the language model",
        ylabel="beta: bonus of a word",
        title=f"best {tuned.rate(tuned.best.errors):.2%}, greedy {tuned.rate(tuned.greedy):.2%}, "
        f"{len(tuned.trials)} trials",
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
