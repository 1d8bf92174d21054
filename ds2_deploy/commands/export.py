"""ds2 export: a checkpoint to a checked model folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ds2_deploy.commands.common import path_argument, path_option


def export(
    checkpoint: Annotated[
        Path, path_argument(metavar="CHECKPOINT|MODEL", help="A checkpoint of ds2 train, or a model to export anew.")
    ],
    out: Annotated[Path, path_option(metavar="MODEL", help="The model folder to write.")],
    precision: Annotated[Literal["fp32", "fp16", "both"], typer.Option(help="Which graphs to write.")] = "both",
    chunk_ms: Annotated[
        float,
        typer.Option(min=1, max=10_000, help="Audio a step of the streaming graph takes, in whole frames or windows."),
    ] = 100.0,
    recurrence: Annotated[
        Literal["node", "loop", "unrolled"],
        typer.Option(
            help="Recurrent layers as ONNX's own nodes, as loops whose input products stand outside, or in streams "
            "frame by frame."
        ),
    ] = "node",
    window: Annotated[
        int | None,
        typer.Option(
            min=1, max=3000, metavar="FRAMES", help="Other windows of the backward direction than it was trained with."
        ),
    ] = None,
    window_context: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=3000,
            metavar="FRAMES",
            help="What they hear beyond themselves: more is later and, up to a point, hears better.",
        ),
    ] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Keep the folder even if ONNX Runtime and PyTorch disagree.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model folder.")] = False,
) -> None:
    """Write ONNX graphs, checked against PyTorch.

    With weights and metadata. Exit code 3 if a graph disagrees, and no folder then.
    """
    from ds2_deploy.extras import EXPORT, require_all

    require_all(EXPORT)
    from ds2_deploy.commands.parity import print_report
    from ds2_deploy.errors import ConfigError
    from ds2_deploy.metadata import ModelMetadata
    from ds2_deploy.model_folder import METADATA_FILE, bundled_models
    from export.exporter import export_model

    if str(out) in bundled_models():
        raise ConfigError(f"{out} is a bundled model to every command that is given this name: choose another --out.")
    report = export_model(
        checkpoint,
        out,
        precision=precision,
        chunk_ms=chunk_ms,
        recurrence=recurrence,
        window=window,
        window_context=window_context,
        allow_mismatch=allow_mismatch,
        overwrite=overwrite,
    )
    print_report(report)
    print(f"Wrote {out}: {', '.join(sorted(path.name for path in out.iterdir()))}.")
    if obstacles := ModelMetadata.read(out / METADATA_FILE).streaming_obstacles:
        print(f"No stream.onnx, since the model cannot stream: {'; '.join(obstacles)}.")
