"""Where inference runs: one protocol, several backends. A new one is a class and a line in BACKENDS."""

import importlib
import logging
from collections.abc import Callable

from ds2_deploy.errors import BackendUnavailableError, ConfigError, MissingPackageError
from ds2_deploy.extras import EXTRAS, missing_sentence
from ds2_deploy.model_folder import ModelFolder
from ds2_deploy.runtime.engine_info import Precision
from ds2_deploy.runtime.protocol import Backend

BACKENDS = {
    "onnxruntime": "ds2_deploy.runtime.ort_backend:OrtBackend",
    "torch": "ds2_deploy.runtime.torch_backend:TorchBackend",
}
"""Name -> module:class, imported on use. The order is the one in which `auto` tries them."""

log = logging.getLogger(__name__)


def open_backend(
    name: str, model: ModelFolder, *, device: str = "auto", precision: Precision = "fp32", threads: int | None = None
) -> Backend:
    """Load `model` on `device` (`auto`, `cpu` or `cuda:N`).

    `threads`: CPU threads of one run, None for what the backend thinks best. `auto` takes the first backend that
    is installed and has the device.
    """
    if name == "auto":
        return _first_available(model, device, precision, threads)
    backend = _backend_class(name)(model, device=device, precision=precision, threads=threads)
    log.info("%s runs on %s (%s, %s)", model.path, backend.name, backend.device, precision)
    return backend


def _first_available(model: ModelFolder, device: str, precision: Precision, threads: int | None) -> Backend:
    errors = []
    for name in BACKENDS:
        try:
            return open_backend(name, model, device=device, precision=precision, threads=threads)
        except (MissingPackageError, BackendUnavailableError) as error:
            log.info("Not %s: %s", name, error)
            errors.append(error)
    raise errors[0]  # the preferred one's, which says what to install


def _backend_class(name: str) -> Callable[..., Backend]:
    if name == "tensorrt":
        raise BackendUnavailableError(
            "This version builds TensorRT engines but does not run them yet: choose the backend onnxruntime."
        )
    if name not in BACKENDS:
        raise ConfigError(f"There is no backend {name!r}: choose auto, {', '.join(BACKENDS)} or tensorrt.")
    module, class_name = BACKENDS[name].split(":")
    try:
        backend_class: Callable[..., Backend] = getattr(importlib.import_module(module), class_name)
    except ImportError as error:
        if error.name not in EXTRAS:
            raise
        raise MissingPackageError(missing_sentence(error.name)) from error
    return backend_class


def cuda_ordinal(device: str) -> int | None:
    """`cuda:N` -> N, `cuda` -> 0, `cpu` and `auto` -> None; ConfigError for anything else."""
    if device in ("auto", "cpu"):
        return None
    kind, _, ordinal = device.partition(":")
    if kind != "cuda" or not (ordinal.isdecimal() or device == "cuda"):
        raise ConfigError(f"There is no device {device!r}: choose auto, cpu or cuda:N, such as cuda:0.")
    return int(ordinal or 0)
