"""What one takes along to a GPU machine, or makes there, for gpu_check.py: a little speech, networks of any size."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from machine import spread

from ds2_deploy.manifest import read_manifest
from ds2_deploy.model_folder import METADATA_FILE, WEIGHTS_FILE
from training.recipe import load_recipe

PACKED = {"an4/test.jsonl": 130, "digits/test.jsonl": 100, "librispeech-mini/valid.jsonl": 40}
"""Utterances taken from each manifest, evenly spread."""
LARGEST_PACK = 30 << 20


def pack(
    data: Annotated[Path, typer.Option(help="The folder of the corpora.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
) -> None:
    """Take a little of every corpus along, as FLAC with manifests."""
    import soundfile

    from ds2_deploy.audio.load import load_audio

    size = 0
    for name, count in PACKED.items():
        if not (data / name).exists():
            continue
        folder, lines = out / Path(name).parent, []
        folder.mkdir(parents=True, exist_ok=True)
        for number, utterance in enumerate(spread(read_manifest(data / name), count)):
            file = folder / f"{number:04}.flac"
            soundfile.write(file, load_audio(utterance.path, 16_000), 16_000)
            size += file.stat().st_size
            entry = {"audio_filepath": file.name, "duration": utterance.duration_s, "text": utterance.text}
            lines.append(json.dumps(entry))
        (out / name).write_text("\n".join(lines) + "\n")
    typer.echo(f"{size / (1 << 20):.1f} MiB in {out}")
    if size > LARGEST_PACK:
        raise typer.Exit(1)


def untrained(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a bundled recipe.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    recurrence: Annotated[
        Literal["node", "loop", "unrolled"] | None,
        typer.Option(help="Export graphs of this form; without it `run` exports what it needs, as nodes."),
    ] = None,
) -> None:
    """Write a recipe's network with its first weights, which is as fast as when it has learnt."""
    import torch
    from train_precision import metadata_of

    from ds2_deploy.model.checkpoint import save_weights
    from ds2_deploy.model.deepspeech2 import DeepSpeech2
    from ds2_deploy.model.initialize import initialize

    if (out / METADATA_FILE).exists():
        raise typer.BadParameter(f"{out} already holds a model: choose another --out.")
    found = load_recipe(recipe, settings or [])
    torch.manual_seed(found.seed)
    model = DeepSpeech2(metadata_of(found))
    initialize(model, found.initialization)
    out.mkdir(parents=True, exist_ok=True)
    (out / METADATA_FILE).write_text(model.metadata.to_json() + "\n", encoding="utf-8")
    save_weights(model, out / WEIGHTS_FILE)
    if recurrence:
        from export.exporter import export_model

        export_model(out, out, recurrence=recurrence, allow_mismatch=True, overwrite=True)  # `run` compares
    typer.echo(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters in {out}")
