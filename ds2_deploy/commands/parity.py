"""ds2 parity: do the backends say the same?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ds2_deploy.commands.common import Device, path_argument, print_columns, usage_errors

if TYPE_CHECKING:
    from ds2_deploy.model_folder import ModelFolder, Precision
    from export.parity import Candidate, ParityReport, Recording


def parity(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a bundled model.")],
    manifest: Annotated[
        Path | None, path_argument(metavar="MANIFEST", help="Recordings to compare on; without it, made-up signals.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="onnxruntime|tensorrt|torch",
            help="Compare this one; may be given often. Without it, every one that works here.",
        ),
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare every backend and precision with PyTorch.

    The reference is in float32. Exit code 3 if one is too far from it.
    """
    from ds2_deploy.decoding import make_decoder
    from ds2_deploy.errors import ModelError, ParityError
    from ds2_deploy.extras import TRAIN, require_all
    from ds2_deploy.model_folder import open_model

    folder = open_model(model)
    require_all(TRAIN)
    from ds2_deploy.runtime import check_backend
    from ds2_deploy.runtime.torch_backend import TorchBackend
    from export.parity import compare, probe_recordings

    with usage_errors():
        candidates = _candidates(folder, [check_backend(name) for name in backend or []], device)
    if not candidates:
        raise ModelError(f"{model} holds no graph to compare: write one with ds2 export.")
    recordings = _recordings(manifest, folder) if manifest else probe_recordings(folder.metadata)
    recordings = that_all_take(recordings, candidates, folder.metadata.feature.sample_rate)
    decoder = make_decoder("greedy", folder.metadata.alphabet) if manifest else None
    reference, metadata = TorchBackend(folder, device=device), folder.metadata
    report = compare(reference, candidates, recordings, decoder, metadata.language)
    if as_json:
        typer.echo(report.to_json())
    else:
        print_report(report, folder.metadata.language)
    if not report.passed:
        raise ParityError(f"{model}: {report.failures()}.")


def _candidates(folder: "ModelFolder", asked: Sequence[str], device: str) -> "list[Candidate]":
    """The asked backends on `device` in every precision, offline and as a stream; stderr says what they lack for some.

    With none asked, all but the reference that can run here; the log says which cannot, and why. Where none can, that
    is ONNX Runtime's error, as it is what one can have anywhere.
    """
    from ds2_deploy.runtime import open_backend, open_stream_backend
    from ds2_deploy.runtime.lineup import open_all
    from ds2_deploy.runtime.streamed import Streamed

    def open_one(name: str, precision: "Precision", stream: bool) -> "Candidate | None":
        if not asked and (name, precision) == ("torch", "fp32"):  # the reference
            return None
        if stream:
            steps = open_stream_backend(name, folder, device=device, precision=precision)
            return Streamed(steps, folder.metadata), precision
        return open_backend(name, folder, device=device, precision=precision), precision

    opened, refused = open_all(open_one, folder, asked, device=device)
    candidates = [candidate for candidate in opened if candidate]
    if asked:
        for name, error in refused.items():
            typer.echo(f"Not {name}: {error}", err=True)
    if refused and not candidates:
        anywhere = (error for name, error in refused.items() if name.startswith("onnxruntime "))
        raise next(anywhere, next(iter(refused.values())))
    return candidates


def _recordings(manifest: Path, folder: "ModelFolder") -> "list[Recording]":
    from ds2_deploy.audio.load import load_audio
    from ds2_deploy.manifest import read_manifest
    from ds2_deploy.text.languages import spelling
    from export.parity import Recording

    rate, language = folder.metadata.feature.sample_rate, folder.metadata.language
    return [
        Recording(u.path.name, load_audio(u.path, rate), spelling(u.text, language)) for u in read_manifest(manifest)
    ]


def that_all_take(recordings: "list[Recording]", candidates: "list[Candidate]", rate: int) -> "list[Recording]":
    """Without those that an engine is too short for; stderr says how many."""
    from ds2_deploy.errors import InferenceError

    longest = min((backend.max_samples for backend, _ in candidates if backend.max_samples is not None), default=None)
    if longest is None:
        return recordings
    fitting = [recording for recording in recordings if len(recording.samples) <= longest]
    left_out = f"longer than {longest / rate:g} s, the most that an engine here takes"
    if not fitting:
        raise InferenceError(f"All recordings are {left_out}: build one with longer --seconds.")
    if len(fitting) < len(recordings):
        typer.echo(f"Left out {len(recordings) - len(fitting)} of {len(recordings)}: {left_out}.", err=True)
    return fitting


def print_report(report: "ParityReport", language: str = "en") -> None:
    """A line per backend and precision; differences in nats."""
    from ds2_deploy.text.languages import language_named

    spoken = language_named(language)
    metric, unit = spoken.metric, spoken.unit
    reference_rate = report.reference_cer if metric == "CER" else report.reference_wer
    print(
        f"Compared with {report.reference} fp32 on {len(report.recordings)} recordings in {len(report.shapes)} batches:"
    )
    header = ["backend", "frames", "max abs", "(allowed)", "mean abs", "equal labels", "(required)"]
    decoded = report.reference_words is not None
    rows = [
        (
            f"{d.backend} {d.precision}{_on(d.device)}", f"{d.frames}", f"{d.max_abs:.1e}", f"{d.max_abs_allowed:.0e}",
            f"{d.mean_abs:.1e}", f"{d.equal_argmax:.3%}", f"{d.equal_argmax_required:.1%}",
            *((f"{d.different_words}", _percent(d.cer if metric == "CER" else d.wer)) if decoded else ()),
            "ok" if d.passed else "TOO FAR" if d.equal_lengths else "OTHER LENGTHS",
        )
        for d in report.differences
    ]  # fmt: skip
    print_columns([*header, *((f"{unit} apart", metric) if decoded else ()), ""], rows)
    if decoded:
        print(f"{report.reference} fp32 says {report.reference_words} {unit}, {metric} {_percent(reference_rate)}.")


def _on(device: str) -> str:
    """Where a GPU was compared."""
    return f" on {device}" if device.startswith("cuda") else ""


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"
