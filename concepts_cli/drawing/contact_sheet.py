"""Contact sheets: labelled rows of pictures on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from concepts_cli.drawing.overlay import FAINT, INK, PAPER, Font
from concepts_cli.errors import printable

CELL, LARGEST_CELL, GAP, MARGIN, HEADING = 112, 224, 6, 24, 40  # px
LABEL, LONGEST_LABEL = 64, 176  # px
COLUMNS = 10
Rows = Mapping[str, Sequence[Image.Image]]


def contact_sheet(rows: Rows, *, title: str = "", detail: str = "", headings: Sequence[str] = ()) -> Image.Image:
    """Draw one labelled row per entry, on as many lines as its pictures need; an empty label takes no room.

    With `headings`, one per column, every row is a single line below them. Pictures keep their proportions.
    """
    layout = _Layout.of(rows, columns=len(headings) or None)
    below_title = MARGIN + (HEADING if title else 0)
    top = below_title + (HEADING - 8 if headings else 0)
    page = Image.new("RGB", (layout.width, top + layout.height(rows) + MARGIN), PAPER)
    if title:
        _heading(page, MARGIN, title, detail)
    for column, text in enumerate(headings):
        middle = layout.left(column) + layout.cell[0] // 2
        font = ImageFont.load_default(16)
        ImageDraw.Draw(page).text((middle, below_title), _fitted(text, font, layout.cell[0]), INK, font, anchor="ma")
    _paste_rows(page, rows, layout, top)
    return page


def overview(images: Sequence[Image.Image], rows: Rows, *, total: int) -> Image.Image:
    """Draw the training images, small, above one labelled row of samples per concept.

    `images` are some or all of the `total` training images; the first ten samples of each row are drawn.
    """
    most = max(len(pictures) for pictures in rows.values())
    rows = {label: pictures[:COLUMNS] for label, pictures in rows.items()}
    layout = _Layout.of(rows, columns=max(6, min(COLUMNS, most)))
    # About half as wide as the samples, in lines of equal length.
    across = -(-len(images) // -(-len(images) // (2 * layout.columns)))
    small = min(CELL, (layout.width - 2 * MARGIN - (across - 1) * GAP) // across)
    lines = -(-len(images) // across)
    below = MARGIN + HEADING + lines * (small + GAP) + MARGIN
    page = Image.new("RGB", (layout.width, below + HEADING + layout.height(rows) + MARGIN), PAPER)
    _heading(page, MARGIN, f"{total} images", "no labels")
    for n, picture in enumerate(images):
        spot = (MARGIN + n % across * (small + GAP), MARGIN + HEADING + n // across * (small + GAP))
        page.paste(_sized(picture, (small, small)), spot)
    shown = f", the first {COLUMNS} of {most} images" if most > COLUMNS else ""
    _heading(page, below, f"{len(rows)} concepts", f"discovered, and sampled{shown}")
    _paste_rows(page, rows, layout, below + HEADING)
    return page


@dataclass(frozen=True)
class _Layout:
    """The positions of a page's cells."""

    cell: tuple[int, int]  # width and height, px
    columns: int
    label: int  # width of the labels' column, px

    @classmethod
    def of(cls, rows: Rows, columns: int | None = None) -> _Layout:
        first = next(picture for pictures in rows.values() for picture in pictures)
        side = min(max(*first.size, CELL), LARGEST_CELL)
        width, height = (max(1, round(side * length / max(first.size))) for length in first.size)
        font = ImageFont.load_default(18)
        widest = max(font.getlength(printable(label)) for label in rows)
        label = round(min(max(widest + 20, LABEL), LONGEST_LABEL)) if widest else 0
        if not columns:
            most = max(len(pictures) for pictures in rows.values())
            columns = -(-most // -(-most // COLUMNS))  # lines of the same length
        return cls((width, height), columns, label)

    @property
    def width(self) -> int:
        return self.left(self.columns) - GAP + MARGIN

    def left(self, column: int) -> int:
        return MARGIN + self.label + column * (self.cell[0] + GAP)

    def lines(self, pictures: Sequence[Image.Image]) -> int:
        return -(-len(pictures) // self.columns)

    def height(self, rows: Rows) -> int:
        return sum(self.lines(pictures) for pictures in rows.values()) * (self.cell[1] + GAP) - GAP


def _heading(page: Image.Image, top: int, bold: str, faint: str) -> None:
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(20)
    bold = _fitted(bold, font, page.width - 2 * MARGIN)
    draw.text((MARGIN, top), bold, INK, font)
    left = MARGIN + font.getlength(bold + "  ")
    draw.text((left, top), _fitted(faint, font, page.width - MARGIN - left), FAINT, font)


def _paste_rows(page: Image.Image, rows: Rows, layout: _Layout, top: int) -> None:
    draw = ImageDraw.Draw(page)
    for name, pictures in rows.items():
        label = printable(name)
        font = ImageFont.load_default(18 if ImageFont.load_default(18).getlength(label) <= layout.label - 16 else 14)
        text = "\n".join(_wrapped(label, font, layout.label - 12, layout.cell[1] // 20))
        draw.multiline_text((MARGIN, top + layout.cell[1] // 2), text, INK, font, anchor="lm")
        for n, picture in enumerate(pictures):
            line, column = divmod(n, layout.columns)
            page.paste(_sized(picture, layout.cell), (layout.left(column), top + line * (layout.cell[1] + GAP)))
        top += layout.lines(pictures) * (layout.cell[1] + GAP)


def _wrapped(text: str, font: Font, width: float, most: int) -> list[str]:
    """The text in at most `most` lines of this width."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    return [_fitted(line, font, width) for line in lines]


def _fitted(text: str, font: Font, width: float) -> str:
    """The text on one line, cut off if it is too long."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    text = text[:200]
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text and text + "…"


def _sized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
