"""Masks of images: where they are white, an image counts; where they are black, it doesn't."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from concepts_cli.data.images import open_image, resized, to_unit
from concepts_cli.errors import UcdError, printable


def latent_mask(path: Path, size: tuple[int, int], resolution: int, resize: str, multiple: int) -> Tensor:
    """How much each place of an image's latents counts, (1, h, w) in [0, 1] for `size` (h, w).

    The mask is resized as its image is; transparent places are black. Raises UcdError if it can't be read, and if
    nothing of the image would count.
    """
    picture = resized(open_image(path, under="black").convert("L"), resolution, resize, multiple)
    mask = F.adaptive_avg_pool2d(to_unit(picture)[None], size)
    if not mask.any():
        raise UcdError(f"the mask {printable(path)} is black all over", "white is what counts; or leave its image out")
    return mask
