"""ds2 import: a checkpoint of another DeepSpeech2 code becomes one of ds2."""

from pathlib import Path
from typing import Annotated

import typer

from ds2_deploy.commands.common import path_argument, path_option


def import_(
    checkpoint: Annotated[
        Path, path_argument(metavar="CHECKPOINT", help="A file of deepspeech.pytorch 2 or 3, or of the thesis' code.")
    ],
    out: Annotated[Path, path_option(metavar="RUN", help="Folder for best.pt, which ds2 export reads.")],
    language: Annotated[str, typer.Option(help="How texts are spelled when errors are counted.")] = "en",
) -> None:
    """Read a checkpoint of another DeepSpeech2 code.

    Nothing in it is run. What is written is the same network.
    """
    from ds2_deploy.commands.common import usage_errors
    from ds2_deploy.extras import TRAIN, require_all
    from ds2_deploy.text.languages import language_named

    with usage_errors():
        language_named(language)
    require_all(TRAIN)
    from ds2_deploy.commands.info import info
    from ds2_deploy.errors import OutputError
    from ds2_deploy.importing import import_checkpoint
    from training.run_folder import RunFolder

    folder = RunFolder(out)
    if any(file.exists() for file in (folder.best, folder.last, folder.log)):
        raise OutputError(f"{out} already holds a training: choose another --out.")
    import_checkpoint(checkpoint, language=language).save(folder.best)
    info(str(folder.best))
