"""Automatic mixed precision: in what the network computes while it learns."""

import time

import torch
from torch import Tensor

from ds2_deploy.model.deepspeech2 import DeepSpeech2, log_softmax

AUTOCAST = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in; tf32 is fp32 whose products a GPU may round (`allow_tf32`)."""
PRODUCTS = 7
"""That are timed; the first prepares the library, the shortest counts."""


def bf16_is_fast(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 faster than fp32.

    A CPU is timed at it, a quarter of a second: instructions for bf16 say little. Two processors with AVX-512 BF16 are
    2.4 and 0.77 times as fast with it (benchmarks/train_precision.py).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # whose time is all there is then, without what else the machine does
    try:
        seconds = {dtype: min(products_s(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def products_s(dtype: torch.dtype) -> list[float]:
    """CPU seconds of a product that a recurrent layer of 256 units has for a minute of frames, each time it is done."""
    frames, weights, seconds = torch.ones(3000, 256, dtype=dtype), torch.ones(256, 768, dtype=dtype), []
    for _ in range(PRODUCTS):
        started = time.thread_time()
        frames @ weights
        seconds.append(time.thread_time() - started)
    return seconds


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
    """What `model` makes of audio (B, S): (B, T, V) in float32, of which `frames` (B,) are a recording's."""
    features, frames = model.frontend(audio, lengths)
    dtype = AUTOCAST[precision]
    with torch.autocast(features.device.type, dtype=dtype, enabled=dtype is not None):
        logits, frames = model.encoder(features, frames)
    return log_softmax(logits), frames
