"""What the benchmark of photographs reads and makes, on files made here: nothing is fetched."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from tests.bench.photo_composites import CLASSES, SIDE, composites, write
from tests.bench.photo_sources import ARCHIVE, STAMPS, photographs, read_licences, read_resources

README = b"""Copyright: Somebody
Source: a place
License: CC0-1.0
Files:
dam1.webp
dam2.webp

Copyright: Somebody else
License: All rights reserved
Files: dam3.webp
"""


def resource_file(files: dict[str, bytes]) -> bytes:
    """A Qt resource file, version 2, with these files in one folder each; those of some length are compressed."""
    names, data, nodes = b"", b"", []

    def named(name: str) -> int:
        nonlocal names
        offset = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        return offset

    def kept(content: bytes) -> tuple[int, int]:
        nonlocal data
        is_compressed = len(content) > 100
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if is_compressed else content
        offset = len(data)
        data += struct.pack(">I", len(stored)) + stored
        return int(is_compressed), offset

    top, count = named(""), len(files)
    nodes.append(struct.pack(">IHII", top, 2, count, 1))
    for row, path in enumerate(files):
        nodes.append(struct.pack(">IHII", named(path.rpartition("/")[0]), 2, 1, 1 + count + row))
    for path, content in files.items():
        flags, offset = kept(content)
        nodes.append(struct.pack(">IHII", named(path.rpartition("/")[2]), flags, 0, offset))
    tree = b"".join(node + bytes(8) for node in nodes)
    head = 20
    offsets = (head, head + len(tree), head + len(tree) + len(data))
    return struct.pack(">4s4I", b"qres", 2, *offsets) + tree + data + names


def webp(tmp_path, colour) -> bytes:
    place = tmp_path / "one.webp"
    Image.new("RGB", (320, 240), colour).save(place)
    return place.read_bytes()


def packages(tmp_path):
    """What the two packages look like once they are unpacked."""
    folder = tmp_path / "packages"
    archive = folder / ARCHIVE
    archive.parent.mkdir(parents=True)
    pictures = {f"resource/images/renewable/dam{n}.webp": webp(tmp_path, (0, 0, 80 * n)) for n in (1, 2, 3)}
    archive.write_bytes(resource_file({**pictures, "resource/images/renewable/README": README}))
    for name in (stamp for stamps in CLASSES.values() for stamp in stamps):
        place = folder / STAMPS / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        animal = Image.new("RGBA", (60, 40))
        animal.paste((255, 0, 0, 255), (10, 10, 50, 30))
        animal.save(place)
    return folder


def test_resources_come_back_as_they_were_compressed_or_not(tmp_path):
    files = {"a/b/short": b"few", "c/long": b"many " * 100}
    (tmp_path / "x.rcc").write_bytes(resource_file(files))
    assert {name.lstrip("/"): content for name, content in read_resources(tmp_path / "x.rcc")} == files


def test_only_photographs_whose_licence_is_free_are_taken(tmp_path):
    assert dict(read_licences(README.decode()))["dam2.webp"] == "CC0-1.0"
    found = photographs(packages(tmp_path))
    assert [picture.name for picture in found] == ["renewable/dam1", "renewable/dam2"]


def test_masks_lie_on_the_animals_and_names_say_nothing(tmp_path):
    made = composites(packages(tmp_path), 2)
    assert len(made) == 10 and {each.number for each in made} == {0, 1}
    for each in made:
        is_red = np.asarray(each.image)[..., 0] > 127
        assert each.image.size == (SIDE, SIDE) and (is_red == (np.asarray(each.mask) > 0)).mean() > 0.99
        assert 0.1 < is_red.mean() < 0.5
    paths = write(made, tmp_path / "train")
    assert sorted(path.name for path in paths) == [f"{n:03d}.png" for n in range(10)]
    assert [path.name for path in paths] != sorted(path.name for path in paths)
