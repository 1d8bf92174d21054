"""Train, export, check, build, transcribe: the whole path as a user types it, on tones learnt in seconds."""

import json
import os
import re

import msgspec
import pytest

from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import Checkpoint
from ds2_deploy.runtime.engine_info import EngineInfo
from tests.tiny import MODELS, tiny_metadata, tiny_model
from tests.tones import RECIPE


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """(checkpoint, model folder) of a network that reads tones."""
    from pathlib import Path

    from export.exporter import export_model
    from training.recipe import load_recipe
    from training.trainer import train

    root: Path = tmp_path_factory.mktemp("trained")
    (root / "tones.toml").write_text(RECIPE.format(epochs=40))
    train(load_recipe(str(root / "tones.toml"), []), [corpus], [corpus], root / "run")
    export_model(root / "run/best.pt", root / "model")
    return root / "run/best.pt", root / "model"


def test_train_then_export_from_the_command_line(ds2, corpus, tmp_path):
    (tmp_path / "tones.toml").write_text(RECIPE.format(epochs=1))
    run = ds2("train", tmp_path / "tones.toml", "--train", corpus, "--valid", corpus, "--out", tmp_path / "run")
    assert (run.code, run.out) == (0, "")
    assert re.search(r"epoch +1/1 +loss .* WER .* blank .* h/h", run.err)
    assert run.err.count("\n") == 4  # no progress bar where no terminal is
    made = ds2("export", tmp_path / "run/last.pt", "--out", tmp_path / "model", "--precision", "fp32")
    assert made.code == 0, made.err
    assert "onnxruntime fp32" in made.out
    assert made.out.endswith(
        "metadata.json, model.onnx, model.safetensors, parity.json, tokens.txt.\n"
        "No stream.onnx, since the model cannot stream: model.bidirectional is true: the backward direction starts at "
        "the end.\n"
    )
    assert made.err == ""
    assert ModelMetadata.read(tmp_path / "model/metadata.json").provenance.epochs == 1


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_transcribes_what_it_learnt(ds2, corpus, trained, backend):
    utterances = [json.loads(line) for line in corpus.read_text().splitlines()]
    paths = [corpus.parent / utterance["audio_filepath"] for utterance in utterances]
    run = ds2("transcribe", "--model", trained[1], "--backend", backend, "--format", "jsonl", *paths)
    assert run.code == 0, run.err
    results = [json.loads(line) for line in run.out.splitlines()]
    assert [result["path"] for result in results] == [str(path) for path in paths]
    right = sum(result["text"] == u["text"] for result, u in zip(results, utterances, strict=True))
    assert right >= 0.8 * len(utterances)


def test_evaluate_counts_what_transcribe_prints(ds2, corpus, trained):
    checkpoint, model = trained
    as_model = json.loads(ds2("evaluate", model, corpus, "--json").out)
    as_checkpoint = json.loads(ds2("evaluate", checkpoint, corpus, "--json").out)
    half = json.loads(ds2("evaluate", model, corpus, "--json", "--precision", "fp16").out)
    assert (as_model["backend"], as_checkpoint["backend"]) == ("onnxruntime", "torch")
    for key in ("wer", "cer", "utterances", "words"):
        assert as_model[key] == as_checkpoint[key] == half[key]
    assert as_model["utterances"] == 18
    assert as_model["wer_low"] <= as_model["wer"] == as_model["word_errors"] / as_model["words"] <= as_model["wer_high"]
    assert as_model["rtfx"] == pytest.approx(as_model["audio_s"] / as_model["seconds"])
    assert f"of {as_model['words']} words" in ds2("evaluate", model, corpus).out


def test_evaluate_goes_on_past_a_bad_recording(ds2, corpus, trained):
    manifest = corpus.parent / "bad.jsonl"
    bad = json.dumps({"audio_filepath": "m.jsonl", "duration": 1, "text": "a"})
    manifest.write_text(bad + "\n" + corpus.read_text())
    run = ds2("evaluate", trained[1], manifest, "--json")
    assert run.code == 1
    assert (json.loads(run.out)["utterances"], json.loads(run.out)["left_out"]) == (18, 1)
    assert re.fullmatch(r"ds2: Cannot decode .*m\.jsonl.*\n", run.err)
    assert ds2("evaluate", trained[1], manifest).out.endswith("1 of 19 recordings are left out: see the errors\n")


def test_parity_in_numbers_and_in_its_exit_code(ds2, corpus, trained, tmp_path):
    _, model = trained
    report = json.loads(ds2("parity", model, corpus, "--json").out)
    assert report["passed"]
    assert [(d["backend"], d["precision"]) for d in report["differences"]] == [
        ("onnxruntime", "fp32"), ("onnxruntime", "fp16"),
    ]  # fmt: skip
    assert report["differences"][0]["max_abs"] < report["differences"][1]["max_abs"]
    # the weights of another network beside this graph
    other = tmp_path / "other"
    other.mkdir()
    for name in ("metadata.json", "model.onnx"):
        (other / name).write_bytes((model / name).read_bytes())
    from ds2_deploy.model.checkpoint import save_weights

    save_weights(tiny_model(ModelMetadata.read(model / "metadata.json")), other / "model.safetensors")
    run = ds2("parity", other)
    assert run.code == 3
    assert "TOO FAR" in run.out
    assert re.fullmatch(r"ds2: .*onnxruntime fp32 differs by up to .* nats .*\n", run.err)


def test_parity_without_a_backend_says_why(ds2, trained):
    """The graph is there; what is not, ONNX Runtime names."""
    run = ds2("parity", trained[1], "--device", "cuda:99")
    assert run.code == 1
    assert "no graph" not in run.err
    assert re.search("onnxruntime|CUDA|GPU", run.err)


def test_an_engine_knows_its_model(ds2, trained):
    pytest.importorskip("tensorrt_rtx")
    _, model = trained
    run = ds2("build-engine", model, "--fp16", "--runtime", "tensorrt-rtx", "--seconds", "0:1:3", "--batch", "1:2:4")
    assert (run.code, run.err) == (0, "")
    info = EngineInfo.read(next((model / "engines").glob("*.json")))
    assert info.metadata == ModelMetadata.read(model / "metadata.json")
    assert (info.precision, info.source) == ("fp16", "model.fp16.onnx")


def test_info_of_a_checkpoint_and_of_a_folder(ds2, trained):
    checkpoint, model = (json.loads(ds2("info", path, "--json").out) for path in trained)
    assert checkpoint["metadata"] == model["metadata"]
    assert checkpoint["parameters"] == model["parameters"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "no-model", "m.jsonl"], "Cannot read the manifest m.jsonl"),
        (["parity", "no-model"], "There is no model 'no-model'"),
        (["export", "no.pt", "--out", "x"], "There is no checkpoint no.pt"),
        (["evaluate", "no.pt", "m.jsonl"], "Cannot read the manifest m.jsonl"),
        (["info", "no.pt"], "There is no checkpoint no.pt"),
        (["train", "no-recipe", "--train", "m", "--valid", "m", "--out", "x"], "There is no recipe no-recipe"),
        (["train", "an4", "--train", "m", "--valid", "m.jsonl", "--out", "x"], "Cannot read the manifest m.jsonl"),
        (["train", "an4", "--train", "m", "--valid", "m", "--out", "x"], "The manifest m holds no utterance"),
        (["align", "x.wav", "m", "--model", "default", "--out", "x.jsonl"], "m holds no words."),
        (["export", "text.pt", "--out", "x"], "text.pt is not a ds2 checkpoint"),
        (["export", "text.pt", "--out", "default"], "default is a bundled model to every command"),
        (["info", "text.pt"], "text.pt is not a ds2 checkpoint"),
        (["parity", "newer"], "has format version 99"),
        (["transcribe", "text.pt", "--model", "newer"], "has format version 99"),
    ],
)
def test_one_sentence_for_what_is_not_there(ds2, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("just text")
    (tmp_path / "newer").mkdir()
    metadata = msgspec.structs.replace(tiny_metadata(MODELS["gru, two directions, 2d"]), format_version=99)
    (tmp_path / "newer/metadata.json").write_text(metadata.to_json())
    (tmp_path / "m").write_text("")
    before = sorted(tmp_path.rglob("*"))
    run = ds2(*arguments)
    assert run.code == 1
    assert run.out == ""
    assert said in run.err
    assert run.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_training_keeps_few_kernels_unless_told_otherwise(ds2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, kept in ((None, "16"), ("500", "500")):
        monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", given or "")
        if given is None:
            monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
        assert ds2("train", "an4", "--train", "m", "--valid", "m", "--out", "x").code == 1
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == kept


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "an4"],
        ["train", "an4", "--train", "m", "--valid", "m", "--out", "x", "--device", "gpu"],
        ["train", "an4", "--train", "m", "--valid", "m", "--out", "x", "--set", "model.cell=tree"],
        ["export", "x.pt"],
        ["export", "x.pt", "--out", "y", "--precision", "int8"],
        ["evaluate", "default"],
        ["parity", "default", "--backend", "magic"],
        ["parity", "default", "--backend", "auto"],
        ["parity"],
        ["align", "x.wav", "x.txt", "--out", "y", "--device", "gpu"],
        ["lm-tune", "default", "m", "--device", "gpu"],
        ["dance"],
    ],
)
def test_a_wrong_call_is_exit_code_2(ds2, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    run = ds2(*arguments)
    assert (run.code, run.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_and_nothing_else_does(ds2, tmp_path):
    for flags, shown in (([], False), (["--debug"], True)):
        run = ds2("export", tmp_path / "no.pt", "--out", tmp_path / "x", *flags)
        assert ("Traceback" in run.err) is shown
        assert run.code == 1


def test_export_to_a_folder_that_cannot_be_written(ds2, tmp_path):
    model = tiny_model(tiny_metadata(MODELS["gru, forward only, no batch norm"]))
    Checkpoint(metadata=model.metadata, weights=model.state_dict()).save(tmp_path / "x.pt")
    run = ds2("export", tmp_path / "x.pt", "--out", tmp_path / "x.pt/model")
    assert run.code == 1
    assert re.fullmatch(r"ds2: Cannot write .*\n", run.err)
