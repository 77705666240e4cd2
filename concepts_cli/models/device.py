"""Which device a model goes to."""

from __future__ import annotations

from typing import Literal

import torch

from concepts_cli.errors import UcdError


def default_precision(device: torch.device) -> Literal["fp32", "fp16"]:
    return "fp16" if device.type == "cuda" else "fp32"


def chosen_device(name: str | torch.device | None = None) -> torch.device:
    """`name`, or the best there is: the first CUDA device, then Apple's, then the CPU.

    Raises UcdError for a device that isn't there.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UcdError(f"no such device: {name!r}", "cuda, cuda:1, mps or cpu") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(
        device.type, 0
    )
    if (device.index or 0) >= there:
        raise UcdError(
            f"no device {name!r} here",
            f"there is {chosen_device()}" + (", and cpu" if chosen_device().type != "cpu" else ""),
        )
    return device
