"""Where in a picture a term acts: its weight becomes a map over the latents.

Shapes: H W latents.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from concepts_cli.data.images import SUFFIXES, open_image, to_unit
from concepts_cli.errors import UcdError, did_you_mean, shown
from concepts_cli.paths import public_path

Box = tuple[float, float, float, float]  # left, top, right and bottom, in shares of the picture

NAMED: dict[str, Box] = {
    "left": (0, 0, 0.5, 1),
    "right": (0.5, 0, 1, 1),
    "top": (0, 0, 1, 0.5),
    "bottom": (0, 0.5, 1, 1),
    "middle": (0.25, 0.25, 0.75, 0.75),
    "top-left": (0, 0, 0.5, 0.5),
    "top-right": (0.5, 0, 1, 0.5),
    "bottom-left": (0, 0.5, 0.5, 1),
    "bottom-right": (0.5, 0.5, 1, 1),
}
HINT = f"a place is one of {', '.join(NAMED)}; four shares LEFT,TOP,RIGHT,BOTTOM such as 0.5,0,1,1; or a mask image"


@dataclass(frozen=True)
class Place:
    """A box, or the bright and opaque part of a mask image, with the name it was given."""

    name: str
    box: Box | None = None
    mask: Path | None = None

    @cached_property
    def covers_everything(self) -> bool:
        if self.mask:
            return bool((self._pixels == 1).all())
        return self.box == (0, 0, 1, 1)

    @property
    def fingerprint(self) -> str:
        """The name, plus a hash of a mask's pixels: masks of the same name may differ."""
        if not self.mask:
            return self.name
        return f"{self.mask.name} {hashlib.sha256(self._pixels.numpy().tobytes()).hexdigest()[:8]}"

    def shares(self, height: int, width: int) -> Tensor:
        """The share of each latent cell that lies in the place: (H, W), from 0 to 1."""
        if self.mask:
            return F.interpolate(self._pixels[None, None], (height, width), mode="area")[0, 0]
        left, top, right, bottom = self.box or (0, 0, 1, 1)
        return torch.outer(_covered(top, bottom, height), _covered(left, right, width))

    @cached_property
    def _pixels(self) -> Tensor:  # of the mask, (height, width), from 0 to 1
        assert self.mask is not None  # nosec B101
        return to_unit(open_image(self.mask, under="black").convert("L"))


def _covered(start: float, end: float, count: int) -> Tensor:
    """The share of each of `count` equal cells that lies between two shares of the whole: (count,)."""
    edges = torch.arange(count + 1) / count
    return ((edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)) * count).clamp(0, 1)


def is_place(text: str) -> bool:
    """Whether a place is meant rather than words: a name, four shares or the file of an image."""
    name = text.strip()
    return name.lower() in NAMED or name.count(",") == 3 or Path(name).suffix.lower() in SUFFIXES


def parse_place(text: str) -> Place:
    """`left`, `0.5,0,1,1` or `mask.png`. Raises UcdError for what is neither a place nor a readable picture."""
    name = text.strip()
    if name.lower() in NAMED:
        return Place(name.lower(), NAMED[name.lower()])
    parts = name.split(",")
    if len(parts) == 4:
        try:
            left, top, right, bottom = (float(part) for part in parts)
        except ValueError as error:
            raise UcdError(f"{shown(name)!r} has a share that is not a number", HINT) from error
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise UcdError(
                f"{shown(name)!r} is not a box inside the picture", "0 <= LEFT < RIGHT <= 1, 0 <= TOP < BOTTOM <= 1"
            )
        return Place(f"{left:g},{top:g},{right:g},{bottom:g}", (left, top, right, bottom))
    if Path(name).suffix:
        path = Path(name)
        place = Place(public_path(path), mask=path)
        if not place._pixels.any():
            raise UcdError(f"the mask {name} is entirely black", "a term acts where its mask is bright")
        return place
    raise UcdError(f"no such place: {shown(name)!r}", did_you_mean(name, tuple(NAMED), otherwise=HINT))
