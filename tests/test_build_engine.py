"""ds2 build-engine: everything on TensorRT-RTX is the real parser and builder. (TensorRT: test_trt.py.)"""

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from ds2_deploy.errors import (
    ConfigError,
    EngineError,
    ModelError,
    OutputError,
)
from ds2_deploy.files import sha256
from ds2_deploy.locking import alone_with
from ds2_deploy.runtime.engine_info import EngineInfo
from ds2_deploy.runtime.gpu import Gpu, gpus
from ds2_deploy.runtime.trt import BuildOptions, choose
from export.profiles import parse_batch, parse_seconds
from export.progress import BuildProgress
from export.to_tensorrt import build_engine
from tests.conftest import read_only
from tests.matrix import Case, every_case, pairs, pairwise
from tests.tiny_graph import METADATA, onnx, write_model

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def edited(path: Path, output: str, **changes: str) -> None:
    """Change the type or the first input of the node that makes `output`."""
    graph = onnx.load(path)
    node = next(node for node in graph.graph.node if node.output[0] == output)
    node.op_type = changes.get("op_type", node.op_type)
    node.input[0] = changes.get("input", node.input[0])
    onnx.save(graph, path)


@needs_rtx
class TestTensorRTRTX:
    @pytest.mark.parametrize(("fp16", "name"), [(False, "model"), (True, "model.fp16")])
    def test_engine_and_what_is_said_of_it(self, model: Path, fp16: bool, name: str) -> None:
        import tensorrt_rtx

        path = build_engine(
            model, fp16=fp16, batch=parse_batch("1:2:3"), seconds=[parse_seconds("0:1:2"), parse_seconds("2:3:4.5")]
        )
        assert path == model / "engines" / f"{name}.tensorrt-rtx.engine"
        info = EngineInfo.read(path.with_suffix(".json"))
        assert (info.runtime, info.runtime_version) == ("tensorrt-rtx", tensorrt_rtx.__version__)
        assert (info.compute_capability, info.gpu) == ("8.0+", None)
        assert (info.source, info.source_sha256) == (f"{name}.onnx", sha256(model / f"{name}.onnx"))
        assert (info.sha256, info.size_bytes) == (sha256(path), path.stat().st_size)
        assert info.size_bytes > 10_000
        assert (info.precision, info.tf32) == ("fp16" if fp16 else "fp32", False)
        assert info.metadata == METADATA
        assert info.build_s > 0
        assert [(t.name, t.dtype, t.shape) for t in info.inputs] == [
            ("audio", "float32", (-1, -1)),
            ("audio_lengths", "int64", (-1,)),
        ]
        assert [(t.name, t.dtype, t.shape) for t in info.outputs] == [
            ("log_probs", "float32", (-1, -1, 29)),
            ("lengths", "int64", (-1,)),
        ]
        first, second = (profile.inputs["audio"] for profile in info.profiles)
        assert (first.min, first.opt, first.max) == ((1, 320), (2, 16000), (3, 32000))
        assert (second.min, second.opt, second.max) == ((1, 32000), (2, 48000), (3, 72000))
        assert set(path.parent.iterdir()) == {path, path.with_suffix(".json")}

    def test_builder_holds_to_profiles_precision_and_tf32(self, model: Path) -> None:
        """Asked of the native objects themselves."""
        tensorrt = choose("tensorrt-rtx")
        builder = tensorrt.api.Builder(tensorrt.create_log())
        config = tensorrt.create_config(builder, BuildOptions())
        assert not config.get_flag(tensorrt.api.BuilderFlag.TF32)
        assert builder.create_builder_config().get_flag(tensorrt.api.BuilderFlag.TF32)  # on, unless cleared
        flags = tensorrt.api.NetworkDefinitionCreationFlag
        assert tensorrt.create_network(builder).get_flag(flags.STRONGLY_TYPED)

    def test_shortest_input_of_the_metadata_suits_the_graph(
        self, model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The builder calls a profile whose minimum a convolution cannot take 'not self-consistent'."""
        caplog.set_level(logging.DEBUG, logger="ds2_deploy")
        seconds = [parse_seconds("0:1:2")]
        build_engine(model, seconds=seconds)
        assert "Make sure input audio_lengths" in caplog.text  # the lines of the native library are here
        assert "self-consistent" not in caplog.text
        metadata = METADATA.to_json().replace('"window_ms": 20.0', '"window_ms": 5.0')
        (model / "metadata.json").write_text(metadata)
        build_engine(model, seconds=seconds, rebuild=True)
        assert "self-consistent" in caplog.text

    def test_fresh_process_is_silent_and_loads_no_torch(self, model: Path) -> None:
        """Also at the level of file descriptors, where native code prints; CUDA errors without a GPU included."""
        code = (
            "import sys; from pathlib import Path; from export.to_tensorrt import build_engine;"
            f"build_engine(Path({str(model)!r}), fp16=True);"
            "print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")

    def test_replaces_an_engine_only_when_told(self, model: Path) -> None:
        path = build_engine(model)
        before = path.read_bytes()
        with pytest.raises(OutputError, match=r"model\.tensorrt-rtx\.engine exists already: add --rebuild"):
            build_engine(model, batch=parse_batch("1:1:1"))
        assert path.read_bytes() == before
        assert build_engine(model, batch=parse_batch("1:1:1"), rebuild=True) == path
        info = EngineInfo.read(path.with_suffix(".json"))
        assert info.sha256 == sha256(path)
        assert info.profiles[0].inputs["audio_lengths"].max == (1,)

    @pytest.mark.parametrize(
        ("output", "changes", "reason"),
        [
            ("conv", {"op_type": "Wave"}, r"node 'node_conv' \(Wave\): .*Plugin not found"),
            ("conv", {"input": "nowhere"}, r"node 'node_conv' \(Conv\): .*Node input was not registered\.$"),
            ("conv", {"input": "feature"}, r"node 'node_conv' \(Conv\): .*"),  # float32 data, float16 weights
        ],
    )
    def test_parser_error_names_node_and_reason(
        self, model: Path, output: str, changes: dict[str, str], reason: str
    ) -> None:
        edited(model / "model.fp16.onnx", output, **changes)
        with pytest.raises(EngineError, match=rf"model\.fp16\.onnx: {reason}") as caught:
            build_engine(model, fp16=True)
        assert "\n" not in str(caught.value)
        assert "cudaError" not in str(caught.value)
        assert not (model / "engines").exists()

    @pytest.mark.parametrize("content", [b"", b"this is text", b"\x08\x0a\x12"])
    def test_what_is_no_graph(self, model: Path, content: bytes) -> None:
        (model / "model.onnx").write_bytes(content)
        with pytest.raises(EngineError, match=r"model\.onnx.*: export the model again\.|; export the model again\."):
            build_engine(model)
        assert not (model / "engines").exists()

    def test_truncated_file(self, model: Path) -> None:
        source = model / "model.onnx"
        source.write_bytes(source.read_bytes()[:-1000])
        with pytest.raises(EngineError, match=r"Failed to parse the ONNX model; export the model again\."):
            build_engine(model)

    def test_other_graph(self, model: Path) -> None:
        graph = onnx.load(model / "model.onnx")
        graph.graph.node[-1].output[0] = graph.graph.output[0].name = "scores_of_another_model"
        onnx.save(graph, model / "model.onnx")
        with pytest.raises(EngineError, match=r"scores_of_another_model, .*where a ds2 model has audio"):
            build_engine(model)

    def test_full_disk_leaves_nothing(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(self: EngineInfo, path: Path) -> None:
            path.write_text('{"half": ')
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(EngineInfo, "write", full)
        with pytest.raises(OutputError, match="No space left on device"):
            build_engine(model)
        assert list((model / "engines").iterdir()) == []

    def test_turing_gets_an_engine_of_its_own(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ds2_deploy.runtime.trt.gpus", lambda: [Gpu("Tesla T4", (7, 5))])
        path = build_engine(model, fp16=True)
        assert path.name == "model.fp16.tensorrt-rtx-sm75.engine"
        info = EngineInfo.read(path.with_suffix(".json"))
        assert (info.compute_capability, info.gpu) == ("7.5", "Tesla T4")

    def test_failed_build_names_the_reason(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """TensorRT-RTX knows no float32 matrix products on Turing, and notices long after parsing."""
        monkeypatch.setattr("ds2_deploy.runtime.trt.gpus", lambda: [Gpu("Tesla T4", (7, 5))])
        with pytest.raises(EngineError, match=r"model\.onnx: .*for Turing \(SM75\): FP32 GEMM is not supported\)\.$"):
            build_engine(model)
        assert not (model / "engines").exists()

    def test_tf32_is_in_the_name_and_in_the_json(self, model: Path) -> None:
        path = build_engine(model, options=BuildOptions(tf32=True))
        assert path.name == "model.tf32.tensorrt-rtx.engine"
        assert EngineInfo.read(path.with_suffix(".json")).tf32

    def test_version_compatible_is_refused(self, model: Path) -> None:
        with pytest.raises(ConfigError, match="an engine of TensorRT-RTX serves its version alone"):
            build_engine(model, options=BuildOptions(version_compatible=True))

    def test_layers(self, model: Path) -> None:
        path = build_engine(model, options=BuildOptions(layers=True))
        layers = json.loads(path.with_suffix(".layers.json").read_text())
        assert layers["engine"] is None or gpus()  # what became of them, the library tells on a GPU alone
        softmax = next(layer for layer in layers["parsed"] if layer["type"] == "SOFTMAX")
        assert [(o["dtype"], o["shape"][-1]) for o in softmax["outputs"]] == [("FLOAT", 29)]
        assert {"LOOP_OUTPUT", "CONVOLUTION"} <= {layer["type"] for layer in layers["parsed"]}
        build_engine(model, rebuild=True)
        assert not path.with_suffix(".layers.json").exists()  # they would be another engine's

    def test_progress_rises_to_the_end(self, model: Path) -> None:
        heard: list[tuple[float, str]] = []
        build_engine(model, progress=BuildProgress(lambda share, phase: heard.append((share, phase))))
        shares = [share for share, _ in heard]
        assert shares == sorted(shares)
        assert shares[0] == 0
        assert 0.8 < shares[-1] <= 1
        assert len({phase for _, phase in heard}) > 3

    def test_a_graph_of_another_model(self, model: Path) -> None:
        own = (model / "metadata.json").read_text()
        graph = onnx.load(model / "model.onnx")
        onnx.helper.set_model_props(graph, {"ds2": own.replace('"window_ms": 20.0', '"window_ms": 25.0')})
        onnx.save(graph, model / "model.onnx")
        with pytest.raises(ModelError, match=r"model\.onnx was exported with another feature than metadata\.json says"):
            build_engine(model)
        onnx.helper.set_model_props(graph, {"ds2": own})
        onnx.save(graph, model / "model.onnx")
        build_engine(model)

    def test_one_build_of_a_graph_at_a_time(self, model: Path) -> None:
        source = model / "model.onnx"
        with alone_with(source, "testing"), pytest.raises(OutputError, match=r"building an engine from .* wait until"):
            build_engine(model)  # another open file of the same process is like another process
        build_engine(model)

    def test_a_stream_has_one_profile(self, model: Path) -> None:
        text = """
        <ir_version: 10, opset_import: ["": 22]>
        stream (float[B, 1600] audio, int64[B] audio_lengths, float[B, 1600] state)
            => (float[B, 1600] log_probs, int64[B] lengths, float[B, 1600] next_state)
        { next_state = Add(audio, state)  log_probs = LogSoftmax(next_state)  lengths = Abs(audio_lengths) }
        """
        onnx.save(onnx.parser.parse_model(text), model / "stream.onnx")
        path = build_engine(model, stream=True, batch=parse_batch("1:8:32"))
        assert path.name == "stream.tensorrt-rtx.engine"
        (profile,) = EngineInfo.read(path.with_suffix(".json")).profiles
        assert (profile.inputs["audio"].min, profile.inputs["state"].max) == ((1, 1600), (32, 1600))


@needs_rtx
@pytest.mark.parametrize(
    ("model_name", "feature_name"),
    [
        ("gru, two directions, 2d", "log power, utterance"),
        ("lstm, lookahead, 1d, fc", "log mel, global, centred, tail"),
        ("rnn, two directions, 3 x 2d, fc", "log mel, none, 8 kHz"),
        ("rnn with clipped relu, concatenated, shared input weights, no conv", "mfcc with differences, each bin"),
        ("lstm, norm at every step, residual 1d", "amplitude, whitened, one level"),
    ],
)
def test_what_is_exported_can_be_built(
    tmp_path: Path, model_name: str, feature_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """From network to half-precision engine, down to the shortest recording the metadata allow."""
    pytest.importorskip("torch")
    from export.to_onnx import write_onnx
    from tests.tiny import FEATURES, MODELS, tiny_metadata, tiny_model

    metadata = tiny_metadata(MODELS[model_name], FEATURES[feature_name])
    (tmp_path / "metadata.json").write_text(metadata.to_json())
    write_onnx(tiny_model(metadata), tmp_path / "model.fp16.onnx", "fp16")
    caplog.set_level(logging.DEBUG, logger="ds2_deploy")
    path = build_engine(tmp_path, fp16=True, seconds=[parse_seconds("0:1:2")])
    assert EngineInfo.read(path.with_suffix(".json")).metadata == metadata
    assert "Make sure input audio_lengths" in caplog.text
    assert "self-consistent" not in caplog.text


@needs_rtx
@pytest.mark.parametrize("case", pairwise(every_case()), ids=lambda case: "-".join(case))
def test_every_pair_of_choices_can_be_built(tmp_path: Path, case: Case) -> None:
    pytest.importorskip("torch")
    case.write(tmp_path)
    stream = case.graph == "stream"
    path = build_engine(
        tmp_path, fp16=case.precision == "fp16", stream=stream, seconds=[] if stream else [parse_seconds("0:1:2")]
    )
    info = EngineInfo.read(path.with_suffix(".json"))
    assert (info.source, info.precision) == (path.name.replace(".tensorrt-rtx.engine", ".onnx"), case.precision)
    assert info.size_bytes == path.stat().st_size > 10_000


def test_the_few_hold_every_pair_of_all() -> None:
    held = set().union(*map(pairs, pairwise(every_case())))
    assert held == set().union(*map(pairs, every_case()))
    assert len(held) == 11 + 8 + 8 + 12 + 5 + 6 + 9 + 4 + 6 + 6  # all but (both, stream) and (lstm, windows)


class TestRefusals:
    def test_no_stream_graph(self, model: Path) -> None:
        with pytest.raises(ModelError, match=r"holds no stream\.onnx: write it with ds2 export .* --out"):
            build_engine(model, stream=True)

    def test_a_stream_of_a_model_that_cannot(self) -> None:
        with pytest.raises(ModelError, match=r"default cannot stream: .*'utterance'.*bidirectional is true"):
            build_engine("default", stream=True)

    def test_seconds_of_a_stream(self, model: Path) -> None:
        with pytest.raises(ConfigError, match="--seconds does not go with --stream"):
            build_engine(model, stream=True, seconds=[parse_seconds("1:2:3")])

    def test_no_half_precision_graph(self, model: Path) -> None:
        (model / "model.fp16.onnx").unlink()
        with pytest.raises(
            ModelError, match=r"holds no model\.fp16\.onnx, only model\.onnx for fp32: write it with ds2 export"
        ):
            build_engine(model, fp16=True)

    def test_unwritable_folder_shows_before_the_build(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.TemporaryFile", read_only)
        monkeypatch.setattr("export.to_tensorrt.Build", lambda *_: pytest.fail("built all the same"))
        with pytest.raises(OutputError, match=r"Cannot write into .*: Read-only file system"):
            build_engine(model)

    def test_engine_info_of_another_kind(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
        with pytest.raises(EngineError, match=r"Cannot read .*No such file"):
            EngineInfo.read(path)
        for content in (b"", b"[]", b'{"runtime": "tensorrt"}', b"\x00", b'{"runtime": "tensorrt\xff"}'):
            path.write_bytes(content)
            with pytest.raises(EngineError, match="does not describe an engine"):
                EngineInfo.read(path)


@needs_rtx
class TestCommand:
    def ds2(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        call = [sys.executable, "-c", "from ds2_deploy.cli import main; main()", "build-engine", *map(str, arguments)]
        return subprocess.run(call, capture_output=True, text=True, check=False)

    def test_prints_the_path_alone(self, model: Path) -> None:
        done = self.ds2(model, "--fp16", "--seconds", "0:1:2", "--seconds", "2:3:4", "--batch", "1:2:2")
        path = model / "engines" / "model.fp16.tensorrt-rtx.engine"
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")
        profiles = EngineInfo.read(path.with_suffix(".json")).profiles
        assert [profile.inputs["audio"].max for profile in profiles] == [(2, 32000), (2, 64000)]
        again = self.ds2(model, "--fp16")
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr == f"ds2: {path} exists already: add --rebuild to replace it.\n"
        assert self.ds2(model, "--fp16", "--rebuild", "--seconds", "0:1:1").returncode == 0

    def test_debug_shows_what_the_library_says(self, model: Path) -> None:
        assert "Engine generation completed" in self.ds2(model, "--debug").stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--batch", "1"],
            ["--batch", ""],
            ["--seconds", "3:2:1"],
            ["--seconds", "0:0.001:1"],
            ["--stream", "--seconds", "1:2:3"],
            ["--runtime", "tensorrt-xtr"],
        ],
    )
    def test_a_wrong_call(self, model: Path, arguments: list[str]) -> None:
        done = self.ds2(model, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert arguments[-1] in done.stderr or arguments[0] in done.stderr
        assert not (model / "engines").exists()

    def test_one_line_for_what_cannot_be_built(self, model: Path) -> None:
        edited(model / "model.onnx", "conv", op_type="Wave")
        done = self.ds2(model)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "node 'node_conv' (Wave)" in done.stderr
