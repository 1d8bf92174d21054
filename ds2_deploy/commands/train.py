"""ds2 train: a recipe and manifests to a checkpoint."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ds2_deploy.commands.common import Device, path_option

KERNELS_KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16"
"""oneDNN keeps its last 1024 kernels, each made for one shape, which takes gigabytes: no two batches have one shape."""


def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A recipe: a .toml file or the name of a bundled one.")
    ],
    train_manifest: Annotated[
        list[Path], path_option("--train", metavar="M.jsonl", help="What to learn from; may be given several times.")
    ],
    valid_manifest: Annotated[
        list[Path],
        path_option("--valid", metavar="M.jsonl", help="What to choose the best epoch by; may be several."),
    ],
    out: Annotated[Path, path_option(metavar="RUN", help="Folder for best.pt, last.pt, recipe.toml and log.jsonl.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from RUN/last.pt and its --set.")] = False,
    init_from: Annotated[
        Path | None,
        path_option(
            metavar="MODEL|CHECKPOINT", help="Start from these weights instead of random ones; not read with --resume."
        ),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="key=value", help="Change the recipe, e.g. model.rnn_size=512.")
    ] = None,
    device: Device = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write events for TensorBoard to RUN/tensorboard, too.")
    ] = False,
) -> None:
    """Train a model; `torchrun --nproc-per-node N -m ds2_deploy train ...` uses N processes."""
    from ds2_deploy.commands.common import usage_errors
    from ds2_deploy.extras import TRAIN, require_all
    from training.recipe import load_recipe

    os.environ.setdefault(*KERNELS_KEPT)  # read when the first kernel is made
    require_all(TRAIN)
    from training.resume import resumed_recipe
    from training.trainer import train as run

    load_recipe(config, [])  # what is wrong here is the file's fault, what is wrong below the command line's
    overrides = override or []
    with usage_errors():
        if resume:
            recipe, overrides = resumed_recipe(config, out, overrides)
        else:
            recipe = load_recipe(config, overrides)
    run(
        recipe,
        train_manifest,
        valid_manifest,
        out,
        resume=resume,
        init_from=init_from,
        device=device,
        tensorboard=tensorboard,
        overrides=overrides,
    )
