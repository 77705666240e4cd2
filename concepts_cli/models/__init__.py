"""Model families, one per file, and the function that chooses among them. May import mini, data and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from concepts_cli.models.stable_diffusion import StableDiffusion

BUILT_IN = "mini"


def load_model(
    name: str,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> StableDiffusion:
    """Load a frozen text-to-image model by hub id, local folder, or `mini` for the one that ships with this package.

    `device` defaults to the first CUDA device, then Apple's, then the CPU; `dtype` to float16 on CUDA and float32
    elsewhere. Raises UcdError when there is no such model or it belongs to a family that is not supported.
    """
    from concepts_cli.models.stable_diffusion import StableDiffusion

    return StableDiffusion.load(name, revision=revision, device=device, dtype=dtype)
