"""WebDataset tars: what they hold, and what a tar from elsewhere could do."""

from __future__ import annotations

import io
import tarfile

import pytest
from PIL import Image

from concepts_cli.data import tars
from concepts_cli.data.cache import cache_folder
from concepts_cli.data.finding import find
from concepts_cli.data.records import read_images
from concepts_cli.data.source import Fields
from concepts_cli.errors import UcdError
from concepts_cli.recipe import choose_recipe

Members = list[tuple[str | tarfile.TarInfo, bytes]]


def png(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (side, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tar_of(path, members: Members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def test_a_compressed_tar_is_refused_wherever_it_is_named(tmp_path):
    for name in ("photos.tar.gz", "photos.tgz"):
        with pytest.raises(UcdError, match="is compressed") as caught:
            find(choose_recipe(str(tmp_path / name), {"model": "mini"}).data.images)
        assert caught.value.hint.startswith("gunzip it")


def test_samples_share_a_name_up_to_the_first_dot(tmp_path):
    members = [("b.png", png(9)), ("b.txt", b"a {}"), ("b.seg.png", png()), ("b.json", b"{}"), ("cats/a.jpg", png(7))]
    members += [("._b.png", b"of a Mac"), (".hidden/c.png", png()), ("cats/a.cls", b"3")]
    found = find([tar_of(tmp_path / "x.tar", members)], Fields(captions=".txt", optional=True))
    assert [(image.path.name, image.caption) for image in found] == [("b.png", "a {}"), ("a.jpg", None)]
    assert found[1].path.parent.name == "cats"
    assert [record.width for record in read_images(found)] == [9, 7]


def test_masks_beside_images_are_no_images(tmp_path):
    members = [("a.png", png(9)), ("a-mask.png", png(9)), ("b.png", png(7)), ("b-mask.png", png(7))]
    found = find([tar_of(tmp_path / "x.tar", members)], Fields(masks="-mask.png"))
    assert [(image.path.name, image.mask.name) for image in found] == [("a.png", "a-mask.png"), ("b.png", "b-mask.png")]


def test_what_webdataset_writes_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for n in range(3):
            writer.write({"__key__": f"sample{n:03d}", "png": png(n + 4), "txt": f"number {n}", "cls": n})
    found = find([tmp_path / "x.tar"], Fields(captions=".txt"))
    assert [image.caption for image in found] == ["number 0", "number 1", "number 2"]
    assert [record.width for record in read_images(found)] == [4, 5, 6]


def test_only_what_is_chosen_is_unpacked_and_only_once(tmp_path):
    shards = [tar_of(tmp_path / f"s-{n}.tar", [(f"{n}{k}.png", png(8 + n)) for k in "ab"]) for n in range(3)]
    found = find([tmp_path / "s-{0..2}.tar"], skip=1, most=3)
    assert [image.path.name for image in found] == ["0b.png", "1a.png", "1b.png"]
    assert len(list(cache_folder().rglob("*.png"))) == 3
    before = found[0].path.stat().st_mtime_ns
    assert find([shards[0]], skip=1)[0].path.stat().st_mtime_ns == before
    found[0].path.write_bytes(b"cut")
    assert find([shards[0]], skip=1)[0].path.read_bytes() == png()
    tar_of(shards[0], [("0b.png", png(3))])
    assert find([shards[0]])[0].path.read_bytes() == png(3)


@pytest.mark.parametrize("name", ["../x.png", "/tmp/x.png", "a/../../x.png", "C:\\x.png", "a\\x.png", "a|b.png"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(UcdError, match="would be written outside of its folder"):
        find([tar_of(tmp_path / "x.tar", [("a.png", png()), (name, png())])])
    assert not list(cache_folder().rglob("*.png")) and not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
@pytest.mark.parametrize("name", ["b.png", "a.txt"])
def test_links_and_devices_are_refused(tmp_path, kind, name):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(UcdError, match=f"{name} is a link or a device"):
        find([tar_of(tmp_path / "x.tar", [("a.png", png()), (info, b"")])], Fields(captions=".txt"))


def test_a_link_that_nothing_reads_is_left_alone(tmp_path):
    info = tarfile.TarInfo("readme.md")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert len(find([tar_of(tmp_path / "x.tar", [("a.png", png()), (info, b"")])])) == 1


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    sparse = tarfile.TarInfo("a.png")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
    content = b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)
    with pytest.raises(UcdError, match=r"a\.png is larger than any image|can't be read"):
        find([tar_of(tmp_path / "x.tar", [(sparse, content)])])
    monkeypatch.setattr(tars, "MOST_BYTES", 50)
    with pytest.raises(UcdError, match=r"a\.png is larger than any image"):
        find([tar_of(tmp_path / "y.tar", [("a.png", png())])])
    assert not list(cache_folder().rglob("*.png"))


def test_a_file_that_claims_more_than_the_tar_holds(tmp_path):
    path = tar_of(tmp_path / "x.tar", [("a.png", png())])
    data = bytearray(path.read_bytes())
    info = tarfile.TarInfo("a.png")
    info.size = 2**29
    data[:512] = info.tobuf()
    path.write_bytes(data)
    with pytest.raises(UcdError, match=r"x\.tar can't be read"):
        find([path])


def test_a_tar_that_is_cut_short_or_none_is_refused(tmp_path):
    whole = tar_of(tmp_path / "x.tar", [(f"{n}.png", png()) for n in range(3)]).read_bytes()
    for data in (b"", b"no tar", whole[:700], whole[:1024], whole[:1500], whole[:2048], b"\xff" * 4096):
        (tmp_path / "x.tar").write_bytes(data)
        with pytest.raises(UcdError, match=r"x\.tar can't be read") as caught:
            find([tmp_path / "x.tar"])
        assert caught.value.hint == "copy or download it again"
    damaged = bytearray(whole)
    damaged[1024:1100] = b"\xff" * 76  # the second header
    (tmp_path / "x.tar").write_bytes(damaged)
    with pytest.raises(UcdError, match="damaged within"):
        find([tmp_path / "x.tar"])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("gone.tar", r"no such tar: .*gone\.tar"),
        ("s-{0..3}.tar", r"no such tar: .*s-0\.tar"),
        ("s-{3..0}.tar", "no such tar"),
        ("s-{0..99999999}.tar", "more than 10,000 tars"),
        ("x.tar.gz", r"x\.tar\.gz is compressed"),
    ],
)
def test_names_that_lead_to_no_tar(tmp_path, name, problem):
    with pytest.raises(UcdError, match=problem):
        find([tmp_path / name])


def test_a_tar_without_images(tmp_path):
    with pytest.raises(UcdError, match="no images in"):
        find([tar_of(tmp_path / "x.tar", [("a.txt", b"a"), (".b.png", png()), (".png", png())])])


def test_a_cache_that_cannot_be_written_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setenv("UCD_CACHE", str(tmp_path / "x.tar" / "below"))
    with pytest.raises(UcdError, match="can't write") as caught:
        find([tar_of(tmp_path / "x.tar", [("a.png", png())])])
    assert "UCD_CACHE" in caught.value.hint and caught.value.exit_code == 1
