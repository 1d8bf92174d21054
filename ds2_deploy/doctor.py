"""What this machine can run, and why not the rest."""

import platform
from collections.abc import Callable
from typing import Any, NamedTuple

from ds2_deploy import __version__
from ds2_deploy.errors import BackendUnavailableError, DS2Error, MissingPackageError, ModelNotFoundError
from ds2_deploy.extras import CORE, EXPORT, EXTRAS, installed_packages, installed_version, packages_of, require
from ds2_deploy.model_folder import bundled_models, open_model
from ds2_deploy.runtime import trt
from ds2_deploy.runtime.cuda_device import pycuda_driver
from ds2_deploy.runtime.devices import cpu_cores
from ds2_deploy.runtime.gpu import gpus
from ds2_deploy.runtime.ort_backend import OrtBackend


class Check(NamedTuple):
    """One ability of this machine."""

    name: str
    works: bool
    detail: str
    """What was found; or what is missing and what to do."""


def examine() -> dict[str, Any]:
    """Everything `ds2 doctor` tells, as plain data."""
    return {
        "ds2_deploy": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu_cores": cpu_cores(),
        "packages": _packages(),
        "checks": [_check(name, look)._asdict() for name, look in ABILITIES.items()],
    }


def _packages() -> dict[str, str | None]:
    """Versions by the packages' names for pip; None where a module has none of its packages."""
    found: dict[str, str | None] = {}
    for module in (*CORE, *EXTRAS, "pycuda"):
        found |= installed_packages(module) or dict.fromkeys(packages_of(module)[:1])
    return found


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except DS2Error as error:
        return Check(name, False, str(error))
    except Exception as error:  # a package that is there but broken: say so, and go on
        return Check(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _audio() -> str:
    import soundfile

    missing = {"WAV", "FLAC", "OGG", "MP3", "AIFF"} - soundfile.available_formats().keys()
    if "OPUS" not in soundfile.available_subtypes("OGG"):
        missing.add("Opus")
    if missing:
        raise MissingPackageError(
            f"libsndfile {soundfile.__libsndfile_version__} reads no {', '.join(sorted(missing))}: "
            "pip install --upgrade soundfile, which brings 1.2 or later."
        )
    return f"WAV, FLAC, OGG, Opus, MP3, AIFF and more, by libsndfile {soundfile.__libsndfile_version__}"


def _models() -> str:
    if not (names := bundled_models()):
        raise ModelNotFoundError("None is installed: name a model folder with --model.")
    return ", ".join(names)


def _gpu() -> str:
    if not (found := gpus()):
        raise BackendUnavailableError("The NVIDIA driver (libcuda) is not installed, or it finds no GPU.")
    return "; ".join(f"cuda:{ordinal} {gpu}" for ordinal, gpu in enumerate(found))


def _onnxruntime_cpu() -> str:
    ort = require("onnxruntime")
    if installed_version("onnxruntime") and installed_version("onnxruntime-gpu"):
        raise MissingPackageError(
            "Both onnxruntime and onnxruntime-gpu are installed, and one breaks the other: pip uninstall both, then "
            "pip install 'ds2_deploy[cpu]' or 'ds2_deploy[gpu]'."
        )
    return f"onnxruntime {ort.__version__} with {', '.join(ort.get_available_providers())}"


def _onnxruntime_gpu() -> str:
    """With a model: only a session shows whether the CUDA libraries are there."""
    return OrtBackend(open_model("default"), device="cuda:0").device


def _torch() -> str:
    return f"torch {require('torch').__version__}"


def _torch_gpu() -> str:
    torch = require("torch")
    if not torch.cuda.is_available():
        built = f"it is built for CUDA {torch.version.cuda}" if torch.version.cuda else "it is built without CUDA"
        raise BackendUnavailableError(f"torch {torch.__version__} can use no GPU here: {built}.")
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}"


def _export() -> str:
    return ", ".join(f"{name} {require(name).__version__}" for name in EXPORT)


def _tensorrt() -> str:
    return trt.choose("tensorrt").title


def _tensorrt_rtx() -> str:
    return trt.choose("tensorrt-rtx").title


def _run_engines() -> str:
    pycuda_driver()
    if not any(map(trt.installed, trt.MODULES)):
        raise MissingPackageError("Neither TensorRT nor TensorRT-RTX is installed.")
    return f"pycuda {installed_version('pycuda')}, on {_gpu()}"


def _beam_search() -> str:
    for module in ("pyctcdecode", "kenlm", "flashlight", "loky"):
        require(module)
    return "with language models, by pyctcdecode and flashlight"


ABILITIES = {
    "read audio": _audio,
    "bundled models": _models,
    "NVIDIA GPU": _gpu,
    "onnxruntime on the CPU": _onnxruntime_cpu,
    "onnxruntime on a GPU": _onnxruntime_gpu,
    "torch, for training": _torch,
    "torch on a GPU": _torch_gpu,
    "export to ONNX": _export,
    "build engines, TensorRT": _tensorrt,
    "build engines, TensorRT-RTX": _tensorrt_rtx,
    "run engines": _run_engines,
    "beam search": _beam_search,
}
