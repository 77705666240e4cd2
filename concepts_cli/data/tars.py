"""WebDataset tars: samples are files of one name up to the first dot, such as 0001.jpg and 0001.txt.

Only regular files with safe names are read, and only those that are images or belong to one; nothing is extracted by
the names or the modes that the tar gives. https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from concepts_cli.data.beside import with_files
from concepts_cli.data.cache import version
from concepts_cli.data.images import SUFFIXES
from concepts_cli.data.source import Fields, Found, Source, taken
from concepts_cli.data.unpacked import MOST_BYTES, Unpacked
from concepts_cli.errors import UcdError, first_line, printable, shown
from concepts_cli.output import Output
from concepts_cli.paths import COMPRESSED

SHARDS = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)")  # as WebDataset has them: images-{000..012}.tar
MOST_SHARDS = 10_000
COPY = "copy or download it again"


class Tars(Source):
    """A tar, or several as `images-{000..012}.tar`, in the order of shards and of names in each."""

    def takes(self, place: str) -> bool:
        return place.lower().endswith((".tar", *COMPRESSED)) and not os.path.isdir(place)

    def find(self, place: str, fields: Fields, chosen: slice, out: Output) -> list[Found]:
        fields.check(place, columns=False)
        contents = {shard: _members(shard, fields) for shard in _shards(place)}
        images = [
            (shard, name)
            for shard, members in contents.items()
            for name in sorted(filter(_is_image, members))
            if not (fields.masks and name.endswith(fields.masks))
        ]
        if not images:
            raise UcdError(f"no images in {printable(place)}", f"looked for {', '.join(sorted(SUFFIXES))}")
        found: list[Found] = []
        wanted = taken(images, chosen, place)
        for shard, members in contents.items():
            names = [name for of, name in wanted if of == shard]
            folder = _unpack(shard, members, names, fields)
            found += (with_files(Found(folder / name), fields) for name in names)
        return found


def _shards(place: str) -> list[Path]:
    """The tars that a place names. Raises UcdError for those that are missing or compressed."""
    if not place.lower().endswith(".tar"):
        raise UcdError(
            f"{printable(place)} is compressed", "gunzip it: images gain nothing, and a tar is read in place"
        )
    numbered = None if os.path.isfile(place) else SHARDS.fullmatch(place)
    paths = [Path(place)]
    if numbered:
        head, first, last, tail = numbered.groups()
        if int(last) - int(first) >= MOST_SHARDS:
            raise UcdError(f"{printable(place)}: more than {MOST_SHARDS:,} tars")
        paths = [Path(f"{head}{n:0{len(first)}d}{tail}") for n in range(int(first), int(last) + 1)]
    if gone := [path for path in paths if not path.is_file()] or (not paths and [Path(place)]):
        raise UcdError(f"no such tar: {printable(gone[0])}", "paths are relative to the recipe")
    return paths


def _members(shard: Path, fields: Fields) -> dict[str, tarfile.TarInfo]:
    """The images of a tar and what belongs to them, by name. Raises UcdError for a tar that can't be trusted."""
    endings = tuple(ending for ending in (fields.captions, fields.masks) if ending)
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isdir() or not (_is_image(member.name) or (endings and member.name.endswith(endings))):
                    continue
                if problem := _problem(member):
                    raise UcdError(f"{printable(shard)}: {shown(member.name)} {problem}", "leave it out of the tar")
                if not any(part.startswith(".") for part in PurePosixPath(member.name).parts):
                    members[str(PurePosixPath(member.name))] = member
            _check_end(tar, shard)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise _unreadable(shard, first_line(error)) from error
    return members


def _problem(member: tarfile.TarInfo) -> str | None:
    """Why a member is not read."""
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts or re.search(r'[\0\\:*?"<>|]', member.name):
        return "would be written outside of its folder, or can't be the name of a file everywhere"
    if not member.isreg():
        return "is a link or a device, not a file"
    if member.issparse() or member.size > MOST_BYTES:
        return f"is larger than any image: {member.size:,} bytes"
    return None


def _check_end(tar: tarfile.TarFile, shard: Path) -> None:
    """Python's reader ends silently at a header that it can't read; a whole tar has a block of zeros there."""
    with shard.open("rb") as file:
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise _unreadable(shard, "it is cut short, or damaged within")


def _is_image(name: str) -> bool:
    """Whether all after the first dot of a file's name is an image's suffix: `0001.jpg`, and not `0001.seg.png`."""
    stem, dot, suffix = PurePosixPath(name).name.partition(".")
    return bool(stem) and (dot + suffix).lower() in SUFFIXES


def _unpack(shard: Path, members: dict[str, tarfile.TarInfo], names: list[str], fields: Fields) -> Path:
    """Write the named images and what belongs to them to the cache, unless they are there; return the folder."""
    unpacked = Unpacked("tar", os.path.abspath(shard), version(os.stat(shard)))
    try:
        with tarfile.open(shard, "r:") as tar:
            for name in _with_companions(names, fields):
                path, member = unpacked.folder / name, members.get(name)
                if member and not (path.is_file() and path.stat().st_size == member.size):
                    content = tar.extractfile(member)
                    unpacked.write(name, content.read() if content else b"")
    except (tarfile.TarError, OSError) as error:
        raise _unreadable(shard, first_line(error)) from error
    return unpacked.folder


def _with_companions(names: list[str], fields: Fields) -> Iterator[str]:
    for name in names:
        yield name
        stem = str(PurePosixPath(name).with_suffix(""))
        yield from (stem + ending for ending in (fields.captions, fields.masks) if ending)


def _unreadable(shard: Path, problem: str) -> UcdError:
    return UcdError(f"{printable(shard)} can't be read: {problem}", COPY)
