"""Names of devices, and how much they do at once."""

import os

from ds2_deploy.errors import ConfigError

GPU_WORKERS = 2
"""Batches at once on a GPU: one is padded or read out while the other computes."""


def cuda_ordinal(device: str) -> int | None:
    """`cuda:N` -> N, `cuda` -> 0, `cpu` and `auto` -> None; ConfigError for anything else."""
    if device in ("auto", "cpu"):
        return None
    kind, _, ordinal = device.partition(":")
    if kind != "cuda" or not (ordinal.isdecimal() or device == "cuda"):
        raise ConfigError(f"There is no device {device!r}: choose auto, cpu or cuda:N, such as cuda:0.")
    return int(ordinal or 0)


def cpu_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
