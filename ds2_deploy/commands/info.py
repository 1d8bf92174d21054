"""ds2 info: what a model says about itself."""

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from ds2_deploy.commands.common import print_rows

if TYPE_CHECKING:
    from ds2_deploy.audio.features import FeatureConfig
    from ds2_deploy.metadata import ModelMetadata, Provenance
    from ds2_deploy.model.config import ModelConfig

NORMS = {"vertical": "on the input", "step": "at every time step"}


class Entry(TypedDict):
    """What the header of a safetensors file says of a tensor, as far as it is read."""

    shape: tuple[int, ...]


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|CHECKPOINT", help="A bundled model, a model folder or a checkpoint.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model or checkpoint is."""
    import msgspec

    from ds2_deploy.output.writers import to_json

    path, metadata, files, parameters = _describe(model)
    if not as_json:
        print_rows(_rows(path, metadata, files, parameters))
        return
    facts = {
        "path": str(path),
        "files": files,
        "parameters": parameters,
        "frame_s": metadata.frame_s,
        "delay_s": metadata.delay_s,
        "delay": None if metadata.delay is None else metadata.delay._asdict(),
        "can_stream": not metadata.streaming_obstacles,
        "streaming_obstacles": metadata.streaming_obstacles,
        "stream_unit_s": None if metadata.streaming_obstacles else metadata.stream_unit_s,
        "metadata": msgspec.to_builtins(metadata),
    }
    print(to_json(facts, indent=2))


def _describe(model: str) -> "tuple[Path, ModelMetadata, dict[str, int], int | None]":
    """Path, metadata, bytes of each file, number of parameters (None without weights)."""
    from ds2_deploy.extras import TRAIN, require_all
    from ds2_deploy.model_folder import WEIGHTS_FILE, is_checkpoint, open_model

    path = Path(model)
    if is_checkpoint(model):
        _refuse_part_of_a_folder(path)
        require_all(TRAIN)
        from ds2_deploy.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
        return path, checkpoint.metadata, {path.name: path.stat().st_size}, _count(shapes, checkpoint.metadata)
    folder = open_model(model)
    below = sorted(file for file in folder.path.rglob("*") if file.is_file())
    files = {str(file.relative_to(folder.path)): file.stat().st_size for file in below}
    weights = folder.path / WEIGHTS_FILE
    parameters = _count(_shapes(weights), folder.metadata) if weights.is_file() else None
    return folder.path, folder.metadata, files, parameters


def _refuse_part_of_a_folder(path: Path) -> None:
    """A file of a model folder is no model of its own, but for checkpoints, which may lie there too."""
    from ds2_deploy.errors import ModelError
    from ds2_deploy.model_folder import METADATA_FILE

    folder = next((folder for folder in path.parents[:2] if (folder / METADATA_FILE).is_file()), None)
    if folder and path.is_file() and path.suffix != ".pt":
        raise ModelError(f"{path} is a file of the model folder {folder}: name that, as ds2 info {folder} does.")


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name from the header of a safetensors file: 8 bytes of length, then JSON; needs no torch."""
    import msgspec

    from ds2_deploy.errors import ModelError
    from ds2_deploy.structs import parse_struct

    damaged, cure = f"Cannot read the weights {weights}", "; export the model again"
    try:
        with weights.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
    except (OSError, MemoryError, OverflowError) as error:
        raise ModelError(f"{damaged}{cure}.") from error
    entries = parse_struct(header, dict[str, msgspec.Raw], ModelError, damaged, cure)
    entries.pop("__metadata__", None)
    return {name: parse_struct(entry, Entry, ModelError, damaged, cure)["shape"] for name, entry in entries.items()}


def _tail(feature: "FeatureConfig") -> str:
    return f"{feature.tail_ms:g} ms of zeros at the end, " if feature.tail_ms else ""


def _count(shapes: dict[str, tuple[int, ...]], metadata: "ModelMetadata") -> int:
    """Trained numbers: statistics, of batch normalisation or whitening, are not among them, shared weights are once."""
    import math

    not_counted = [
        "*.running_*",
        "frontend.*",
        *(["*.backward_rnn.*_ih_l0"] if metadata.model.shared_input_weights else []),
    ]
    return sum(math.prod(shape) for name, shape in shapes.items() if not any(fnmatch(name, p) for p in not_counted))


def _rows(
    path: Path, metadata: "ModelMetadata", files: dict[str, int], parameters: int | None
) -> list[tuple[str, Any]]:
    from rich import filesize

    feature, model, made = metadata.feature, metadata.model, metadata.provenance
    convolutions = "; ".join(
        f"{layer.channels} channels, kernel {_times(layer.kernel)}, stride {_times(layer.stride)}"
        + (", residual" if layer.residual else "")
        + (", padded by the length" if layer.same else "")
        for layer in model.conv
    )
    return [
        ("path", path),
        ("name", f"{metadata.name or '(none)'}, language {metadata.language}, format {metadata.format_version}"),
        ("parameters", "unknown: no weights" if parameters is None else f"{parameters:,}"),
        ("audio", f"mono, {feature.sample_rate} Hz"),
        ("front end", f"{feature.spectrum}, {_bands(feature)}, {'symmetric ' if feature.symmetric_window else ''}"
            f"{feature.window} {feature.window_ms:g} ms every {feature.hop_ms:g} ms, "
            f"{'mirrored at the ends, ' if feature.reflect else ''}{_tail(feature)}"
            f"{'one level, ' if feature.power_normalize else ''}{'one peak, ' if feature.peak_normalize else ''}"
            f"normalised: {_normalization(feature)}"),
        (f"convolutions ({model.conv_dims}D)", convolutions or "none"),
        ("recurrent", _recurrent(model)),
        ("batch norm", f"yes, {NORMS[model.recurrent_norm]} of recurrent layers" if model.batch_norm else "none"),
        ("lookahead", f"{model.lookahead} frames" if model.lookahead else "none"),
        ("fully connected", f"{model.fc_layers} x {model.fc_size}" if model.fc_layers else "none"),
        ("labels", f"{len(metadata.alphabet)}, blank {metadata.alphabet.blank}"),
        ("output frame", f"{metadata.frame_s * 1000:g} ms"),
        ("delay", _delay(metadata)),
        ("streaming", "; ".join(("no", *metadata.streaming_obstacles)) if metadata.streaming_obstacles else
            f"yes, in chunks of {_ms(metadata.stream_unit_s)} ms or a multiple of it"),
        ("trained", f"{made.epochs} epochs, {_hours(made)} of audio, recipe {made.recipe or '(none)'}, "
            f"seed {made.seed}, validation {_error_rate(metadata)}"
            if made.epochs else made.recipe or "unknown"),
        ("learnt from", ", ".join(made.train) or "unknown"),
        *((f"file {name}", filesize.decimal(size)) for name, size in files.items()),
    ]  # fmt: skip


def _hours(made: "Provenance") -> str:
    return f"{made.audio_hours:.2f} h" if made.audio_hours else "unknown hours"


def _error_rate(metadata: "ModelMetadata") -> str:
    """By the language's metric."""
    from ds2_deploy.text.languages import language_named

    metric, made = language_named(metadata.language).metric, metadata.provenance
    rate = made.valid_cer if metric == "CER" else made.valid_wer
    return f"{metric} {'unknown' if rate is None else f'{rate:.2%}'}"


def _normalization(feature: "FeatureConfig") -> str:
    running = f", over {feature.running_s:g} s begun with {feature.prior_s:g} s of the training set's"
    return feature.normalization + (running if feature.normalization == "running" else "")


def _bands(feature: "FeatureConfig") -> str:
    bands = f"{feature.mel_bands} mel bands" if feature.has_mel else f"{feature.static_bins} bins"
    cepstra = f"{feature.cepstra} cepstra of " if feature.spectrum == "mfcc" else ""
    return cepstra + bands + ("", " with differences", " with first and second differences")[feature.deltas]


def _recurrent(model: "ModelConfig") -> str:
    direction = "bidirectional" if model.bidirectional else "unidirectional"
    windows = f", backward by windows of {model.window} + {model.window_context} frames" if model.window else ""
    cell = "RNN with clipped ReLU" if model.cell == "rnn_relu" else model.cell.upper()
    special = (", input weights shared" if model.shared_input_weights else "") + (
        ", directions concatenated" if model.directions == "concat" else ""
    )
    return f"{model.rnn_layers} x {direction} {cell} of {model.rnn_size}{special}{windows}"


def _delay(metadata: "ModelMetadata") -> str:
    """The algorithmic delay and what it is made of."""
    if metadata.delay is None or metadata.delay_s is None:
        return "the whole recording"
    above = "windows" if metadata.model.window else "lookahead"
    parts = zip(("half a window", "convolutions", above), metadata.delay, strict=True)
    return f"{_ms(metadata.delay_s)} ms = " + " + ".join(f"{_ms(seconds)} {name}" for name, seconds in parts)


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000, 6):g}"


def _times(pair: tuple[int, int]) -> str:
    return f"{pair[0]} x {pair[1]}"
