"""What calls return: pictures, heat maps and figures, which notebooks can show."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from concepts_cli.drawing.contact_sheet import contact_sheet
from concepts_cli.metrics.tables import tables
from concepts_cli.pictures.overlays import HeatMap as DrawnMap
from concepts_cli.pictures.overlays import MapNumbers


class Pictures(list[Image.Image]):
    """RGB pictures. Each has in `.info` what made it: prompt, seed, guidance_scale, scheduler, model and so on.

    pictures = run.sample("t1", n=4)
    pictures[0].save("first.png")
    pictures.sheet().save("all.png")
    """

    def sheet(self) -> Image.Image:
        """All of them on one page, one labelled row per prompt."""
        rows: dict[str, list[Image.Image]] = {}
        for picture in self:
            rows.setdefault(str(picture.info.get("prompt", "")), []).append(picture)
        if len(rows) == 1:
            ((title, pictures),) = rows.items()
            return contact_sheet({"": pictures}, title=title)
        return contact_sheet(rows)

    def _repr_png_(self) -> bytes | None:
        return png(self.sheet()) if self else None


@dataclass(frozen=True)
class HeatMap(MapNumbers):
    """Where a concept or a word is in a picture, and how that looks.

    `map` is (H, W) at the latents' size, in [0, 1] for a contrast; `overlay` is the page that the command writes: the
    picture, and the picture under its map.
    """

    map: Tensor = field(repr=False)
    overlay: Image.Image = field(repr=False)
    image: Path | None  # the file of a real image; None for generated pictures and for images in memory

    @classmethod
    def read(cls, drawn: DrawnMap, image: Path | None) -> HeatMap:
        """Read what `visualize` has drawn from its files."""
        numbers = {entry.name: getattr(drawn, entry.name) for entry in fields(MapNumbers)}
        heat = torch.from_numpy(np.load(str(drawn.map)))
        return cls(**numbers, map=heat, overlay=read_picture(Path(drawn.path)), image=image)

    def _repr_png_(self) -> bytes:
        return png(self.overlay)


class HeatMaps(list[HeatMap]):
    """Heat maps, and `sheet`, a page with a row per picture.

    maps = run.heat_maps("photo.jpg")
    strongest = max(maps, key=lambda heat_map: heat_map.mean)
    """

    sheet: Image.Image

    def _repr_png_(self) -> bytes:
        return png(self.sheet)


@dataclass(frozen=True)
class Evaluation(Mapping[str, Mapping[str, Any]]):
    """The results by metric: the figures of evaluation.json, None for one that is infinite or undefined.

    evaluation = run.evaluate("clip")
    evaluation["clip"]["accuracy"]
    """

    metrics: dict[str, dict[str, Any]]

    def __getitem__(self, metric: str) -> dict[str, Any]:
        return self.metrics[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def _repr_html_(self) -> str:
        return "".join(_table(*table) for table in tables(self.metrics))


def read_picture(path: Path) -> Image.Image:
    """An RGB picture that no longer needs its file, with the text that the file carries in `.info`."""
    with Image.open(path) as file:
        file.load()
        return file.convert("RGB")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    lines = [_cells("th", columns), *(_cells("td", row) for row in rows)]
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    return f"<table>{caption}{''.join(lines)}</table>"


def _cells(tag: str, texts: Sequence[str | None]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text or str())}</{tag}>' for text in texts)}</tr>"
