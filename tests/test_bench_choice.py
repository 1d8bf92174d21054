"""`--backend auto` and the bench report of a model folder."""

import json
import logging
from pathlib import Path
from typing import Never

import pytest

from ds2_deploy import runtime
from ds2_deploy.errors import ModelError
from ds2_deploy.model_folder import ModelFolder
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.runtime.bench_choice import in_order, machine_name
from tests.tiny import MODELS, tiny_metadata

NAMES = ["tensorrt", "onnxruntime", "torch"]


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path, tiny_metadata(MODELS["gru, two directions, 2d"]))


def write(model: ModelFolder, machine: str, **fastest: list[str]) -> None:
    report = {"machine": machine, "fastest": fastest, "rows": [1, 2]}
    (model.path / "bench.json").write_text(json.dumps(report))


def test_the_report_of_this_machine_orders_the_backends(model: ModelFolder) -> None:
    assert in_order(NAMES, model, "offline") == NAMES
    write(model, machine_name(), offline=["torch", "abacus", "tensorrt"], stream=["onnxruntime"])
    assert in_order(NAMES, model, "offline") == ["torch", "tensorrt", "onnxruntime"]
    assert in_order(NAMES, model, "stream") == ["onnxruntime", "tensorrt", "torch"]
    assert NAMES == ["tensorrt", "onnxruntime", "torch"]


def test_another_machines_report_is_not_heeded_and_that_is_said(
    model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    write(model, "abacus", offline=["torch"])
    with caplog.at_level(logging.INFO, logger="ds2_deploy.runtime.bench_choice"):
        assert in_order(NAMES, model, "offline") == NAMES
    assert "was measured on abacus" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b'{"machine": 1, "fastest": {}}', b'{"machine": "", "fastest": {"x": []}}', b'{"machine\xff"'),
        b'{"machine": "", "fastest": {}, "rows": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_report_is_refused(model: ModelFolder, content: bytes) -> None:
    (model.path / "bench.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"bench\.json is no bench report"):
        in_order(NAMES, model, "offline")


def test_auto_opens_the_fastest_that_works(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        device = "cpu"

        def __init__(self, *_: object, **__: object) -> None:
            self.name = "torch"

    real = runtime._backend_class
    monkeypatch.setattr(runtime, "_backend_class", lambda t, name: Stub if name == "torch" else real(t, name))
    write(model, machine_name(), offline=["torch", "onnxruntime"])
    assert runtime.open_backend("auto", model).name == "torch"


def test_streams_have_their_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recogniser that found PyTorch fastest for whole recordings need not stream by it."""
    asked: list[str] = []

    def opened(name: str, *_: object, **__: object) -> Never:
        asked.append(name)
        raise ModelError("enough")

    monkeypatch.setattr("ds2_deploy.recognizer.open_stream_backend", opened)
    recognizer = Recognizer.open("streaming", device="cpu")
    with pytest.raises(ModelError, match="enough"):
        recognizer.create_stream()
    assert asked == ["auto"]
