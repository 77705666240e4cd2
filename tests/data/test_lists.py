"""Lists of paths, as people write them and as nobody should."""

from __future__ import annotations

import os
import sys

import pytest

from concepts_cli.data import lists
from concepts_cli.data.finding import find
from concepts_cli.data.records import read_images
from concepts_cli.data.source import Fields
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from tests.data.pictures import picture


@pytest.fixture
def table(tmp_path):
    """Write a list beside the pictures a.png, b.png and deep/c.png."""
    for name in ("a.png", "b.png", "deep/c.png"):
        picture(tmp_path / name)

    def write(content: str | bytes, name: str = "list.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def names(path, **fields) -> list[str]:
    return [found.path.name for found in find([path], Fields(**fields))]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("path\nb.png\ndeep/c.png\n", "list.csv"),
        ("\ufeffPATH,x\r\nb.png,1\r\n deep/c.png ,2\r\n", "list.CSV"),
        ("x\tfile_name\n1\tb.png\n2\tdeep/c.png", "list.tsv"),
        ('only\n"b.png"\n"deep/c.png"', "list.csv"),
        ("image,path\nnothing,b.png\nnothing,deep/c.png", "list.csv"),
    ],
)
def test_paths_are_in_the_order_of_rows_and_relative_to_the_list(table, content, name):
    assert names(table(content, name)) == ["b.png", "c.png"]


def test_absolute_paths_captions_and_a_column_of_another_name(table, tmp_path):
    path = table(f"where,what\n{tmp_path / 'a.png'},a {{}}\nb.png,\n")
    first, second = find([path], Fields(images="where", captions="what", optional=True))
    assert (first.path.name, first.caption, second.caption) == ("a.png", "a {}", None)
    with pytest.raises(UcdError, match=r"no caption of b\.png: .*list\.csv:3, what is missing"):
        read_images(find([path], Fields(images="where", captions="what")))


def test_captions_may_lie_beside_the_listed_images(table, tmp_path):
    (tmp_path / "a.txt").write_text("a {}")
    assert find([table("path\na.png")], Fields(captions=".txt"))[0].caption == "a {}"


def test_skipping_and_taking_a_few(table):
    path = table("path\na.png\nb.png\ndeep/c.png")
    assert [found.path.name for found in find([path], skip=1, most=1)] == ["b.png"]
    with pytest.raises(UcdError, match="data.skip_images: 3 leaves none of the 3 images"):
        find([path], skip=3)


@pytest.mark.parametrize(
    ("content", "problem", "hint"),
    [
        ("", r"list\.csv is empty", "names of its columns"),
        ("path\n", r"no images in .*list\.csv", "a row per image"),
        ("a.png\nb.png\n", "begins with a path", "path on top"),
        ("x,y\na.png,1", "has no column path", "data.image_column to one of x, y"),
        ("path\na.png,b.png\n", "line 2 has more cells", None),
        ('path\n"a.png', "can't be read", None),
        (b"path\n\xff\xfe.png\n", "it isn't UTF-8 text", None),
        ("path\n" + "x" * 200_000, "field larger than field limit", None),
    ],
)
def test_a_list_that_is_none_is_refused_in_a_line(table, content, problem, hint):
    with pytest.raises(UcdError, match=problem) as caught:
        find([table(content)])
    assert len(caught.value.message.splitlines()) == 1 and (hint or "names of columns") in caught.value.hint


@pytest.mark.parametrize(
    "cell", ["gone.png", "", "  ", "a\0.png", "/etc", "https://x.org/a.png", "\x1b[2J.png", "x" * 9000]
)
def test_a_row_without_an_image_is_named_with_its_line_and_can_be_skipped(table, cell, capsys):
    path = table(f'path,n\na.png,1\n"{cell}",2\n')
    with pytest.raises(UcdError, match=r"list\.csv:3: no ") as caught:
        read_images(find([path]))
    assert "\x1b" not in caught.value.message and len(caught.value.message) < 600
    assert len(read_images(find([path]), skip_broken=True, out=Output())) == 1
    assert "skipping 1 of 2 images" in capsys.readouterr().err


def test_a_file_that_is_no_image_is_not_taken_for_one(table):
    with pytest.raises(UcdError, match=r"not a readable image: .*list\.csv"):
        read_images(find([table("path\nlist.csv")]))


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes of POSIX")
def test_a_pipe_is_not_waited_for(table, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UcdError, match="no such image: pipe.png"):
        read_images(find([table("path\npipe.png")]))
    with pytest.raises(UcdError, match="no such list of images"):
        find([tmp_path / "pipe.csv"])


def test_lists_have_limits(table, monkeypatch):
    path = table("path\n" + "a.png\n" * 20)
    monkeypatch.setattr(lists, "MOST_ROWS", 10)
    with pytest.raises(UcdError, match="more than 10 rows"):
        find([path])
    monkeypatch.setattr(lists, "MOST_BYTES", 10)
    with pytest.raises(UcdError, match="more than 10 bytes"):
        find([path])


def test_a_wrong_column_is_said_to_be_so(table):
    path = table("path,text\na.png,a {}")
    for fields, what in (
        ({"captions": "txt"}, "captions"),
        ({"masks": "m"}, "masks"),
        ({"images": "pth"}, "image_column"),
    ):
        with pytest.raises(UcdError, match=f"data.{what}: .* has no column") as caught:
            find([path], Fields(**fields))
        assert caught.value.hint


def test_parquet_holds_paths_and_neither_pictures_nor_bombs(table, tmp_path, monkeypatch):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(**columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
        return tmp_path / "list.parquet"

    assert names(write(path=["b.png", "a.png"])) == ["b.png", "a.png"]
    for cell in ({"bytes": b"x", "path": "a.png"}, 3, None):
        with pytest.raises(UcdError, match=r"list\.parquet, row 1: no path of an image"):
            read_images(find([write(image=[cell, cell])]))
    bomb = write(path=pyarrow.array(["a.png"]).dictionary_encode().take(pyarrow.array([0] * 2000)))
    monkeypatch.setattr(lists, "MOST_ROWS", 1000)
    with pytest.raises(UcdError, match="2,000 rows of .* are too many"):
        find([bomb])
    whole = bomb.read_bytes()
    for damaged in (b"PAR1", whole[:-20], whole[: len(whole) // 2], b"path\na.png"):
        with pytest.raises(UcdError, match=r"list\.parquet can't be read"):
            find([table(damaged, "list.parquet")])


def test_only_the_columns_that_are_asked_for_are_read_from_parquet(table, tmp_path, monkeypatch):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"path": ["b.png", "a.png"], "text": [["a {}"], ["b {}", "c {}"]], "large": ["x" * 20_000, "y" * 20_000]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
    read, real = [], parquet.ParquetFile.read
    monkeypatch.setattr(
        parquet.ParquetFile, "read", lambda file, **how: read.append(how["columns"]) or real(file, **how)
    )
    monkeypatch.setattr(lists, "MOST_BYTES", 10_000)
    found = find([tmp_path / "list.parquet"], Fields(captions="text"))
    assert [image.caption for image in found] == ["a {}", "b {}"] and read == [["path", "text"]]
    with pytest.raises(UcdError, match="too many for a list of paths"):
        find([tmp_path / "list.parquet"], Fields(captions="large"))


def test_parquet_without_pyarrow_says_how_to_get_it(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UcdError, match="needs pyarrow") as caught:
        find([table("x", "list.parquet")])
    assert caught.value.hint == "pip install 'concepts-cli[datasets]'"
