"""Which backends were fastest here, as a bench report in the model folder says.

MODEL/bench.json may hold other fields; `--backend auto` reads these:

    {"machine": "NVIDIA H200", "fastest": {"offline": ["tensorrt", "torch"], "stream": ["torch"]}}
"""

import logging
import platform
from pathlib import Path
from typing import Literal

import msgspec

from ds2_deploy.errors import ModelError
from ds2_deploy.model_folder import BENCH_FILE, ModelFolder
from ds2_deploy.runtime.gpu import gpus
from ds2_deploy.structs import read_struct

log = logging.getLogger(__name__)
Work = Literal["offline", "stream"]


class BenchChoice(msgspec.Struct, frozen=True):
    """What a bench report says about the backends of one machine."""

    machine: str
    """As `machine_name` gives it."""
    fastest: dict[Work, list[str]]
    """Names of backends, the fastest first."""


def machine_name() -> str:
    """Of the first GPU, else of the processor: what decides how fast a backend is."""
    if present := gpus():
        return present[0].name
    return processor_name()


def processor_name() -> str:
    """As Linux or the platform calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def in_order(backends: list[str], model: ModelFolder, work: Work) -> list[str]:
    """`backends` as a bench report of this machine orders them; as they are where there is none.

    ModelError where the report cannot be read.
    """
    path = model.path / BENCH_FILE
    if not path.is_file():
        return backends
    choice = read_struct(path, BenchChoice, ModelError, "is no bench report", "; remove it, or measure again")
    if choice.machine != (here := machine_name()):
        log.info("%s was measured on %s, and this is %s: not heeded.", path, choice.machine, here)
        return backends
    measured = [name for name in choice.fastest.get(work, []) if name in backends]
    log.info("%s says that %s is the fastest here.", path, " before ".join(measured) or "nothing")
    return measured + [name for name in backends if name not in measured]
