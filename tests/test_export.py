"""The exported graph against PyTorch, in ONNX Runtime; what goes wrong leaves nothing behind."""

import errno
import json
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch

import export.exporter
from ds2_deploy.errors import InferenceError, ModelError, ModelNotFoundError, OutputError, ParityError
from ds2_deploy.metadata import ONNX_KEY, ModelMetadata
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint, load_model, save_weights
from ds2_deploy.model.fold import fold_batch_norm
from ds2_deploy.model_folder import ModelFolder, open_model
from ds2_deploy.runtime.ort_backend import OrtBackend
from ds2_deploy.runtime.protocol import pad_batch
from ds2_deploy.runtime.torch_backend import TorchBackend
from ds2_deploy.text.alphabet import Alphabet
from export.exporter import export_model
from export.parity import batches_of, compare, probe_recordings
from export.to_onnx import write_onnx
from tests.tiny import FEATURES, MODELS, tiny_metadata, tiny_model
from training.weights import load_into

# pairwise over cells, directions, convolutions, features and normalisation: an export takes seconds
COMBINATIONS = [
    ("gru, two directions, 2d", "log power, utterance"),
    ("lstm, lookahead, 1d, fc", "log mel, global, centred, tail"),
    ("rnn, two directions, 3 x 2d, fc", "log mel, none, 8 kHz"),
    ("rnn with clipped relu, concatenated, shared input weights, no conv", "mfcc with differences, each bin"),
    ("lstm, norm at every step, residual 1d", "amplitude, whitened, one level"),
    ("gru, two directions by windows, 2d", "log mel, running, tail"),
]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(model, folder, report) of each combination, exported once."""
    made = {}

    def make(names):
        if names not in made:
            root = tmp_path_factory.mktemp("export")
            model = tiny_model(tiny_metadata(MODELS[names[0]], FEATURES[names[1]]))
            save(model, root / "model.pt")
            made[names] = model, root / "model", export_model(root / "model.pt", root / "model")
        return made[names]

    return make


def save(model, path):
    Checkpoint(metadata=model.metadata, weights=model.state_dict()).save(path)


@pytest.mark.parametrize("names", COMBINATIONS, ids=lambda names: " + ".join(names))
def test_onnx_batches_equal_pytorch_utterances_alone(exported, names):
    model, folder, _ = exported(names)
    recordings = [r.samples for r in probe_recordings(model.metadata)]
    rng = np.random.default_rng(2)
    recordings += [0.1 * rng.standard_normal(n).astype(np.float32) for n in (1, 641, 5000, 12345)]
    ours = OrtBackend(open_model(folder), device="cpu", threads=1)
    together = ours.run(*pad_batch(recordings))
    reference = TorchBackend.of(model)
    for row, recording in enumerate(recordings):
        alone = reference.run(recording[None], np.array([len(recording)]))
        count = int(alone.lengths[0])
        assert together.lengths[row] == count == model.metadata.output_frames(len(recording))
        assert np.abs(alone.log_probs[0, :count] - together.log_probs[row, :count]).max(initial=0) < 1e-4


CUDA_KERNELS = {
    **dict.fromkeys(("GRU", "LSTM", "RNN"), ((7, 13), (14, None))),
    "Conv": ((1, 10), (11, None)),
    "Loop": ((1, 10), (11, 12), (13, 18), (19, None)),
    "MatMul": ((1, 8), (9, 12), (13, None)),
    "Pad": ((2, 10), (11, 12), (13, 17), (18, None)),
    "Scan": ((8, 8), (9, 10), (11, 15), (16, 18), (19, None)),
}
"""First and last version of the operators that work, as ONNX Runtime listed them until spring 2026
(docs/OperatorKernels.md there); a kernel without a last one serves its first alone (`VerifyVersion`)."""


@pytest.mark.parametrize("names", COMBINATIONS, ids=lambda names: " + ".join(names))
def test_operators_have_the_versions_of_cuda_kernels(exported, names):
    """Others run on the processor, however fast the GPU is; so do nodes that clip (`RNNNeedFallbackToCPU`)."""
    _, folder, _ = exported(names)
    for path in folder.glob("*.onnx"):
        assert operators_on_a_gpu(path) & {"GRU", "LSTM", "RNN"}
        clips = any(a.name == "clip" for node in onnx.load(path).graph.node for a in node.attribute)
        assert clips == ("clipped relu" in names[0]), "docs/engines.md says which cell to export as a loop"


def test_loops_have_them_too(tmp_path):
    model = tiny_model(tiny_metadata(MODELS["gru, two directions, 2d"], FEATURES["log mel, global, centred, tail"]))
    write_onnx(model, tmp_path / "loop.onnx", "fp32", "loop")
    assert {"Scan", "Conv"} <= operators_on_a_gpu(tmp_path / "loop.onnx")


def operators_on_a_gpu(path):
    """Those of CUDA_KERNELS in a graph, each of which must have one."""
    model = onnx.load(path)
    versions = {i.domain: i.version for i in model.opset_import}
    seen = operators_of(model.graph) & CUDA_KERNELS.keys()
    for operator in seen:
        version = onnx.defs.get_schema(operator, versions[""]).since_version
        served = [low if high is None else high for low, high in CUDA_KERNELS[operator] if low <= version]
        assert version <= served[-1], f"{operator} {version} in {path.name}"
    return seen


def operators_of(graph):
    """With those inside of loops."""
    bodies = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return {node.op_type for node in graph.node}.union(*map(operators_of, bodies))


@pytest.mark.parametrize("names", COMBINATIONS, ids=lambda names: " + ".join(names))
def test_half_precision_is_close_and_its_front_end_is_not_half(exported, names):
    _, folder, report = exported(names)
    half = next(d for d in report.differences if d.precision == "fp16")
    assert half.passed
    assert 0 < half.max_abs < 0.02  # zero would mean that nothing ran in half precision
    graph = onnx.load(folder / "model.fp16.onnx").graph
    types = {i.name: i.data_type for i in graph.initializer}
    convolutions = [types[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert convolutions[0] == onnx.TensorProto.FLOAT
    recurrent = [types[node.input[1]] for node in graph.node if node.op_type in ("RNN", "GRU", "LSTM")]
    assert set(convolutions[1:] + recurrent) == {onnx.TensorProto.FLOAT16}
    assert recurrent


def test_graph_interface_and_metadata(exported):
    model, folder, _ = exported(COMBINATIONS[0])
    graph = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    inputs = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.graph.input}
    assert inputs == {"audio": ["batch", "samples"], "audio_lengths": ["batch"]}
    assert [o.name for o in graph.graph.output] == ["log_probs", "lengths"]
    # lengths stay integers: float32 would count frames of recordings beyond 17 minutes wrong
    assert "Floor" not in {node.op_type for node in graph.graph.node}
    assert b".py" not in (folder / "model.onnx").read_bytes()  # no stack traces, no paths of this machine
    inside = {p.key: p.value for p in graph.metadata_props}[ONNX_KEY]
    assert ModelMetadata.from_json(inside, "model.onnx") == model.metadata == open_model(folder).metadata
    assert (folder / "tokens.txt").read_text().splitlines()[:4] == ["<blank>", "<space>", "'", "a"]
    assert json.loads((folder / "parity.json").read_text())["passed"] is True


def test_weights_in_the_folder_are_the_model(exported, tmp_path):
    model, folder, _ = exported(COMBINATIONS[1])
    restored = load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), restored.state_dict().values()))  # noqa: B905
    again = export_model(folder, tmp_path / "again", precision="fp32")
    assert again.passed
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == [
        "metadata.json", "model.onnx", "model.safetensors", "parity.json", "stream.onnx", "tokens.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_weights_heed_the_umask(tmp_path, mask, mode):
    model = tiny_model(tiny_metadata(MODELS["gru, forward only, no batch norm"]))
    before = os.umask(mask)
    try:
        save_weights(model, tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode


@torch.no_grad()
def test_folding_batch_norm_changes_nothing():
    model = tiny_model(tiny_metadata(MODELS["lstm, lookahead, 1d, fc"])).double()
    audio, lengths = 0.1 * torch.randn(2, 8000).double(), torch.tensor([8000, 3000])
    before, _ = model(audio, lengths)
    fold_batch_norm(model.encoder)
    assert not any("norm" in name for name, _ in model.encoder.named_modules() if name)
    after, _ = model(audio, lengths)
    assert (before - after).abs().max() < 1e-9


def test_probe_recordings_are_what_they_say():
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    probes = {r.name: r.samples for r in probe_recordings(metadata)}
    assert not probes["digital silence 1.3 s"].any()
    assert 0 < np.abs(probes["near silence 2 s"]).max() < 1e-3
    spectrum = np.abs(np.fft.rfft(probes["telephone band 3.1 s"])) ** 2
    frequency = np.fft.rfftfreq(len(probes["telephone band 3.1 s"]), 1 / 16000)
    assert spectrum[frequency > 4100].sum() < 1e-6 * spectrum.sum()
    assert metadata.output_frames(len(probes["shortest"])) == 1
    assert metadata.output_frames(len(probes["one sample less"])) == 0
    batches = batches_of(probe_recordings(metadata))
    assert sum(map(len, batches)) == len(probes)
    assert len({len(batch) for batch in batches}) == 3


def test_parity_finds_a_wrong_graph(exported):
    model, folder, _ = exported(COMBINATIONS[0])
    other = tiny_model(model.metadata, seed=1)
    backend = OrtBackend(open_model(folder), device="cpu")
    report = compare(TorchBackend.of(other), [(backend, "fp32")], probe_recordings(model.metadata))
    assert not report.passed
    assert report.differences[0].max_abs > 0.1


class OffByMore(OrtBackend):
    """A runtime that is off by more than allowed."""

    def run(self, audio, lengths):
        emissions = super().run(audio, lengths)
        emissions.log_probs[..., 3] += 0.2
        return emissions


def test_failed_check_leaves_no_folder(tmp_path, monkeypatch):
    save(tiny_model(tiny_metadata(MODELS["gru, forward only, no batch norm"])), tmp_path / "model.pt")
    monkeypatch.setattr(export.exporter, "OrtBackend", OffByMore)
    with pytest.raises(ParityError, match=r"fp32 differs by up to 0\.2"):
        export_model(tmp_path / "model.pt", tmp_path / "model", precision="fp32")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    report = export_model(tmp_path / "model.pt", tmp_path / "model", precision="fp32", allow_mismatch=True)
    assert not report.passed
    assert json.loads((tmp_path / "model/parity.json").read_text())["passed"] is False


def test_a_graph_that_does_not_run_leaves_no_folder(tmp_path, monkeypatch):
    class Fails(OrtBackend):
        def run(self, audio, lengths):
            raise InferenceError("ONNX Runtime failed.")

    save(tiny_model(tiny_metadata(MODELS["gru, forward only, no batch norm"])), tmp_path / "model.pt")
    monkeypatch.setattr(export.exporter, "OrtBackend", Fails)
    with pytest.raises(ParityError, match=r"does not run, so .*model was not written: ONNX Runtime failed"):
        export_model(tmp_path / "model.pt", tmp_path / "model", precision="fp32", allow_mismatch=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_full_disk_while_exporting_keeps_the_old_folder(exported, tmp_path, monkeypatch):
    _, folder, _ = exported(COMBINATIONS[0])
    export_model(folder, tmp_path / "model", precision="fp32")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export.exporter, "write_onnx", full)
    with pytest.raises(OutputError, match="No space left on device"):
        export_model(folder, tmp_path / "model", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_overwriting_keeps_the_card_and_drops_what_is_of_the_old_graph(exported, tmp_path):
    _, folder, _ = exported(COMBINATIONS[0])
    export_model(folder, tmp_path / "model", precision="fp32")
    (tmp_path / "model/README.md").write_text("card")
    for name in ("bench.json", "bench.md"):
        (tmp_path / "model" / name).write_text("{}")
    for name in ("lm/lm.arpa", "engines/x.engine"):
        (tmp_path / "model" / name).parent.mkdir()
        (tmp_path / "model" / name).write_text(name)
    export_model(folder, tmp_path / "model", precision="fp32", overwrite=True)
    assert (tmp_path / "model/README.md").read_text() == "card"
    assert (tmp_path / "model/lm/lm.arpa").read_text() == "lm/lm.arpa"
    assert not (tmp_path / "model/engines").exists()
    assert not list((tmp_path / "model").glob("bench.*"))


def test_a_bundled_model_is_exported_by_its_name_with_its_language_model(exported, tmp_path, monkeypatch):
    _, folder, _ = exported(COMBINATIONS[0])
    shutil.copytree(folder, tmp_path / "bundled/small")
    (tmp_path / "bundled/small/lm").mkdir()
    (tmp_path / "bundled/small/lm/lm.arpa").write_text("its own")
    monkeypatch.setattr("ds2_deploy.model_folder.BUNDLED", tmp_path / "bundled")
    export_model(Path("small"), tmp_path / "model", precision="fp32")
    assert (tmp_path / "model/lm/lm.arpa").read_text() == "its own"
    (tmp_path / "model/lm/lm.arpa").write_text("another")
    export_model(Path("small"), tmp_path / "model", precision="fp32", overwrite=True)
    assert (tmp_path / "model/lm/lm.arpa").read_text() == "another"
    (tmp_path / "bundled/small/lm/lm.arpa").unlink()
    (tmp_path / "bundled/small/lm/lm.arpa").symlink_to("gone")
    with pytest.raises(OutputError, match=r"^Cannot copy .*bundled/small/lm/lm\.arpa: No such file or directory\.$"):
        export_model(Path("small"), tmp_path / "other", precision="fp32")
    with pytest.raises(ModelNotFoundError, match="There is no model 'large'"):
        export_model(Path("large"), tmp_path / "other")
    with pytest.raises(ModelNotFoundError, match=r"There is no checkpoint large\.pt"):
        export_model(Path("large.pt"), tmp_path / "other")


def test_other_windows_than_it_was_trained_with(ds2, tmp_path):
    """A window of a whole recording is the network without windows."""
    whole = tiny_model(tiny_metadata(MODELS["gru, two directions, 2d"], FEATURES["log mel, global, centred, tail"]))
    save(whole, tmp_path / "x.pt")
    audio, lengths = pad_batch([0.1 * np.random.default_rng(4).standard_normal(12000).astype(np.float32)])
    expected = TorchBackend.of(whole).run(audio, lengths)
    assert 40 < expected.lengths[0] <= 50
    for name, window, context in (("one", 50, 1), ("many", 2, 3)):
        windows = ("--window", window, "--window-context", context)
        made = ds2("export", tmp_path / "x.pt", "--out", tmp_path / name, "--precision", "fp32", *windows)
        assert made.code == 0, made.err
        assert (tmp_path / name / "stream.onnx").exists()
        got = OrtBackend(open_model(tmp_path / name), device="cpu").run(audio, lengths)
        assert (np.abs(got.log_probs - expected.log_probs).max() < 1e-4) == (name == "one")
    made = msgspec.structs.replace(whole.metadata.provenance, recipe="an4", valid_wer=0.05, valid_cer=0.02)
    metadata = msgspec.structs.replace(open_model(tmp_path / "many").metadata, provenance=made)
    later = metadata.with_windows(None, 7, "many")
    assert later.delay.lookahead_s == pytest.approx((2 - 1 + 7) * 0.02)
    assert (later.provenance.valid_wer, later.provenance.valid_cer) == (None, None)  # nobody has measured it
    assert later.provenance.recipe == "an4, heard by windows of 2 + 7"
    assert later.with_windows(5, None, "later").provenance.recipe == "an4, heard by windows of 5 + 7"
    assert metadata.with_windows(2, 3, "many") == metadata


@pytest.mark.parametrize(
    ("network", "features", "window", "reason"),
    [
        ("gru, forward only, no batch norm", "log mel, none, 8 kHz", 2, "a unidirectional model has no backward dir"),
        ("gru, two directions, 2d", "log mel, none, 8 kHz", None, "model.window says after how many"),
        ("gru, two directions, 2d", "log power, utterance", 2, "stream: feature.normalization is 'utterance'"),
    ],
)
def test_windows_that_a_model_cannot_have(tmp_path, network, features, window, reason):
    save(tiny_model(tiny_metadata(MODELS[network], FEATURES[features])), tmp_path / "x.pt")
    with pytest.raises(ModelError, match=rf"x\.pt cannot .*{reason}"):
        export_model(tmp_path / "x.pt", tmp_path / "model", window=window, window_context=3)
    assert not (tmp_path / "model").exists()


def test_a_folder_with_another_kind_of_metadata_is_not_a_model(exported, tmp_path):
    _, folder, _ = exported(COMBINATIONS[0])
    (tmp_path / "metadata.json").write_text('{"my": "data set"}')
    with pytest.raises(ModelError, match="not the metadata of a ds2 model"):
        export_model(folder, tmp_path, overwrite=True)


@pytest.mark.parametrize("metadata", ['{"format_version": 1', '{"format_version": 2}', '{"format_version": 1, "x": 1}'])
@pytest.mark.parametrize("left", ["model.safetensors", "stream.fp16.onnx"])
def test_a_model_whose_metadata_cannot_be_read_is_exported_again(exported, tmp_path, metadata, left):
    """For that is what the messages about it ask for."""
    _, folder, _ = exported(COMBINATIONS[2])
    (tmp_path / left).write_text("cut off")
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "metadata.json").write_text(metadata)
    with pytest.raises(ModelError, match=r"export the model again|does not describe a model"):
        open_model(tmp_path)
    export_model(folder, tmp_path, precision="fp32", overwrite=True)
    assert open_model(tmp_path).metadata == open_model(folder).metadata
    assert (tmp_path / "README.md").read_text() == "card"
    assert not (tmp_path / "stream.fp16.onnx").exists()


def test_what_stands_there_is_never_replaced_unasked(exported, tmp_path):
    _, folder, _ = exported(COMBINATIONS[0])
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds no metadata\.json"):
            export_model(folder, tmp_path, overwrite=overwrite)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="--overwrite"):
        export_model(folder, folder)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_not_a_checkpoint(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.pt is not a ds2 checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


def test_other_torch_files_are_not_checkpoints(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="not a ds2 checkpoint"):
        load_checkpoint(tmp_path / "x.pt")
    with pytest.raises(ModelNotFoundError):
        load_checkpoint(tmp_path / "missing.pt")


@pytest.mark.parametrize(
    "changes",
    [{"ds2": 5}, {"weights": {3: torch.zeros(1)}}, {"weights": {"encoder.output.bias": 5}}, {"weights": 5}],
)
def test_a_checkpoint_holds_metadata_and_tensors_by_name(tmp_path, changes):
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    torch.save({"ds2": metadata.to_json(), "weights": {}, "training": {}} | changes, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=r"x\.pt is not a ds2 checkpoint, or it is damaged"):
        load_checkpoint(tmp_path / "x.pt")


class _Bomb:
    def __reduce__(self):
        return eval, ("globals().__setitem__('exploded', True)",)


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"ds2": _Bomb(), "weights": {}, "training": {}}, tmp_path / "x.pt")
    with pytest.raises(ModelError):
        load_checkpoint(tmp_path / "x.pt")
    assert "exploded" not in globals()


def test_weights_of_another_model(tmp_path):
    one = tiny_model(tiny_metadata(MODELS["gru, two directions, 2d"]))
    other = tiny_metadata(MODELS["lstm, lookahead, 1d, fc"])
    Checkpoint(metadata=other, weights=one.state_dict()).save(tmp_path / "x.pt")
    with pytest.raises(ModelError, match=r"x\.pt does not fit its own metadata"):
        load_model(tmp_path / "x.pt")
    with pytest.raises(ModelError, match=r"x\.pt does not fit its own metadata"):
        load_into(tiny_model(other), load_checkpoint(tmp_path / "x.pt"), tmp_path / "x.pt", resume=False)
    weights = {name: value for name, value in one.state_dict().items() if name != "encoder.output.bias"}
    checkpoint = Checkpoint(metadata=one.metadata, weights=weights)
    spelled = msgspec.structs.replace(one.metadata, alphabet=Alphabet.of("abc"))
    with pytest.raises(ModelError, match=r"The checkpoint does not fit its own metadata"):
        load_into(tiny_model(spelled), checkpoint, None, resume=False)


def test_folder_without_weights(tmp_path):
    metadata = tiny_metadata(MODELS["gru, two directions, 2d"])
    (tmp_path / "metadata.json").write_text(metadata.to_json())
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(ModelFolder(tmp_path, metadata).path)
