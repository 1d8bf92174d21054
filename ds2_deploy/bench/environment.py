"""Where a report was measured: what can be read of the machine, its clocks and its load. Linux tells most."""

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from ds2_deploy import __version__
from ds2_deploy.extras import installed_packages
from ds2_deploy.files import sha256
from ds2_deploy.model_folder import ENGINES_FOLDER, ModelFolder
from ds2_deploy.runtime.bench_choice import processor_name
from ds2_deploy.runtime.devices import cpu_cores

MODULES = ("numpy", "onnxruntime", "torch", "tensorrt", "tensorrt_rtx", "pycuda")
"""Whose versions decide how fast a backend is."""
GPU_FIELDS = (
    "name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu",
    "utilization.gpu", "clocks_throttle_reasons.active",
)  # fmt: skip
GRAPHS = ("*.onnx", "*.safetensors", f"{ENGINES_FOLDER}/*")


def fixed(folder: ModelFolder, threads: int) -> dict[str, Any]:
    """What does not change while it runs."""
    return {
        "ds2_deploy": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cpu": processor_name(),
        "cores": cpu_cores(),
        "threads": threads,
        "memory_mb": _memory_mb(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "packages": installed_packages(*MODULES),
        "files": {
            str(path.relative_to(folder.path)): sha256(path)[:16]
            for pattern in GRAPHS
            for path in sorted(folder.path.glob(pattern))
            if path.is_file()
        },
    }


def changing() -> dict[str, Any]:
    """What does: None for what cannot be read here."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "load_average": None if load is None else round(load, 2),
        "cpu_mhz": _mhz(),
        "temperature_c": _temperature_c(),
        "gpus": _gpus(),
    }


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _memory_mb() -> int | None:
    with suppress(ValueError, OSError, AttributeError):  # Windows has no sysconf
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6)
    return None


def _mhz() -> float | None:
    """Mean of the cores."""
    lines = (_text("/proc/cpuinfo") or "").splitlines()
    found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(sum(found) / len(found), 1) if found else None


def _temperature_c() -> float | None:
    """Of the hottest zone."""
    readings = [_text(str(path)) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in readings if text and text.lstrip("-").isdigit()]
    return max(degrees, default=None)


def process_device_mb(pid: int) -> float | None:
    """A process's memory on all GPUs as nvidia-smi tells; None where it does not."""
    rows = _nvidia_smi("--query-compute-apps=pid,used_memory", "nounits")
    with suppress(ValueError):
        used = [float(memory) * 2**20 / 1e6 for owner, memory in rows if int(owner) == pid]
        return sum(used) if used else None
    return None


def _gpus() -> list[dict[str, str]]:
    """As nvidia-smi tells; none where it is not there. Drivers may refuse the last field, which has a new name."""
    for fields in (GPU_FIELDS, GPU_FIELDS[:-1]):
        if rows := _nvidia_smi(f"--query-gpu={','.join(fields)}"):
            return [dict(zip(fields, row, strict=False)) for row in rows]
    return []


def _nvidia_smi(query: str, *more: str) -> list[list[str]]:
    """Lines of its answer in cells; none where it is not there or gives none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, query, f"--format={','.join(('csv', 'noheader', *more))}"]
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    return []
