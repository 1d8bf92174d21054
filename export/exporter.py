"""`ds2 export`: from a checkpoint to a model folder that has been checked, or to no folder at all."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ds2_deploy.errors import InferenceError, OutputError, ParityError
from ds2_deploy.files import atomic_folder, copy
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import open_checkpoint, save_weights
from ds2_deploy.model_folder import (
    BENCH_FILE,
    ENGINES_FOLDER,
    GRAPHS,
    LM_FOLDER,
    METADATA_FILE,
    PARITY_FILE,
    PRECISIONS,
    TOKENS_FILE,
    WEIGHTS_FILE,
    ModelFolder,
    Precision,
    graph_file,
    is_checkpoint,
    open_model,
)
from ds2_deploy.runtime.ort_backend import OrtBackend, OrtStreamBackend
from ds2_deploy.runtime.streamed import Streamed
from ds2_deploy.runtime.torch_backend import TorchBackend
from export.parity import Candidate, ParityReport, compare, probe_recordings
from export.recurrence import Recurrence
from export.to_onnx import write_onnx, write_stream_onnx

CHOICES: dict[str, tuple[Precision, ...]] = {"fp32": ("fp32",), "fp16": ("fp16",), "both": PRECISIONS}
OWN = {METADATA_FILE, WEIGHTS_FILE, TOKENS_FILE, PARITY_FILE, ENGINES_FOLDER, *GRAPHS}
"""What an export writes, or makes worthless."""


def export_model(
    source: Path,
    out: Path,
    *,
    precision: Literal["fp32", "fp16", "both"] = "both",
    chunk_ms: float = 100.0,
    recurrence: Recurrence = "node",
    window: int | None = None,
    window_context: int | None = None,
    allow_mismatch: bool = False,
    overwrite: bool = False,
) -> ParityReport:
    """Write the model folder `out` from a checkpoint (or the weights of another model folder, or of a bundled model).

    A model that can stream gets a streaming graph, too, which takes `chunk_ms` at a time (rounded up to whole
    frames or windows). `recurrence` is the form of its recurrent layers, see export/recurrence.py. `window` and
    `window_context` are other windows than it was trained with, in output frames. `overwrite` replaces a model folder,
    and keeps what is in it beside the model: its card, a language model. Engines and latency reports go, being of the
    old graph.
    A language model that the source has comes along where `out` has none.

    ParityError, and no folder, where ONNX Runtime fails on the graph, or disagrees with PyTorch and `allow_mismatch` is
    not set.
    """
    if (out / METADATA_FILE).exists() and not overwrite:
        raise OutputError(f"{out} already holds a model: add --overwrite, or choose another --out.")
    if (out / METADATA_FILE).exists() and not any((out / name).is_file() for name in (WEIGHTS_FILE, *GRAPHS)):
        ModelMetadata.read(out / METADATA_FILE)  # raises where it is not a model's; a damaged model may be replaced
    checkpoint = open_checkpoint(source)
    if window is not None or window_context is not None:
        checkpoint = replace(checkpoint, metadata=checkpoint.metadata.with_windows(window, window_context, source))
    model, metadata = checkpoint.model(), checkpoint.metadata
    with atomic_folder(out, METADATA_FILE) as folder:
        (folder / METADATA_FILE).write_text(metadata.to_json() + "\n", encoding="utf-8")
        (folder / TOKENS_FILE).write_text(metadata.alphabet.to_lines(), encoding="utf-8")
        save_weights(model, folder / WEIGHTS_FILE)
        written = ModelFolder(folder, metadata)
        candidates: list[Candidate] = []
        for kind in CHOICES[precision]:
            write_onnx(model, folder / graph_file(kind), kind, recurrence)
            candidates.append((OrtBackend(written, device="cpu", precision=kind), kind))
            if not metadata.streaming_obstacles:
                chunk = metadata.stream_chunk_samples(chunk_ms)
                write_stream_onnx(model, folder / graph_file(kind, stream=True), kind, chunk, recurrence)
                backend = OrtStreamBackend(written, device="cpu", precision=kind)
                candidates.append((Streamed(backend, metadata), kind))
        try:
            report = compare(TorchBackend.of(model), candidates, probe_recordings(metadata))
        except InferenceError as error:
            raise ParityError(f"The exported graph does not run, so {out} was not written: {error}") from error
        (folder / PARITY_FILE).write_text(report.to_json() + "\n", encoding="utf-8")
        if not report.passed and not allow_mismatch:
            raise ParityError(
                f"The exported graph differs from the network, so {out} was not written: {report.failures()}."
            )
        _keep_others(out, folder)
        _bring_language_model(source, folder)
    return report


def _keep_others(old: Path, new: Path) -> None:
    """Copy what the old folder holds beside the model, such as its card."""
    for path in old.iterdir() if old.is_dir() else ():
        is_kept = path.name not in OWN and path.stem != Path(BENCH_FILE).stem
        if is_kept and (path.is_symlink() or path.is_file() or path.is_dir()):
            copy(path, new / path.name, links=True)


def _bring_language_model(source: Path, new: Path) -> None:
    """Of the model that is exported anew: the same weights are decoded with it."""
    if not is_checkpoint(source) and not (new / LM_FOLDER).exists():
        old = open_model(source).path / LM_FOLDER
        if old.is_dir():
            copy(old, new / LM_FOLDER, links=False)  # from elsewhere: a relative link would lead nowhere
