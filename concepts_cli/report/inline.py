"""Pictures embedded in a page: small, each stored once as a CSS class that any element can use."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from concepts_cli.data.images import open_image
from concepts_cli.errors import UcdError
from concepts_cli.runs.reading import read_bytes

QUALITY = 86


@dataclass(frozen=True)
class Inline:
    """An embedded picture: its CSS class, its data URI, and its aspect ratio."""

    name: str
    uri: str
    aspect: str


@dataclass
class Gallery:
    """All pictures of a page."""

    pictures: dict[tuple[Path, int], Inline] = field(default_factory=dict)

    def add(self, path: Path, side: int, sha256: str | None = None) -> str | None:
        """Add a picture of at most `side` px and return its class, or None if it can't be read.

        With `sha256`, the file must have it: a run from elsewhere can't have any picture of this disk on its page.
        """
        key = path, side
        if key not in self.pictures:
            if not path.is_file():  # a FIFO would wait for its writer
                return None
            try:
                if sha256 and hashlib.sha256(read_bytes(path)).hexdigest() != sha256:
                    return None
                image = open_image(path)
            except (OSError, UcdError):
                return None
            name = f"p{len(self.pictures)}"
            self.pictures[key] = Inline(name, _data_uri(image, side), f"{image.width} / {image.height}")
        return self.pictures[key].name

    def __iter__(self) -> Iterator[Inline]:
        return iter(self.pictures.values())


def _data_uri(image: Image.Image, side: int) -> str:
    """WebP, or PNG for images so small that every pixel counts."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    form = "PNG" if max(image.size) <= 96 else "WEBP"
    file = io.BytesIO()
    image.save(file, form, **({"optimize": True} if form == "PNG" else {"quality": QUALITY}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
