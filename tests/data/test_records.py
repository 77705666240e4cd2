"""What users have on their disks: links, hidden files, odd names, broken and huge images; and what is remembered."""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from concepts_cli.data import records
from concepts_cli.data.cache import cache_folder
from concepts_cli.data.finding import find_images
from concepts_cli.data.images import open_image
from concepts_cli.data.records import read_images
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from tests.data.pictures import picture

ODD_NAMES = [b"x" * 251 + b".png", b"caf\xe9.png", b"a\nb.png", b"\x1b[2J.png", b"-n.png", b" .png"]
posix = pytest.mark.skipif(sys.platform == "win32", reason="names and links of POSIX file systems")


def big(path: Path, form: str) -> Path:
    """An image of more than `SMALL` bytes."""
    return picture(path, (256, 256), format=form, **({} if form == "PNG" else {"quality": 100}))


# -- finding


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("a.png", "._a.png", ".thumbnails/b.png", "deep/.git/c.png"):
        picture(tmp_path / name)
    assert [path.name for path in find_images([tmp_path])] == ["a.png"]
    assert [path.name for path in find_images([tmp_path / ".thumbnails"])] == ["b.png"]  # it was asked for


@posix
def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    picture(tmp_path / "elsewhere" / "a.png")
    picture(tmp_path / "images" / "b.png")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "gone").symlink_to(tmp_path / "nowhere")
    found = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path / "images"])]
    assert found == ["images/again/a.png", "images/b.png"]


def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(picture(tmp_path / "a.png").parent)
    with pytest.raises(UcdError, match="no such folder or image: ''"):
        find_images([""])
    assert len(find_images(["."])) == 1


def test_a_name_that_is_too_long_for_any_file_is_missing(tmp_path):
    with pytest.raises(UcdError, match="no such folder or image"):
        find_images([tmp_path / ("x" * 5000 + ".png")])


@posix
def test_only_regular_files_are_read(tmp_path):
    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert [path.name for path in find_images([tmp_path])] == ["a.png"]


# -- reading


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_only_the_listed_formats_are_opened_whatever_a_file_is_called(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (16, 16)).save(path, "AVIF")
    for read in (open_image, lambda path: read_images([path])):
        with pytest.raises(UcdError, match="not a readable image: .*photo.jpg"):
            read(path)


def test_one_limit_on_pixels_says_to_scale_down(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path = tmp_path / "huge.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    for read in (open_image, lambda path: read_images([path])):
        with pytest.raises(UcdError, match="more than 178,956,970 pixels: .*huge.png") as caught:
            read(path)
        assert caught.value.hint.startswith("scale it down")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("make", [picture, big])
def test_a_file_that_is_cut_short_is_broken_and_a_whole_one_is_not(tmp_path, form, make):
    path = tmp_path / f"a.{form.lower()}"
    picture(path, format=form) if make is picture else big(path, form)
    (record,) = read_images([path])
    assert (record.width, record.height) == open_image(path).size
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(UcdError, match="not a readable image"):
        read_images([path])


def test_an_image_that_lies_on_its_side_is_known_by_its_header(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, form in (("a.jpg", "JPEG"), ("b.png", "PNG"), ("c.webp", "WEBP")):
        for size in ((8, 4), (300, 260)):
            path = picture(tmp_path / name, size, format=form, exif=exif)
            (record,) = read_images([path])
            assert (record.width, record.height) == size[::-1] == open_image(path).size


def test_data_after_the_end_of_an_image_does_not_break_it(tmp_path):
    for form in ("PNG", "JPEG", "WEBP"):
        path = big(tmp_path / f"a.{form.lower()}", form)
        path.write_bytes(path.read_bytes() + b"appended by a camera")
        assert len(read_images([path])) == 1


def test_broken_files_among_many_can_be_skipped_and_are_named(tmp_path, capsys):
    good, text, cut = (picture(tmp_path / name) for name in ("good.png", "text.png", "cut\n\x1b[31m.png"))
    text.write_text("no image")
    cut.write_bytes(good.read_bytes()[:40])
    paths = [cut, good, text]
    with pytest.raises(UcdError) as caught:
        read_images(paths)
    assert "good.png" not in caught.value.message and len(caught.value.message.splitlines()) == 2
    assert "cut\\n\\x1b[31m.png" in caught.value.message
    assert [Path(record.path) for record in read_images(paths, skip_broken=True, out=Output())] == [good]
    said = capsys.readouterr().err
    assert said.startswith("warning: skipping 2 of 3 images: ") and "text.png" in said and len(said.splitlines()) == 1
    with pytest.raises(UcdError, match="text.png"):
        read_images([text], skip_broken=True)


@posix
@pytest.mark.parametrize(
    "name", [b"x" * 251 + b".png", b"caf\xe9.png", b"a\nb.png", b"\x1b[2J.png", b"-n.png", b" .png"]
)
def test_odd_names_are_read(tmp_path, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    try:
        picture(path)
    except OSError:
        pytest.skip("a name that this file system doesn't take")
    assert find_images([tmp_path]) == [path]
    for _ in range(2):  # the second time from memory
        assert [record.path for record in read_images([path])] == [str(path)]


def test_many_images_show_their_progress(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(records, "MANY", 2)
    paths = [picture(tmp_path / f"{n}.png") for n in range(3)]
    read_images(paths, out=Output())
    assert "reading images  3/3" in capsys.readouterr().err


# -- remembering


def test_unchanged_files_are_not_read_again_and_changed_ones_are(tmp_path, monkeypatch):
    paths = [picture(tmp_path / f"{n}.png") for n in range(3)]
    before = read_images(paths)
    real, read = records._read, []
    monkeypatch.setattr(records, "_read", lambda path, whole: read.append(path) or real(path, whole))
    assert read_images(paths) == before and read == []
    os.utime(paths[0], ns=(0, 0))
    picture(paths[1], (5, 5))
    after = read_images(paths)
    assert read == paths[:2] and after[0] == before[0] and after[2] == before[2]
    assert (after[1].width, after[1].sha256 != before[1].sha256) == (5, True)


def test_a_file_that_was_broken_is_looked_at_again(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("no image")
    with pytest.raises(UcdError):
        read_images([path])
    assert len(read_images([picture(path)])) == 1


@pytest.mark.parametrize("damage", ["text", "folder", "locked", "unwritable"])
def test_a_cache_that_cannot_be_used_is_no_obstacle(tmp_path, own_cache, damage, monkeypatch):
    file, paths = own_cache / "images.sqlite", [picture(tmp_path / "a.png")]
    other = None
    if damage == "text":
        file.write_text("not a database, " * 100)
    elif damage == "folder":
        file.mkdir()
    elif damage == "locked":
        other = sqlite3.connect(file)
        other.execute("BEGIN EXCLUSIVE")
    else:
        monkeypatch.setenv("UCD_CACHE", str(tmp_path / "a.png" / "below"))
    assert len(read_images(paths)) == len(read_images(paths)) == 1
    if other:
        other.close()
    if damage == "text":  # it is made anew
        assert sqlite3.connect(file).execute("SELECT count(*) FROM images").fetchone() == (1,)


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    assert cache_folder() == Path(os.environ["UCD_CACHE"])
    monkeypatch.delenv("UCD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ucd"


def test_a_photograph_damaged_in_the_middle_is_skipped(workplace):
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    for name in ("whole.jpg", "middle.jpg"):
        Image.fromarray(noise).save(workplace / name, quality=95)
    data = bytearray((workplace / "middle.jpg").read_bytes())
    assert len(data) > 64 * 1024
    data[600:60_000] = b"\xff" * 59_400
    (workplace / "middle.jpg").write_bytes(data)
    paths = [workplace / "middle.jpg", workplace / "whole.jpg"]
    assert [record.path for record in read_images(paths, skip_broken=True)] == [str(paths[1])]


def test_a_file_that_was_copied_over_with_its_old_time_is_read_again(workplace):
    path = workplace / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    before, (first,) = path.stat(), read_images([path])
    data = bytearray(path.read_bytes())
    Image.new("RGB", (8, 8), "blue").save(path)
    path.write_bytes(path.read_bytes().ljust(len(data), b"\0")[: max(len(data), path.stat().st_size)])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_images([path])[0].sha256 != first.sha256


def test_what_is_remembered_is_checked(workplace):
    path = workplace / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    (first,) = read_images([path])
    with sqlite3.connect(cache_folder() / "images.sqlite") as table:
        table.execute("UPDATE images SET sha256 = '../../x', width = 'a'")
    assert read_images([path]) == [first]
