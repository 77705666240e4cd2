"""Pictures to and from the page, as data URLs, and those that stand for a run's images and concepts."""

from __future__ import annotations

import base64
import binascii
import io
from functools import cached_property
from pathlib import Path

from PIL import Image

from concepts_cli.data.images import FORMATS, upright_rgb
from concepts_cli.errors import UcdError
from concepts_cli.interface import Run
from concepts_cli.interface.results import png
from concepts_cli.report.inline import Gallery
from concepts_cli.report.measures import Measures, describe_name
from concepts_cli.runs.run import Run as RunFolder

THUMBNAIL = 192  # px


def to_data(picture: Image.Image) -> str:
    """A picture as the data URL of a PNG."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def from_data(url: str) -> Image.Image:
    """The picture in a data URL, upright and in RGB. Raises UcdError for anything else."""
    try:
        whole = base64.b64decode(url.partition(",")[2], validate=True)
        with Image.open(io.BytesIO(whole), formats=FORMATS) as file:
            return upright_rgb(file)
    except (OSError, ValueError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise UcdError("this file can't be read as an image", "PNG, JPEG and WebP work") from error


class RunPictures:
    """The pictures that stand for a run's images and concepts, and what the concepts seem to show."""

    def __init__(self, run: Run):
        self.run, self._gallery, self._folder = run, Gallery(), RunFolder(run.path)

    @property
    def has_images(self) -> bool:
        return self._folder.has_images()

    def title(self, row: int) -> str:
        return Path(self.run.images[row].path).name

    def thumbnail(self, row: int) -> str | None:
        """A training image as a data URL; None if it is gone, or is not the one that was trained on."""
        if not 0 <= row < len(self.run.images):
            return None
        record = self.run.images[row]
        key = Path(record.path), THUMBNAIL
        return self._gallery.pictures[key].uri if self._gallery.add(*key, record.sha256) else None

    @cached_property
    def faces(self) -> list[str | None]:
        """The image with most of each concept."""
        if not self.has_images:
            return [None] * len(self.run.concepts)
        return [self.thumbnail(row) for row in self.run.weights.argmax(dim=0).tolist()]

    @cached_property
    def guesses(self) -> dict[str, str]:
        """What the scores say that each concept shows, where they were measured."""
        naming = Measures(self._folder, {}).metrics.get("naming", {})
        return {name: describe_name(concept).guess for name, concept in naming.get("concepts", {}).items()}
