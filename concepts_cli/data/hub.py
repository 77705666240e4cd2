"""Datasets of the Hugging Face Hub, and local folders in its layouts: `hf:user/name[train]`, through `datasets`.

Rows are streamed, so that the first thousand images of a large dataset take no more than that, and are kept as files
in the cache: a second training, and a resumed one, need no network. No code of a dataset is run.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from concepts_cli.data.beside import with_files
from concepts_cli.data.captions import text_of_cell
from concepts_cli.data.images import FORMATS
from concepts_cli.data.lists import EXTRA
from concepts_cli.data.source import Fields, Found, Source
from concepts_cli.data.unpacked import MOST_BYTES, Unpacked
from concepts_cli.errors import UcdError, did_you_mean, first_line, printable
from concepts_cli.output import Output
from concepts_cli.paths import HUB

PLACE = re.compile(r"hf:(?P<name>[^\[\]]+?)(\[(?P<split>[\w.-]+)\])?")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+){0,2}")
TOTAL = "rows"  # a file with the number of rows, once it is known
CAPTION, MASK = ".txt", "-mask.png"  # endings of the files that columns become


class Dataset(NamedTuple):
    """`name` is a folder, which has a dot or a slash in front, or a dataset of the hub as USER/NAME[/CONFIG]."""

    place: str
    name: str
    split: str

    @property
    def is_local(self) -> bool:
        return self.name.startswith((".", "/")) or os.path.isabs(self.name)


class HubDatasets(Source):
    """`hf:user/name[split]`, of which the split is `train` unless it is named. Images are in the order of rows."""

    def takes(self, place: str) -> bool:
        return place.startswith(HUB)

    def find(self, place: str, fields: Fields, chosen: slice, out: Output) -> list[Found]:
        dataset = _parsed(place)
        fields.check(place, columns=True)
        endings = Fields(
            captions=CAPTION if fields.captions else None,
            masks=MASK if fields.masks else None,
            optional=fields.optional,
        )
        unpacked = Unpacked("hf", dataset, _version(dataset), fields.images, fields.captions, fields.masks)
        rows = _kept(unpacked, chosen)
        if rows is None:
            out.note(f"fetching the images of {printable(place)} to {unpacked.folder}")
            _fetch(dataset, fields, chosen, unpacked)
            rows = _kept(unpacked, chosen) or []
        if not rows:
            total = (unpacked.folder / TOTAL).read_text()
            raise UcdError(f"{printable(place)} has {total} rows, and data.skip_images is {chosen.start}")
        return [with_files(Found(path), endings) for path in rows]


def _parsed(place: str) -> Dataset:
    match = PLACE.fullmatch(place)
    dataset = Dataset(place, match["name"], match["split"] or "train") if match else None
    if not dataset or not (os.path.isdir(dataset.name) if dataset.is_local else HUB_NAME.fullmatch(dataset.name)):
        hint = "hf:user/name[train], hf:user/name/config[train], or a folder: hf:./FOLDER[train]"
        raise UcdError(f"{printable(place)} names no dataset", f"{hint}; data.images_per_folder takes fewer")
    return dataset


def _version(dataset: Dataset) -> object:
    """What changes with the files of a local folder; one of the hub is fetched once."""
    if not dataset.is_local:
        return None
    files = sorted(path for path in Path(dataset.name).rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _kept(unpacked: Unpacked, chosen: slice) -> list[Path] | None:
    """The files of the chosen rows; None unless all are there."""
    total = None
    with suppress(OSError, ValueError):
        total = int((unpacked.folder / TOTAL).read_text())
    if total is None and chosen.stop is None:
        return None
    wanted = range(chosen.stop if total is None else total)[chosen]
    there = _images(unpacked)
    return [there[row] for row in wanted] if there.keys() >= set(wanted) else None


def _images(unpacked: Unpacked) -> dict[int, Path]:
    """The image files by row; each is the last file of its row to be written."""
    if not unpacked.folder.is_dir():
        return {}
    files = (path for path in unpacked.folder.iterdir() if path.stem.isdecimal() and path.suffix != CAPTION)
    return {int(path.stem): path for path in files}


def _fetch(dataset: Dataset, fields: Fields, chosen: slice, unpacked: Unpacked) -> None:
    """Fetch the chosen rows from the first on that is not there yet."""
    try:
        import datasets
    except ImportError as error:
        raise UcdError(f"{printable(dataset.place)} needs the package datasets", EXTRA) from error
    there = _images(unpacked)
    first = next(row for row in range(chosen.start, len(there) + chosen.start + 1) if row not in there)
    try:
        stream, columns = _stream(datasets, dataset, fields)
        total = first
        for row in stream.skip(first) if chosen.stop is None else stream.skip(first).take(chosen.stop - first):
            _keep(unpacked, total, row, columns, dataset)
            total += 1
    except UcdError:
        raise
    except Exception as error:  # the readers of many formats and of the network raise whatever they run into
        hint = "check its name, its split and the network; what was fetched is kept"
        if not dataset.is_local and os.path.isdir(dataset.name):
            hint += f"; the folder of this name is hf:./{printable(dataset.name)}"
        raise UcdError(f"{printable(dataset.place)}: {first_line(error)}", hint, exit_code=1) from error
    if total == chosen.start:
        raise UcdError(f"{printable(dataset.place)} has no more than {total} rows", "lower data.skip_images")
    if chosen.stop is None or total < chosen.stop:
        unpacked.write(TOTAL, str(total).encode())


def _stream(datasets: Any, dataset: Dataset, fields: Fields) -> tuple[Any, dict[str, str]]:
    """The rows of a dataset, images undecoded, and its columns by what they hold."""
    parts = [dataset.name] if dataset.is_local else dataset.name.split("/")
    name, config = ("/".join(parts[:2]), parts[2]) if len(parts) == 3 else (dataset.name, None)
    if not dataset.is_local and os.path.isdir(name):
        name = f"hf://datasets/{name}"  # or else `datasets` would read the folder that happens to be called so
    datasets.disable_progress_bars()
    stream = datasets.load_dataset(name, config, split=dataset.split, streaming=True)
    features = stream.features or dict.fromkeys(next(iter(stream), {}))
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    columns = {"images": fields.images or next((name for name in pictures if name != fields.masks), "")}
    columns |= {
        name: field for name, field in (("captions", fields.captions), ("masks", fields.masks)) if field in features
    }
    for name, field in (("image_column", columns["images"]), ("captions", fields.captions), ("masks", fields.masks)):
        if field is not None and field not in features and not (fields.optional and name != "image_column"):
            what = f"no column {field!r}" if field else "no column of images"
            raise UcdError(f"data.{name}: {dataset.place} has {what}", did_you_mean(field, list(features)))
    for name in ("images", "masks"):
        if name in columns:
            stream = stream.cast_column(columns[name], datasets.Image(decode=False))
    return stream, columns


def _keep(unpacked: Unpacked, row: int, cells: dict[str, Any], columns: dict[str, str], dataset: Dataset) -> None:
    """Write a row's caption, mask and image, in this order. An image that is none is refused when it is read."""
    if (column := columns.get("captions")) and (text := text_of_cell(cells[column])):
        unpacked.write(f"{row:08d}{CAPTION}", text.encode("utf-8", "backslashreplace"))
    if (column := columns.get("masks")) and cells[column]:
        unpacked.write(f"{row:08d}{MASK}", _content(cells[column], dataset))
    data = _content(cells[columns["images"]] or {}, dataset)
    unpacked.write(f"{row:08d}{_suffix(data)}", data)


def _content(cell: dict[str, Any], dataset: Dataset) -> bytes:
    """The bytes of an undecoded image: its own, or those of the file that it names, inside the dataset only."""
    data, path = cell.get("bytes"), cell.get("path") or ""
    if data is None and path:
        import fsspec

        *archive, place = path.split("::")  # zip://a.jpg::hf://datasets/user/name/images.zip
        inside = dataset.is_local and Path(place).resolve().is_relative_to(Path(dataset.name).resolve())
        own = f"hf://datasets/{'/'.join(dataset.name.split('/')[:2])}"
        if not (place.startswith((f"{own}/", f"{own}@")) or inside) or not all(
            part.startswith("zip://") for part in archive
        ):
            raise UcdError(f"{printable(dataset.place)} names a file outside of itself: {printable(path)}")
        with fsspec.open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    if len(data or b"") > MOST_BYTES:
        raise UcdError(f"{printable(dataset.place)}: an image of more than {MOST_BYTES:,} bytes", "leave it out")
    return data or b""


def _suffix(data: bytes) -> str:
    """The suffix of an image's format."""
    # What is wrong with an image is said when it is read.
    with suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return f".{(image.format or '').lower()}"
    return ".png"
