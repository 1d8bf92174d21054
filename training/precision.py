"""Automatic mixed precision: in what the network computes while it learns."""

import torch

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""As torch.cpu.get_capabilities calls them: those of x86, and ARM's."""


def bf16_is_fast(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 itself; else fp32 may be faster (benchmarks/train_precision.py)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.13
        return bool(torch.cpu._is_avx512_bf16_supported())
    return any(torch.cpu.get_capabilities().get(name) for name in BF16_INSTRUCTIONS)
