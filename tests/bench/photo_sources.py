"""Photographs that Debian distributes, fetched when they are asked for: things with names, and animals cut out exactly.

- `gcompris-qt-data`: photographs of tools, dams, windmills, monuments and the like, each with its author, source and
  licence (public domain, CC0 or CC BY(-SA)) in a README beside it.
- `tuxpaint-stamps-default` (GPL-2): photographs of animals and things whose transparency is an exact mask.

`apt-get` fetches the packages into a folder that is thrown away; nothing is kept here or trained into a model.
"""

from __future__ import annotations

import io
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

PACKAGES = ("gcompris-qt-data", "tuxpaint-stamps-default")
ARCHIVE = Path("usr/share/gcompris-qt/rcc/categorization.rcc")
STAMPS = Path("usr/share/tuxpaint/stamps")
FREE = ("public domain", "cc0", "cc-by", "cc by")
DRAWN = ("alphabets/", "numbers/")
IS_COMPRESSED, IS_FOLDER = 1, 2  # flags of a Qt resource


@dataclass(frozen=True)
class Photograph:
    """A whole photograph, in RGB, with the licence that its README gives it."""

    name: str  # such as tools/hammer3
    image: Image.Image
    licence: str


def fetch(folder: Path) -> None:
    """Download and unpack the packages. Raises FileNotFoundError where there is no apt-get."""
    if not shutil.which("apt-get"):
        raise FileNotFoundError(f"needs Debian's apt-get, or {' and '.join(PACKAGES)} unpacked, by --folder")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "--quiet", *PACKAGES], cwd=folder, check=True, capture_output=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)


def photographs(folder: Path) -> list[Photograph]:
    """The photographs of things that may be changed and shown, sorted by name."""
    files = {name.partition("/images/")[2]: content for name, content in read_resources(folder / ARCHIVE)}
    licences = {}
    for name, content in files.items():
        if name.endswith("README"):
            licences |= {f"{Path(name).parent}/{file}": licence for file, licence in read_licences(content.decode())}
    return [
        Photograph(name.removesuffix(".webp"), Image.open(io.BytesIO(files[name])).convert("RGB"), licence)
        for name, licence in sorted(licences.items())
        if name in files and not name.startswith(DRAWN) and licence.lower().startswith(FREE)
    ]


def read_licences(readme: str) -> Iterator[tuple[str, str]]:
    """Each file that a README names, with its licence."""
    for entry in re.split(r"\n\s*\n", readme):
        licence = re.search(r"^License: *(.+)$", entry, re.MULTILINE)
        _, _, files = entry.partition("Files:")
        for name in re.findall(r"\S+\.webp", files):
            yield name, licence[1].strip() if licence else "unknown"


def stamp(folder: Path, name: str) -> Image.Image:
    """A photograph cut out, such as animals/mammals/cats/tiger, in RGBA and without empty margins."""
    image = Image.open(folder / STAMPS / f"{name}.png").convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())


def read_resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files in a Qt resource file, by their paths: a tree of nodes, their names in UTF-16, and their data."""
    raw = path.read_bytes()
    magic, version, tree, data, names = struct.unpack(">4s4I", raw[:20])
    if magic != b"qres":
        raise ValueError(f"{path} is not a Qt resource file")
    size = 14 if version == 1 else 22  # later ones say when a file was changed

    def name_at(offset: int) -> str:
        (length,) = struct.unpack_from(">H", raw, names + offset)
        return raw[names + offset + 6 :][: 2 * length].decode("utf-16-be")

    def walk(node: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        name, flags, first, second = struct.unpack_from(">IHII", raw, tree + node * size)
        own = f"{prefix}/{name_at(name)}" if node else ""
        if flags & IS_FOLDER:
            for child in range(second, second + first):
                yield from walk(child, own)
            return
        (length,) = struct.unpack_from(">I", raw, data + second)
        content = raw[data + second + 4 :][:length]
        yield own, zlib.decompress(content[4:]) if flags & IS_COMPRESSED else content

    yield from walk(0, "")
