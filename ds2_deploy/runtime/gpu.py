"""Which NVIDIA GPUs this process may use, asked of the driver itself: no torch, no CUDA toolkit."""

import ctypes
import sys
from collections.abc import Sequence
from typing import NamedTuple

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute in cuda.h


class Gpu(NamedTuple):
    """One GPU, in the driver's order (`CUDA_VISIBLE_DEVICES` counts)."""

    name: str
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (compute capability {'.'.join(map(str, self.compute_capability))})"


def gpus() -> list[Gpu]:
    """All usable GPUs; none where there is no driver, or where the driver finds no device."""
    cuda, count = driver_library(), ctypes.c_int()
    if cuda is None or cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_describe(cuda, ordinal) for ordinal in range(count.value)]


def missing_gpu(present: Sequence[Gpu]) -> str:
    """Half a sentence on what there is instead of the GPU that was asked for.

    >>> missing_gpu([])
    'no NVIDIA GPU or driver was found'
    """
    return f"only {len(present)} GPUs were found" if present else "no NVIDIA GPU or driver was found"


def driver_library() -> ctypes.CDLL | None:
    """NVIDIA's driver, where there is one."""
    try:
        return ctypes.CDLL(_DRIVER)
    except OSError:
        return None


def _describe(cuda: ctypes.CDLL, ordinal: int) -> Gpu:
    device, value, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    cuda.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return Gpu(name.value.decode(errors="replace"), (capability[0], capability[1]))
