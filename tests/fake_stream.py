"""A streaming model simple enough to compute by hand: each 20 ms of audio add to a running label.

Frame t covers samples 320 t to 320 t + 319; their mean times SCALE, rounded, is how far the label moves on in the
alphabet, modulo its length. So a chunk that is lost, doubled or given to another stream spoils everything after it.
Frames come out LAG frames late, and the rest at the end, by rows of no samples.
"""

import itertools
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.errors import InferenceError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.runtime.protocol import Step
from ds2_deploy.streaming.endpoint import EndpointConfig
from ds2_deploy.streaming.stepping import OwnThread
from ds2_deploy.streaming.stream import Stream, StreamResult
from ds2_deploy.text.alphabet import ENGLISH

Samples = npt.NDArray[np.float32]

UNIT, CHUNK, LAG = 320, 1600, 7  # samples of a frame and of a step; frames, more than a step gives
SCALE = 1024  # labels per full scale
LABELS = len(ENGLISH)
METADATA = ModelMetadata(
    name="fake",
    feature=FeatureConfig(window_ms=10.0, hop_ms=10.0, normalization="none"),
    model=ModelConfig(conv_dims=1, conv=(ConvLayer(channels=1, kernel=(1, 2), stride=(1, 2)),), rnn_layers=1,
                      rnn_size=1, bidirectional=False),
)  # fmt: skip


# --- the truth for whole recordings ------------------------------------------------------------------------------


def labels_of(samples: Samples) -> npt.NDArray[np.int64]:
    """(T,) the label of every frame."""
    whole = samples[: len(samples) // UNIT * UNIT].reshape(-1, UNIT)
    moves = np.round(whole.sum(axis=1, dtype=np.float64) * SCALE / UNIT).astype(np.int64)  # (T,)
    labels: npt.NDArray[np.int64] = moves.cumsum() % LABELS
    return labels


def emissions_of(samples: Samples) -> Samples:
    """(T, V) of the whole recording."""
    labels = labels_of(samples)
    return log_probs_of(labels, 0)


def text_of(samples: Samples) -> str:
    """Best path by its definition."""
    letters = [ENGLISH.labels[label] for label, _ in itertools.groupby(labels_of(samples)) if label != ENGLISH.blank]
    return " ".join("".join(letters).split())


def log_probs_of(labels: npt.NDArray[np.int64], begin: int) -> Samples:
    """(t, V); how sure the model is depends on the place, so that the score shows a frame out of place."""
    frames = begin + np.arange(len(labels))
    logits = np.zeros((len(labels), LABELS))
    logits[np.arange(len(labels)), labels] = 3 + frames % 5
    log_probs: Samples = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    return log_probs


def audio_of(path: str) -> Samples:
    """Samples whose frames have the labels of `path`, a character each; _ is the blank."""
    labels = [ENGLISH.blank if character == "_" else ENGLISH.labels.index(character) for character in path]
    moves = np.diff(labels, prepend=0) % LABELS
    return np.repeat((moves / SCALE).astype(np.float32), UNIT)


def babble(samples: int, *, seed: int = 0) -> Samples:
    """Noise loud enough that every frame has another label, on the grid of 16-bit integers."""
    values = np.random.default_rng(seed).integers(-(2**15), 2**15, samples) / 2**15
    return values.astype(np.float32)


# --- the model ---------------------------------------------------------------------------------------------------


class FakeStreamBackend:
    """A row of state: the first sample ever heard, whether the end has come, frames given, the running label, how
    many labels wait, and those labels.
    """

    name, device, chunk_samples = "fake", "cpu", CHUNK
    poison = 2.5
    """A sample that makes a step fail."""

    def __init__(self, _model: object = None, *, lag: int = LAG, **_options: object) -> None:
        self.lag = lag
        self.rows: list[list[tuple[float, int]]] = []
        """Of every step, each row's first sample ever, by which tests know streams, and its length."""
        self.before_step: Callable[[], None] = lambda: None
        self.gate = threading.Event()
        """Steps wait until it is open."""
        self.gate.set()

    def initial_state(self, batch: int) -> Samples:
        return np.zeros((batch, 5 + self.lag + CHUNK // UNIT), dtype=np.float32)

    def step(self, audio: Samples, lengths: npt.NDArray[np.int64], state: Samples) -> Step:
        assert audio.shape == (len(lengths), CHUNK)
        assert audio.dtype == state.dtype == np.float32
        rows = [self._row(*row) for row in zip(audio, lengths.tolist(), state, strict=True)]
        self.rows.append([(float(after[0]), int(length)) for (_, after), length in zip(rows, lengths, strict=True)])
        assert self.gate.wait(10)
        self.before_step()
        if (audio == self.poison).any():
            raise InferenceError("The model does not like this.")
        log_probs = np.full((len(rows), CHUNK // UNIT, LABELS), 9.0, dtype=np.float32)  # impossible where not valid
        for target, (given, _) in zip(log_probs, rows, strict=True):
            target[: len(given)] = given
        return Step(log_probs, np.array([len(given) for given, _ in rows]), np.stack([after for _, after in rows]))

    def _row(self, audio: Samples, length: int, state: Samples) -> tuple[Samples, Samples]:
        mark, ended, given, last, waiting = state[:5].tolist()
        assert not (ended and length), "samples after the end of a recording"
        assert not audio[length:].any(), "something in the padding"
        if length and not (given or waiting or ended):
            mark = float(audio[0])
        before = np.full(UNIT, last / SCALE, dtype=np.float32)  # moves on to where the last chunk ended
        labels = labels_of(np.concatenate([before, audio[:length]]))[1:]
        queue = np.concatenate([state[5 : 5 + int(waiting)].astype(np.int64), labels])
        ended = ended or length < CHUNK
        ready = queue[: min(CHUNK // UNIT, len(queue) if ended else max(len(queue) - self.lag, 0))]
        rest = queue[len(ready) :]
        after = np.zeros_like(state)
        after[:5] = mark, ended, given + len(ready), labels[-1] if len(labels) else last, len(rest)
        after[5 : 5 + len(rest)] = rest
        return log_probs_of(ready, int(given)), after


def own_stream(
    backend: FakeStreamBackend | None = None,
    *,
    endpoint: EndpointConfig | None = None,
    on_result: Callable[[StreamResult], None] | None = None,
    decoder: GreedyDecoder | None = None,
) -> Stream:
    """A stream that runs in this thread."""
    stepper = OwnThread(backend or FakeStreamBackend())
    return Stream(stepper, METADATA, decoder or GreedyDecoder(ENGLISH), endpoint=endpoint, on_result=on_result)


def feed(stream: Stream, samples: Samples, size: int = CHUNK, rate: int = 16000) -> None:
    """All samples, `size` at a time."""
    for start in range(0, len(samples), size):
        stream.accept_waveform(samples[start : start + size], rate)


def heard_by(stream: Stream, samples: Samples, size: int = CHUNK, rate: int = 16000) -> StreamResult:
    """What becomes of a whole recording."""
    feed(stream, samples, size, rate)
    stream.input_finished()
    stream.wait(10)
    return stream.result
