"""Optional packages: imported where they are used, and named with their cure where they are missing."""

import importlib
import importlib.metadata
from collections.abc import Iterable
from types import ModuleType

from ds2_deploy.errors import MissingPackageError

# module -> the extra of this project that brings it
EXTRAS = {
    "onnxruntime": "cpu",
    "onnx": "export",
    "onnxscript": "export",
    "torch": "train",
    "safetensors": "train",
    "matplotlib": "plots",
    "pyctcdecode": "lm",
    "kenlm": "lm",
    "optuna": "lm",
    "flashlight": "lm",
    "loky": "lm",
    "tensorboard": "tensorboard",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
}

TRAIN = ("torch", "safetensors")
"""Modules needed to read and write checkpoints."""
EXPORT = ("onnx", "onnxscript", *TRAIN, "onnxruntime")
"""First what names the extra that brings the others, too."""

CORE = ("numpy", "soundfile", "soxr", "webrtcvad", "msgspec", "rapidfuzz", "typer", "rich")
"""What is always there."""

PACKAGES = {
    "webrtcvad": ("webrtcvad-wheels",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "flashlight": ("flashlight-text",),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}
"""What pip calls the packages that bring a module, where that is not its own name; first the one of the extra."""


def require(module: str) -> ModuleType:
    """Import `module`, or raise MissingPackageError: with the command that installs it, or why it does not load."""
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != package:
            raise MissingPackageError(f"The package '{package}' is installed but lacks another: {error}.") from error
        raise MissingPackageError(missing_sentence(module)) from error
    except (ImportError, OSError) as error:  # a library of it, or one that it needs, is damaged or not there
        raise MissingPackageError(f"The package '{package}' is installed but does not load: {error}.") from error


def require_all(modules: Iterable[str]) -> None:
    """The same for several, before any work is done."""
    for module in modules:
        require(module)


def installed_version(package: str) -> str | None:
    """Of a package by its name for pip; None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages_of(module: str) -> tuple[str, ...]:
    """Names for pip of the packages that bring `module`: any of them."""
    top = module.split(".")[0]
    return PACKAGES.get(top, (top,))


def installed_packages(*modules: str) -> dict[str, str]:
    """Names for pip and versions of what is there of the packages that bring `modules`, in their order."""
    names = (name for module in modules for name in packages_of(module))
    return {name: version for name in names if (version := installed_version(name)) is not None}


def distribution_version(*modules: str) -> str | None:
    """The first of the same, `onnxruntime-gpu 1.27.0`; None where there is none."""
    return next((f"{name} {version}" for name, version in installed_packages(*modules).items()), None)


def missing_sentence(module: str) -> str:
    extra, package = EXTRAS[module.split(".")[0]], packages_of(module)[0]
    return f"This needs the package '{package}', which is not installed: pip install 'ds2_deploy[{extra}]'"
