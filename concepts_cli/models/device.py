"""Choose the device and the precision of a model."""

from __future__ import annotations

from typing import Literal

import torch

from concepts_cli.errors import UcdError

DTYPES = {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def default_precision(device: torch.device) -> Literal["fp32", "fp16"]:
    """The precision of a model on `device` if none is asked for."""
    return "fp16" if device.type == "cuda" else "fp32"


def half_precision() -> Literal["fp16", "bf16"]:
    """The half precision to train with on this GPU: bf16 where it computes in it, since that can't overflow."""
    fits = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if fits else "fp16"


def chosen_device(name: str | torch.device | None = None) -> torch.device:
    """`name`, or the fastest available: the first CUDA device, then Apple's, then the CPU.

    Raises UcdError for a device that doesn't exist.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UcdError(f"no such device: {name!r}", "cuda, cuda:1, mps or cpu") from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(
        device.type, 0
    )
    if (device.index or 0) >= count:
        raise UcdError(
            f"no device {name!r} here",
            f"available: {chosen_device()}" + (", cpu" if chosen_device().type != "cpu" else ""),
        )
    return device


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on `device`; on CUDA from pinned memory, so that the process doesn't wait until the GPU gets to it."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def dtype_of(precision: str | None) -> torch.dtype | None:
    """The dtype of a recipe's precision; `no` is accelerate's word for fp32, None leaves it to the model's device."""
    return DTYPES[precision] if precision else None
