"""Where inference runs: one protocol, several backends. A new one is a class and a line in BACKENDS."""

import importlib
import logging
from typing import Any

from ds2_deploy.errors import BackendUnavailableError, ConfigError, DS2Error, EngineError, MissingPackageError
from ds2_deploy.extras import EXTRAS, missing_sentence
from ds2_deploy.model_folder import ModelFolder, Precision
from ds2_deploy.runtime.bench_choice import Work, in_order
from ds2_deploy.runtime.protocol import Backend, StreamBackend

BACKENDS = {
    "tensorrt": "ds2_deploy.runtime.trt_backend:TensorRTBackend",
    "onnxruntime": "ds2_deploy.runtime.ort_backend:OrtBackend",
    "torch": "ds2_deploy.runtime.torch_backend:TorchBackend",
}
"""Name -> module:class, imported on use. The order is the one in which `auto` tries them."""
STREAM_BACKENDS = {
    "tensorrt": "ds2_deploy.runtime.trt_backend:TensorRTStreamBackend",
    "onnxruntime": "ds2_deploy.runtime.ort_backend:OrtStreamBackend",
    "torch": "ds2_deploy.runtime.torch_backend:TorchStreamBackend",
}
"""The same for streams."""

NOT_HERE = (MissingPackageError, BackendUnavailableError, EngineError)
"""Why a backend cannot run on this machine: another one may."""

log = logging.getLogger(__name__)


def open_backend(
    name: str, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
) -> Backend:
    """Load `model` on `device` (`auto`, `cpu` or `cuda:N`).

    `threads`: CPU threads of one run, None for what the backend thinks best. `auto` takes the first backend that
    is installed and has the device, in the order of the model's bench report where that was made on this machine.
    """
    backend: Backend = _open("offline", name, model, device=device, precision=precision, threads=threads)
    return backend


def open_stream_backend(
    name: str, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
) -> StreamBackend:
    """The same for streams; ModelError where the model cannot stream, which says what stands in the way."""
    model.metadata.check_can_stream(model.path)
    backend: StreamBackend = _open("stream", name, model, device=device, precision=precision, threads=threads)
    return backend


def check_backend(name: str) -> str:
    """The name; ConfigError where there is no backend of that name."""
    if name not in BACKENDS:
        raise ConfigError(f"There is no backend {name!r}: choose {', '.join(BACKENDS)}.")
    return name


def _table(work: Work) -> dict[str, str]:
    return BACKENDS if work == "offline" else STREAM_BACKENDS


def _open(work: Work, name: str, model: ModelFolder, **options: Any) -> Any:
    if name == "auto":
        return _first_available(work, model, options)
    backend = _backend_class(_table(work), name)(model, **options)
    log.info("%s runs on %s (%s, %s)", model.path, backend.name, backend.device, options["precision"])
    return backend


def _first_available(work: Work, model: ModelFolder, options: dict[str, Any]) -> Any:
    errors = {}
    for name in in_order(list(_table(work)), model, work):
        try:
            return _open(work, name, model, **options)
        except NOT_HERE as error:
            log.info("Not %s: %s", name, error)
            errors[name] = error
    raise errors["onnxruntime"]  # the one to have anywhere: it says what to install


def _backend_class(table: dict[str, str], name: str) -> Any:
    if name not in table:
        raise ConfigError(f"There is no backend {name!r}: choose auto, {', '.join(table)}.")
    module, class_name = table[name].split(":")
    try:
        return getattr(importlib.import_module(module), class_name)
    except DS2Error:
        raise
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise BackendUnavailableError(f"The backend {name} does not load: {error}.") from error
        raise MissingPackageError(missing_sentence(error.name)) from error
    except (ImportError, OSError) as error:  # a library that is damaged, or lacks another
        raise BackendUnavailableError(f"The backend {name} does not load: {error}.") from error
