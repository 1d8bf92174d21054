"""StreamingDeepSpeech2: chunk by chunk it is the network that hears the whole recording, frame for frame."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.errors import ModelError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.config import Cell, ConvLayer, ModelConfig
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.streaming import StreamingDeepSpeech2
from ds2_deploy.runtime.streamed import Streamed
from ds2_deploy.runtime.torch_backend import TorchBackend, TorchStreamBackend
from tests.conftest import noise
from tests.tiny import CONV_1D, CONV_2D, tiny_metadata, tiny_model

FEATURES = {
    "centred": FeatureConfig(
        spectrum="log_mel", mel_bands=40, fft_size=512, center=True, normalization="global", window="hamming"
    ),
    "running": FeatureConfig(
        spectrum="log_mel", mel_bands=20, fft_size=512, center=True, normalization="running", running_s=0.3, prior_s=0.1
    ),
    "8 kHz": FeatureConfig(sample_rate=8000, spectrum="log_mel", mel_bands=20, normalization="none"),
    "windows of two and a half hops": FeatureConfig(window_ms=25, normalization="none"),
    "windows shorter than a hop": FeatureConfig(window_ms=5, normalization="none"),
}
TAILS = {
    "centred, tail": FeatureConfig(
        spectrum="log_mel", mel_bands=20, fft_size=512, center=True, normalization="global", tail_ms=250.0
    ),
    "running, tail": FeatureConfig(
        spectrum="log_mel", mel_bands=20, fft_size=512, normalization="running", running_s=0.3, tail_ms=70.0
    ),
    "8 kHz, long tail": FeatureConfig(
        sample_rate=8000, spectrum="log_mel", mel_bands=20, normalization="none", tail_ms=900.0
    ),
}
HEARD = FEATURES | TAILS
CONVOLUTIONS: dict[str, tuple[int, tuple[ConvLayer, ...]]] = {
    "2d, even kernels": (2, CONV_2D),
    "1d, stride 3": (1, CONV_1D),
    "none": (2, ()),
    "residual": (2, (ConvLayer(channels=2, kernel=(3, 3), residual=True),)),
    "strides longer than kernels": (
        2,
        (
            ConvLayer(channels=3, kernel=(3, 3), stride=(2, 2)),
            ConvLayer(channels=2, kernel=(3, 1), stride=(2, 3)),
            ConvLayer(channels=2, kernel=(1, 2), stride=(1, 3)),
        ),
    ),
}
# Every triple of cell, features and convolutions; every lookahead with each feature and each cell.
TRIPLES = itertools.product(("rnn", "rnn_relu", "gru", "lstm"), FEATURES, CONVOLUTIONS)
CASES = [(*triple, lookahead) for triple, lookahead in zip(TRIPLES, itertools.cycle((0, 4, 1, 7, 2)), strict=False)]


def network(cell: str, feature: str, conv: str, lookahead: int) -> DeepSpeech2:
    dims, layers = CONVOLUTIONS[conv]
    config = {
        "cell": cell, "conv_dims": dims, "conv": layers, "lookahead": lookahead, "bidirectional": False,
        "rnn_layers": 2, "rnn_size": 9, "fc_layers": 1, "fc_size": 7, "relu_clip": 0.7,
        "recurrent_norm": "step" if lookahead in (1, 4) else "vertical",
    }  # fmt: skip
    return tiny_model(tiny_metadata(msgspec.convert(msgspec.to_builtins(config), ModelConfig), HEARD[feature]))


def windowed(cell: Cell, feature: str, conv: str, window: int, context: int) -> DeepSpeech2:
    """Both directions by windows."""
    dims, layers = CONVOLUTIONS[conv]
    config = {
        "cell": cell, "conv_dims": dims, "conv": layers, "window": window, "window_context": context,
        "rnn_layers": {1: 1, 2: 3}.get(window, 2), "rnn_size": 9, "fc_layers": 1, "fc_size": 7, "relu_clip": 0.7,
        "directions": "concat" if window > 2 else "sum", "shared_input_weights": window == 4,
    }  # fmt: skip
    return tiny_model(tiny_metadata(msgspec.convert(msgspec.to_builtins(config), ModelConfig), HEARD[feature]))


def awkward_lengths(metadata: ModelMetadata, chunk: int) -> list[int]:
    least = metadata.min_samples
    return [0, 1, least - 1, least, least + 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 5 * chunk + 17, 9001]


def whole(model: DeepSpeech2, recording: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The frames (T, V) of a recording heard alone and at once."""
    log_probs, lengths = TorchBackend.of(model).run(recording[None], np.array([len(recording)]))
    return log_probs[0, : lengths[0]]


@pytest.mark.parametrize(("cell", "feature", "conv", "lookahead"), CASES)
def test_chunks_give_the_frames_of_the_whole(cell: str, feature: str, conv: str, lookahead: int) -> None:
    model = network(cell, feature, conv, lookahead)
    for units in (1, 4):
        backend = TorchStreamBackend.of(model, units * model.metadata.stream_unit_samples)
        recordings = [noise(n, seed=n) for n in awkward_lengths(model.metadata, backend.chunk_samples)]
        check_side_by_side(model, backend, recordings)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "windows"])
def test_hidden_states_lie_as_cudnn_wants_them(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors take columns of a larger array, too; GPUs do not, and of one row nobody can tell."""
    model = windowed("gru", "running", "none", 2, 3) if cell == "windows" else network(cell, "running", "none", 2)
    backend = TorchStreamBackend.of(model, 2 * model.metadata.stream_unit_samples)
    calls = []

    def spy(run: Callable[..., Any], x: Tensor, hx: Tensor | tuple[Tensor, ...], *rest: Any) -> Any:
        calls.append(all(state.is_contiguous() for state in (hx if isinstance(hx, tuple) else (hx,))))
        return run(x, hx, *rest)

    for name in ("rnn_tanh", "gru", "lstm"):
        monkeypatch.setattr(torch.nn.modules.rnn._VF, name, partial(spy, getattr(torch.nn.modules.rnn._VF, name)))
    audio = np.stack([noise(backend.chunk_samples, seed=n) for n in range(3)])
    backend.step(audio, np.full(3, backend.chunk_samples), backend.initial_state(3))
    assert len(calls) >= 2
    assert all(calls)


@pytest.mark.parametrize(
    ("cell", "window", "context"), [("gru", 2, 3), ("rnn", 3, 1), ("rnn_relu", 1, 4), ("gru", 4, 9)]
)
@pytest.mark.parametrize("conv", CONVOLUTIONS)
@pytest.mark.parametrize("feature", FEATURES)
def test_windows_give_the_frames_of_the_whole(feature: str, conv: str, cell: Cell, window: int, context: int) -> None:
    model = windowed(cell, feature, conv, window, context)
    for units in (1, 2):
        backend = TorchStreamBackend.of(model, units * model.metadata.stream_unit_samples)
        recordings = [noise(n, seed=n) for n in awkward_lengths(model.metadata, backend.chunk_samples)]
        check_side_by_side(model, backend, recordings)


@pytest.fixture
def doubles() -> Iterator[None]:
    """float64 for everything: of float32's rounding clipped Elman cells make 3e-3 in 0.9 s of zeros."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("cell", ["rnn", "rnn_relu", "gru", "lstm", "gru by windows", "rnn_relu by windows"])
@pytest.mark.parametrize("conv", CONVOLUTIONS)
@pytest.mark.parametrize("feature", TAILS)
def test_a_tail_comes_when_a_stream_has_ended(feature: str, conv: str, cell: str) -> None:
    name, _, by_windows = cell.partition(" ")
    model = windowed(cast(Cell, name), feature, conv, 2, 3) if by_windows else network(cell, feature, conv, 2)
    model = model.double()  # the front end's constants, too
    chunk = 3 * model.metadata.stream_unit_samples
    for samples in (0, 1, 150, chunk - 1, chunk, 2 * chunk + 17):
        recording = torch.from_numpy(noise(samples, seed=samples)).double()
        frames = model.metadata.output_frames(samples)
        got = step_by_step(model, chunk, recording, flushed=frames * model.metadata.stream_unit_samples)
        assert len(got) == frames
        if frames:
            expected, _ = model(recording[None], torch.tensor([samples]))
            torch.testing.assert_close(got, expected[0, :frames], rtol=0, atol=1e-9)


@torch.no_grad()
def step_by_step(model: DeepSpeech2, chunk: int, recording: Tensor, flushed: int) -> Tensor:
    """The frames (T, V) of a recording (S,) by chunks, and by as many samples' worth of empty ones after it."""
    streaming, found = StreamingDeepSpeech2(model, chunk), []
    state = torch.zeros(1, streaming.state_size)
    for start in range(0, len(recording) + flushed + 20 * chunk, chunk):
        piece = recording[start : start + chunk]
        row = torch.nn.functional.pad(piece, (0, chunk - len(piece)))[None]
        log_probs, lengths, state = streaming(row, torch.tensor([len(piece)]), state)
        found.append(log_probs[0, : int(lengths[0])])
    return torch.cat(found)


def check_side_by_side(
    model: DeepSpeech2, backend: TorchStreamBackend, recordings: Sequence[npt.NDArray[np.float32]]
) -> None:
    lengths = np.array([len(r) for r in recordings])
    audio = np.full((len(recordings), lengths.max()), 9.0, dtype=np.float32)  # nobody may look beyond the end
    for row, recording in zip(audio, recordings, strict=True):
        row[: len(recording)] = recording
    log_probs, frames = Streamed(backend, model.metadata).run(audio, lengths)
    for recording, row, count in zip(recordings, log_probs, frames, strict=True):
        expected = whole(model, recording)
        assert count == len(expected) == model.metadata.output_frames(len(recording))
        np.testing.assert_allclose(row[:count], expected, atol=1e-4)  # the promise of docs/streaming.md


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_streams_come_and_go_within_a_batch(cell: str) -> None:
    """At every step a random choice of streams in random order, each at its own place, with rows of no stream."""
    model = network(cell, "centred", "2d, even kernels", 4)
    backend = TorchStreamBackend.of(model, 2 * model.metadata.stream_unit_samples)
    rng, chunk = np.random.default_rng(1), backend.chunk_samples
    recordings = [noise(int(n), seed=int(n)) for n in rng.integers(1, 12_000, 9)]
    states = backend.initial_state(len(recordings))
    places, frames = [0] * len(recordings), [[np.zeros((0, 29), np.float32)] for _ in recordings]
    missing = {i: len(whole(model, recording)) for i, recording in enumerate(recordings)}
    while missing:
        chosen = rng.permutation(list(missing))[: rng.integers(1, len(missing) + 1)].tolist()
        rows = [*chosen, None]  # the last row is a stream that has heard nothing
        audio = np.full((len(rows), chunk), 9.0, dtype=np.float32)
        lengths = np.zeros(len(rows), dtype=np.int64)
        for row, i in enumerate(chosen):
            piece = recordings[i][places[i] : places[i] + chunk]
            audio[row, : len(piece)], lengths[row] = piece, len(piece)
        step = backend.step(audio, lengths, np.concatenate([states[chosen], backend.initial_state(1)]))
        assert step.lengths[-1] == 0
        assert not step.state[-1].any()
        states[chosen] = step.state[:-1]
        for row, i in enumerate(chosen):
            places[i] += chunk
            frames[i].append(step.log_probs[row, : step.lengths[row]])
            missing[i] -= int(step.lengths[row])
            if missing[i] == 0:
                del missing[i]
    for recording, parts in zip(recordings, frames, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), whole(model, recording), atol=1e-4)


def test_nothing_comes_after_the_end_and_the_clock_stands_still() -> None:
    model = network("gru", "centred", "2d, even kernels", 4)
    backend = TorchStreamBackend.of(model, model.metadata.stream_unit_samples)
    chunk, state = backend.chunk_samples, backend.initial_state(1)
    silence = np.zeros((1, chunk), dtype=np.float32)
    for _ in range(200):
        state = backend.step(silence, np.array([chunk]), state).state
    late = backend.step(silence, np.array([chunk]), state).state
    np.testing.assert_array_equal(late[:, :2], state[:, :2])  # so float32 counts it exactly, however long it runs
    given = []
    for _ in range(200):
        step = backend.step(silence, np.array([0]), state)
        state = step.state
        given.append(int(step.lengths[0]))
    assert sum(given) == model.metadata.output_frames(200 * chunk) - (200 - lag_frames(model))
    assert not any(given[20:])


def lag_frames(model: DeepSpeech2) -> int:
    """Frames that the layers hold back of a stream that has not ended."""
    return StreamingDeepSpeech2(model, model.metadata.stream_unit_samples).slides[-1].lag


@pytest.mark.parametrize(
    "model", [network("gru", "8 kHz", "2d, even kernels", 4), windowed("gru", "8 kHz", "2d, even kernels", 2, 3)]
)
def test_the_lag_is_the_delay(model: DeepSpeech2) -> None:
    """A frame comes with the chunk that holds the last sample it depends on, and not with the one before."""
    metadata = model.metadata
    backend = TorchStreamBackend.of(model, metadata.stream_unit_samples)
    state, chunk, chunks = backend.initial_state(1), backend.chunk_samples, 0
    while True:
        step = backend.step(noise(chunk)[None], np.array([chunk]), state)
        state, chunks = step.state, chunks + 1
        if step.lengths[0]:
            break
    assert metadata.delay_s is not None
    middle = metadata.feature.window_samples / 2  # of the first frame's window
    needed = middle + metadata.delay_s * metadata.feature.sample_rate
    assert (chunks - 1) * chunk < needed <= chunks * chunk


@pytest.mark.parametrize(
    ("model", "feature", "words"),
    [
        (ModelConfig(bidirectional=True), FeatureConfig(normalization="none"), "bidirectional"),
        (ModelConfig(bidirectional=False), FeatureConfig(), "normalization is 'utterance'"),
    ],
)
def test_what_cannot_stream_says_why(model: ModelConfig, feature: FeatureConfig, words: str) -> None:
    tiny = msgspec.structs.replace(model, rnn_size=4, rnn_layers=1)
    with pytest.raises(ModelError, match=words):
        StreamingDeepSpeech2(DeepSpeech2(tiny_metadata(tiny, feature)), 1600)


@pytest.mark.parametrize("chunk", [0, -320, 100, 321])
def test_a_chunk_of_no_whole_frames(chunk: int) -> None:
    with pytest.raises(ModelError, match="multiple of 320"):
        StreamingDeepSpeech2(network("gru", "centred", "2d, even kernels", 0), chunk)


def test_a_chunk_of_no_whole_windows() -> None:
    with pytest.raises(ModelError, match="multiple of 960, which is one output window"):
        StreamingDeepSpeech2(windowed("gru", "centred", "2d, even kernels", 3, 2), 320)


def test_the_network_it_is_made_of_stays_as_it_was() -> None:
    model = network("lstm", "centred", "2d, even kernels", 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    StreamingDeepSpeech2(model, 320)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
