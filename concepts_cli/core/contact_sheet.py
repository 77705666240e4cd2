"""Many pictures on one page: a row a concept, what they were found in on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from concepts_cli.core.overlay import FAINT, INK, PAPER

CELL, GAP, MARGIN, LABEL = 112, 6, 24, 64  # px


def contact_sheet(rows: Mapping[str, Sequence[Image.Image]], *, columns: int = 10) -> Image.Image:
    """A labelled row for each entry, of its first `columns` pictures."""
    longest = max(len(pictures) for pictures in rows.values())
    columns = max(1, min(columns, longest))
    page = _page(columns, len(rows) * (CELL + GAP) - GAP + 2 * MARGIN)
    _rows(page, rows, top=MARGIN, columns=columns)
    return page


def overview(
    images: Sequence[Image.Image], rows: Mapping[str, Sequence[Image.Image]], *, total: int, columns: int = 10
) -> Image.Image:
    """What went in and what came out: the training images, small, above a labelled row of samples a concept.

    `images` are some or all of the `total` training images; at most `columns` samples a row are drawn.
    """
    columns = max(6, min(columns, max(len(pictures) for pictures in rows.values())))
    across = -(
        -len(images) // -(-len(images) // (2 * columns))
    )  # about half as wide as the samples, in rows of the same length
    small = min(CELL, (LABEL + columns * (CELL + GAP) - GAP - (across - 1) * GAP) // across)
    strips = [images[start : start + across] for start in range(0, len(images), across)]
    heading = 40
    strip_height, row_height = small + GAP, CELL + GAP
    top_of_rows = MARGIN + heading + len(strips) * strip_height + MARGIN
    page = _page(columns, top_of_rows + heading + len(rows) * row_height - GAP + MARGIN)
    _heading(page, MARGIN, f"{total} images", "no labels")
    for y, strip in enumerate(strips):
        for x, picture in enumerate(strip):
            spot = (MARGIN + x * (small + GAP), MARGIN + heading + y * strip_height)
            page.paste(_square(picture, small), spot)
    _heading(page, top_of_rows, f"{len(rows)} concepts", "discovered, and sampled")
    _rows(page, rows, top=top_of_rows + heading, columns=columns)
    return page


def _page(columns: int, height: int) -> Image.Image:
    return Image.new("RGB", (2 * MARGIN + LABEL + columns * (CELL + GAP) - GAP, height), PAPER)


def _heading(page: Image.Image, top: int, bold: str, faint: str) -> None:
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(20)
    draw.text((MARGIN, top), bold, INK, font)
    draw.text((MARGIN + draw.textlength(bold + "  ", font), top), faint, FAINT, font)


def _rows(page: Image.Image, rows: Mapping[str, Sequence[Image.Image]], *, top: int, columns: int) -> None:
    draw = ImageDraw.Draw(page)
    for y, (label, pictures) in enumerate(rows.items()):
        height = top + y * (CELL + GAP)
        draw.text((MARGIN, height + CELL // 2), label[:8], INK, ImageFont.load_default(18), anchor="lm")
        for x, picture in enumerate(pictures[:columns]):
            page.paste(_square(picture, CELL), (MARGIN + LABEL + x * (CELL + GAP), height))


def _square(picture: Image.Image, side: int) -> Image.Image:
    return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
