"""Who takes part where backends are compared: everything of a model that this machine can run."""

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from ds2_deploy.errors import BackendUnavailableError, DS2Error
from ds2_deploy.model_folder import ENGINES_FOLDER, PRECISIONS, ModelFolder, Precision, graph_file
from ds2_deploy.runtime import BACKENDS, NOT_HERE
from ds2_deploy.runtime.gpu import gpus

log = logging.getLogger(__name__)
T = TypeVar("T")


def open_all(
    open_one: Callable[[str, Precision, bool], T],
    folder: ModelFolder,
    asked: Sequence[str] = (),
    *,
    device: str = "auto",
    precisions: Sequence[str] = (),
    works: Sequence[bool] = (False, True),
    excuses: tuple[type[DS2Error], ...] = NOT_HERE,
) -> tuple[list[T], dict[str, DS2Error]]:
    """Call `open_one(backend, precision, stream)` for each backend that is `asked` for, or all, in `precisions`, or
    both, offline and as a stream; returns what it opened and, by name, why the rest cannot take part.

    With `asked`, each backend must take part in something, or its error is raised; it may lack something, such as an
    engine of the other precision (BackendUnavailableError), but every other error is raised. Without, the errors
    `excuses` are passed over.
    """
    found: list[T] = []
    refused: dict[str, DS2Error] = {}
    taking_part: set[str] = set()
    for name, precision, stream in itertools.product(dict.fromkeys(asked) or BACKENDS, PRECISIONS, works):
        if (precisions and precision not in precisions) or not _has(folder, name, precision, device, stream=stream):
            continue
        label = f"{name} {precision}{' (streams)' if stream else ''}"
        try:
            found.append(open_one(name, precision, stream))
        except excuses as error:
            if asked and not isinstance(error, BackendUnavailableError):
                raise
            log.info("Not %s: %s", label, error)
            refused[label] = error
        else:
            taking_part.add(name)
    for name in asked:
        if name not in taking_part:
            nothing = BackendUnavailableError(f"{folder.path} has nothing that {name} could run as asked.")
            raise next((error for label, error in refused.items() if label.startswith(f"{name} ")), nothing)
    return found, refused


def _has(folder: ModelFolder, backend: str, precision: Precision, device: str, *, stream: bool) -> bool:
    """Whether the model has what the backend would run. PyTorch computes from the weights in both precisions, in half
    on GPUs alone; engines are looked for wherever there are any, or could be built."""
    if stream and folder.metadata.streaming_obstacles:
        return False
    if backend == "torch":
        return precision == "fp32" or (device != "cpu" and bool(gpus()))
    graph = folder.path / graph_file(precision, stream=stream)
    return graph.is_file() or (backend == "tensorrt" and (folder.path / ENGINES_FOLDER).is_dir())
