"""Lists of paths: a CSV or Parquet file with a column of image files, and perhaps of captions and masks."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from concepts_cli.data.beside import with_files, without
from concepts_cli.data.captions import text_of_cell
from concepts_cli.data.source import Fields, Found, Source, is_ending, taken
from concepts_cli.errors import UcdError, did_you_mean, first_line, printable, shown
from concepts_cli.output import Output

USUAL = ("path", "file_name", "filename", "file", "image_path", "image")  # names of the column of images
MOST_BYTES, MOST_ROWS = 2**28, 1_000_000
EXTRA = "pip install 'concepts-cli[datasets]'"

Row = tuple[str, Mapping[str, Any]]  # where it is in the file, and its cells by column


class Lists(Source):
    """A file with a row per image; paths are relative to it."""

    def takes(self, place: str) -> bool:
        return place.lower().endswith((".csv", ".tsv", ".parquet")) and not os.path.isdir(place)

    def find(self, place: str, fields: Fields, chosen: slice, out: Output) -> list[Found]:
        path = Path(place)
        if not path.is_file():
            raise UcdError(f"no such list of images: {printable(place)}", "paths are relative to the recipe")
        if path.stat().st_size > MOST_BYTES:
            raise UcdError(f"{printable(place)}: more than {MOST_BYTES:,} bytes", "split it")
        columns, rows = _parquet(path, fields) if path.suffix.lower() == ".parquet" else _csv(path)
        images = _column(columns, fields.images, place)
        for name, field in (("captions", fields.captions), ("masks", fields.masks)):
            if field and not is_ending(field) and field not in columns and not fields.optional:
                raise UcdError(f"data.{name}: {printable(place)} has no column {field!r}", did_you_mean(field, columns))
        if not rows:
            raise UcdError(f"no images in {printable(place)}", "it needs a row per image, below the names of columns")
        return [_found(path.parent, row, images, fields) for row in taken(rows, chosen, place)]


def _found(folder: Path, row: Row, images: str, fields: Fields) -> Found:
    where, cells = row
    found = _file(folder, where, cells.get(images), "image")
    if isinstance(found, UcdError):
        return Found(Path(where), problem=found)
    image = with_files(Found(found), fields)
    if fields.captions and not is_ending(fields.captions):
        image = replace(image, caption=text_of_cell(cells.get(fields.captions)))
        image = without(image, "captions", fields, image.caption is None, f"{where}, {fields.captions}")
    if fields.masks and not is_ending(fields.masks):
        cell = cells.get(fields.masks)
        mask = _file(folder, where, cell, "mask") if cell else None
        if isinstance(mask, UcdError):
            return replace(image, problem=mask)
        image = without(replace(image, mask=mask), "masks", fields, mask is None, f"{where}, {fields.masks}")
    return image


def _file(folder: Path, where: str, cell: object, what: str) -> Path | UcdError:
    """The file that a cell names, or what is wrong with it."""
    if not isinstance(cell, str) or not cell.strip():
        hint = (
            "to read images that are in the file itself: hf:FOLDER[train]" if isinstance(cell, (dict, bytes)) else None
        )
        return UcdError(f"{where}: no path of an {what}", hint or "each row names a file, relative to the list")
    path = folder / cell.strip()
    if "\0" in cell or not os.path.isfile(path):
        return UcdError(f"{where}: no such {what}: {shown(cell, 200)}", "paths are relative to the list")
    return path


def _column(columns: Sequence[str], given: str | None, place: str) -> str:
    """The name of the column of images."""
    if not columns:
        raise UcdError(f"{printable(place)} is empty", "a list has the names of its columns on top, such as path")
    if given and given not in columns:
        raise UcdError(f"data.image_column: {printable(place)} has no column {given!r}", did_you_mean(given, columns))
    usual = [column for name in USUAL for column in columns if column.lower() == name]
    if not (given or usual) and os.path.isfile(Path(place).parent / columns[0]):
        raise UcdError(f"{printable(place)} begins with a path, not with the names of columns", "write path on top")
    if not (given or usual) and len(columns) > 1:
        has = printable(", ".join(columns))
        raise UcdError(f"{printable(place)} has no column {', '.join(USUAL)}", f"set data.image_column to one of {has}")
    return given or [*usual, *columns][0]


def _csv(path: Path) -> tuple[list[str], list[Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            rows: list[Row] = []
            for cells in table:
                if None in cells:
                    raise _damaged(path, f"line {table.line_num} has more cells than there are columns")
                rows.append((f"{printable(path)}:{table.line_num}", cells))
                if len(rows) > MOST_ROWS:
                    raise _damaged(path, f"more than {MOST_ROWS:,} rows")
            return list(table.fieldnames or []), rows
    except UnicodeDecodeError:
        raise _damaged(path, "it isn't UTF-8 text") from None
    except (csv.Error, OSError) as error:
        raise _damaged(path, first_line(error)) from error


def _parquet(path: Path, fields: Fields) -> tuple[list[str], list[Row]]:
    """The names of all columns, and the rows of those that are asked for: others may hold much."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UcdError(f"{printable(path)}: reading Parquet needs pyarrow", EXTRA) from error
    try:
        with parquet.ParquetFile(path) as file:
            columns = list(file.schema_arrow.names)
            named = _column(columns, fields.images, str(path)), fields.captions, fields.masks
            wanted = [name for name in columns if name in named]
            groups = (file.metadata.row_group(n) for n in range(file.metadata.num_row_groups))
            chunks = (group.column(n) for group in groups for n in range(group.num_columns))
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.startswith(tuple(wanted)))
            if file.metadata.num_rows > MOST_ROWS or size > MOST_BYTES:
                problem = f"{file.metadata.num_rows:,} rows of {size:,} bytes are too many for a list of paths"
                raise _damaged(path, problem, "hf:FOLDER[train] reads images that are in the file itself")
            cells = file.read(columns=wanted).to_pylist()
            return columns, [(f"{printable(path)}, row {n}", row) for n, row in enumerate(cells, start=1)]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, first_line(error)) from error


def _damaged(path: Path, problem: str, hint: str = "a row per image, and the names of columns on top") -> UcdError:
    return UcdError(f"{printable(path)} can't be read: {problem}", hint)
