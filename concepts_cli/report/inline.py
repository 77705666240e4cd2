"""Pictures inside of a page: small, each once, as a class of the style sheet that any element can wear."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from concepts_cli.data.images import open_image
from concepts_cli.errors import UcdError

QUALITY = 86


@dataclass(frozen=True)
class Inline:
    """A picture of a page: its class, its data URI, and its width over its height."""

    name: str
    uri: str
    aspect: str


@dataclass
class Gallery:
    """All pictures of a page."""

    pictures: dict[tuple[Path, int], Inline] = field(default_factory=dict)

    def add(self, path: Path, side: int) -> str | None:
        """The class of a picture no larger than `side` px, or None when it can't be read any more."""
        key = path, side
        if key not in self.pictures:
            try:
                image = open_image(path)
            except UcdError:
                return None
            name = f"p{len(self.pictures)}"
            self.pictures[key] = Inline(name, _data_uri(image, side), f"{image.width} / {image.height}")
        return self.pictures[key].name

    def __iter__(self) -> Iterator[Inline]:
        return iter(self.pictures.values())


def _data_uri(image: Image.Image, side: int) -> str:
    """WebP, or PNG for what is so small that every pixel counts."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    form = "PNG" if max(image.size) <= 96 else "WEBP"
    file = io.BytesIO()
    image.save(file, form, **({"optimize": True} if form == "PNG" else {"quality": QUALITY}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
