"""Fixtures that several test files share."""

import errno
import io
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

# Before torch is imported: tiny steps split over busy cores take a hundred times as long.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ds2_deploy.cli import main
from ds2_deploy.manifest import read_manifest
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.text.alphabet import ENGLISH
from tests.tones import recipe, write_corpus


@pytest.fixture(autouse=True)
def single_threaded() -> None:
    """Undo what a test before asked of PyTorch: a second thread on a busy core slows it a hundredfold."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ds2_data() -> Path:
    """Folder of the shared recordings, from the environment variable DS2_DATA."""
    folder = os.environ.get("DS2_DATA")
    if not folder:
        pytest.skip("DS2_DATA is not set: this test needs real recordings")
    return Path(folder)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a corpus of tones."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def reading(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that has learnt to read the tones: seconds, so all processes of a test run share it."""
    import fcntl

    from training.trainer import train

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with (shared / "reading.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes later waits for what the first one learns
        if not (shared / "reading").exists():
            settings = tmp_path_factory.mktemp("recipe")
            train(recipe(settings, epochs=30), [corpus], [corpus], settings / "reading")
            (settings / "reading").rename(shared / "reading")
    return shared / "reading"


SAMPLE_RATE = 16000
WINDOW, HOP = 320, 160  # samples, as in the default features
LABELS = ENGLISH.labels

# The interface of an exported model in front of one strided convolution, simple enough to be computed by hand.
GRAPH = """
<ir_version: 10, opset_import: ["": 22]>
ds2 (float[B, S] audio, int64[B] audio_lengths) => (float[B, T, 29] log_probs, int64[B] lengths)
<int64[1] axis1 = {1}, int64 zero = {0}, int64 window = {320}, int64 hop = {160}>
{
  channel = Unsqueeze(audio, axis1)
  scores = Conv<strides = [160]>(channel, weight)
  rows = Transpose<perm = [0, 2, 1]>(scores)
  log_probs = LogSoftmax<axis = -1>(rows)
  missing = Sub(audio_lengths, window)
  whole = Add(missing, hop)
  frames = Div(whole, hop)
  lengths = Max(frames, zero)
}
"""


class ConvModel:
    """A model folder with that graph, and the text it must give, computed by NumPy alone."""

    def __init__(self, path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        self.path = path
        self.weight = np.random.default_rng(5).standard_normal((len(LABELS), WINDOW)).astype(np.float32)
        graph = onnx.parser.parse_model(GRAPH)
        graph.graph.initializer.append(onnx.numpy_helper.from_array(self.weight[:, None], "weight"))
        path.mkdir()
        onnx.save(graph, path / "model.onnx")
        point = ConvLayer(channels=1, kernel=(1, 1))
        self.metadata = ModelMetadata(name="conv", model=ModelConfig(conv=(point,), rnn_layers=1, rnn_size=1))
        (path / "metadata.json").write_text(self.metadata.to_json())

    def text(self, samples: npt.NDArray[np.float32]) -> str:
        if len(samples) < WINDOW:
            return ""
        frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]  # (T, 320)
        best = (frames.astype(np.float64) @ self.weight.T).argmax(axis=1)
        return " ".join("".join(LABELS[i] for i, _ in itertools.groupby(best) if i != 0).split())


@pytest.fixture(scope="session")
def conv_model(tmp_path_factory: pytest.TempPathFactory) -> ConvModel:
    pytest.importorskip("onnxruntime")
    return ConvModel(tmp_path_factory.mktemp("models") / "conv")


SAMPLES = Path(__file__).parent.parent / "samples"


def said_in_samples() -> dict[str, str]:
    """The text of each recording in SAMPLES, by its file's name."""
    return {Path(utterance.path).name: utterance.text for utterance in read_manifest(SAMPLES / "samples.jsonl")}


def read_only(**_: object) -> NoReturn:
    """For `tempfile.TemporaryFile`, by which commands ask whether they may write: a superuser's tests may anywhere."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def noise(samples: int, *, seed: int = 0, channels: int | None = None) -> npt.NDArray[np.float32]:
    """Reproducible samples well inside [-1, 1], on the grid of 16-bit integers."""
    shape = samples if channels is None else (samples, channels)
    values = 0.1 * np.random.default_rng(seed).standard_normal(shape)
    return (np.clip(np.round(values * 2**15), -(2**15), 2**15 - 1) / 2**15).astype(np.float32)


@pytest.fixture
def write_wav(tmp_path: Path) -> Callable[..., tuple[Path, npt.NDArray[np.float32]]]:
    """`write_wav(name, samples, seed=...)` writes noise as 16-bit WAV and returns the path and the samples."""

    def write(name: str, samples: int, *, seed: int = 0) -> tuple[Path, npt.NDArray[np.float32]]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = noise(samples, seed=seed)
        soundfile.write(path, values, SAMPLE_RATE, subtype="PCM_16")
        return path, values

    return write


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Ds2 = Callable[..., Outcome]


@pytest.fixture
def ds2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ds2:
    """Run the command in this process."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ds2", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Outcome(int(end.value.code or 0), captured.out, captured.err)

    return run
