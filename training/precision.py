"""Automatic mixed precision: in what the network computes while it learns."""

import torch
from torch import Tensor

from ds2_deploy.model.deepspeech2 import DeepSpeech2, log_softmax

AUTOCAST = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in; tf32 is fp32 whose products a GPU may round (`allow_tf32`)."""
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""As torch.cpu.get_capabilities calls them: those of x86, and ARM's."""


def bf16_is_fast(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 itself; else fp32 may be faster (benchmarks/train_precision.py)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.13
        return bool(torch.cpu._is_avx512_bf16_supported())
    return any(torch.cpu.get_capabilities().get(name) for name in BF16_INSTRUCTIONS)


def has_tf32(device: torch.device) -> bool:
    """Whether `device` knows TF32: GPUs from compute capability 8.0 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def allow_tf32(allowed: bool) -> None:
    """Of products and convolutions on a GPU, in this process; the spectrogram's stays exact (model/frontend.py)."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def is_scaled(precision: str, device: torch.device) -> bool:
    """Whether losses are scaled, lest gradients vanish: in fp16, and on a GPU in bf16, too, where PyTorch's autocast
    hands recurrent layers to cuDNN in fp16 whichever half is asked for (aten/src/ATen/cudnn/AutocastRNN.cpp)."""
    return precision == "fp16" or (precision == "bf16" and device.type == "cuda")


def log_probs(model: DeepSpeech2, audio: Tensor, lengths: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """What `model` makes of audio (B, N): (B, T, V) in float32, of which `frames` (B,) are a recording's."""
    features, frames = model.frontend(audio, lengths)
    dtype = AUTOCAST[precision]
    with torch.autocast(features.device.type, dtype=dtype, enabled=dtype is not None):
        logits, frames = model.encoder(features, frames)
    return log_softmax(logits), frames
