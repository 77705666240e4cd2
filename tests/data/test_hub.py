"""Datasets through `datasets`: local folders here, in the layouts that the hub has."""

from __future__ import annotations

import sys
from zipfile import ZipFile

import pytest

from concepts_cli.data import hub
from concepts_cli.data.finding import find
from concepts_cli.data.records import read_images
from concepts_cli.data.source import Fields
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from tests.data.pictures import picture


@pytest.fixture
def dataset(tmp_path):
    """Write a dataset with a split of these columns, and return its place."""
    datasets = pytest.importorskip("datasets")

    def write(split: str = "train", **columns) -> str:
        kinds = {name: datasets.Image() if name in ("image", "mask") else None for name in columns}
        table = datasets.Dataset.from_dict(columns)
        for name, kind in kinds.items():
            if kind:
                table = table.cast_column(name, kind)
        (tmp_path / "set").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "set" / f"{split}.parquet")
        return f"hf:{tmp_path / 'set'}[{split}]"

    return write


def images(tmp_path, count: int, **options) -> list[dict]:
    files = [picture(tmp_path / "drawn" / f"{n}.png", (8 + n, 4), **options) for n in range(count)]
    return [{"bytes": path.read_bytes(), "path": None} for path in files]


def test_rows_become_files_in_their_order_with_captions_and_masks(dataset, tmp_path):
    rows = images(tmp_path, 3)
    place = dataset(image=rows, mask=rows, text=["a {}", "b {}", "c {}"])
    found = find([place], Fields(captions="text", masks="mask"))
    assert [image.caption for image in found] == ["a {}", "b {}", "c {}"]
    records = read_images(found)
    assert [record.width for record in records] == [8, 9, 10]
    assert [record.mask_sha256 for record in records] == [record.sha256 for record in records]
    assert found[0].path.read_bytes() == rows[0]["bytes"]


def test_a_folder_of_images_and_another_split(tmp_path):
    pytest.importorskip("datasets")
    for split, count in (("train", 2), ("test", 3)):
        for n in range(count):
            picture(tmp_path / "set" / split / "cats" / f"{n}.jpg", (8 + n, 4))
    assert [record.width for record in read_images(find([f"hf:{tmp_path / 'set'}[test]"]))] == [8, 9, 10]
    assert len(find([f"hf:{tmp_path / 'set'}"])) == 2  # train


def test_images_in_a_zip(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    with ZipFile(tmp_path / "set" / "images.zip", "w") as archive:
        for row in images(tmp_path, 3):
            archive.writestr(f"{len(archive.namelist())}.png", row["bytes"])
    assert [record.width for record in read_images(find([f"hf:{tmp_path / 'set'}"]))] == [8, 9, 10]


def test_only_the_chosen_rows_are_fetched_and_none_twice(dataset, tmp_path, monkeypatch):
    place = dataset(image=images(tmp_path, 6))
    kept, real = [], hub._keep
    monkeypatch.setattr(hub, "_keep", lambda *given: kept.append(given[1]) or real(*given))
    assert [record.width for record in read_images(find([place], skip=1, most=2))] == [9, 10]
    assert kept == [1, 2]
    assert len(find([place], skip=2, most=3)) == 3 and kept == [1, 2, 3, 4]
    monkeypatch.setitem(sys.modules, "datasets", None)  # not needed for what is here
    assert len(find([place], skip=1, most=4)) == 4
    monkeypatch.undo()


def test_all_rows_are_known_to_be_all(dataset, tmp_path, monkeypatch):
    place = dataset(image=images(tmp_path, 3))
    assert len(find([place], most=99)) == len(find([place])) == 3
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(find([place])) == 3
    with pytest.raises(UcdError, match="has 3 rows, and data.skip_images is 3"):
        find([place], skip=3)


def test_what_was_fetched_before_an_interrupt_is_kept(dataset, tmp_path, monkeypatch):
    place = dataset(image=images(tmp_path, 4))
    kept, real = [], hub._keep

    def interrupted(*given):
        if given[1] == 2 and len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(given[1])
        real(*given)

    monkeypatch.setattr(hub, "_keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find([place])
    kept.append(None)
    assert len(find([place])) == 4 and kept == [0, 1, None, 2, 3]


def test_a_folder_that_has_changed_is_read_again(dataset, tmp_path):
    assert len(find([dataset(image=images(tmp_path, 2))])) == 2
    assert len(find([dataset(image=images(tmp_path, 5))])) == 5


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("hf:", "names no dataset"),
        ("hf:a/b/c/d[train]", "names no dataset"),
        ("hf:a b[train]", "names no dataset"),
        ("hf:a/b[train[:10]]", "names no dataset"),
        ("hf:https://x.org/a[train]", "names no dataset"),
        ("hf:nobody/nothing[train]", "hf:nobody/nothing.train.: "),
    ],
)
def test_names_that_lead_nowhere(place, problem):
    pytest.importorskip("datasets")
    with pytest.raises(UcdError, match=problem) as caught:
        find([place])
    assert caught.value.hint and len(caught.value.message.splitlines()) == 1


def test_wrong_splits_and_columns_are_said_to_be_so(dataset, tmp_path):
    place = dataset(image=images(tmp_path, 1), text=["a"])
    with pytest.raises(UcdError, match="test"):
        find([place.replace("train", "test")])
    for fields, what in (
        ({"captions": "txt"}, "captions"),
        ({"masks": "m"}, "masks"),
        ({"images": "x"}, "image_column"),
    ):
        with pytest.raises(UcdError, match=f"data.{what}: .* has no column"):
            find([place], Fields(**fields))
    with pytest.raises(UcdError, match="data.captions: '.txt': .* has columns, no files"):
        find([place], Fields(captions=".txt"))
    with pytest.raises(UcdError, match="has no column of images"):
        find([dataset(text=["a"])])


def test_rows_without_an_image_a_caption_or_a_picture_in_it_can_be_skipped(dataset, tmp_path, capsys):
    rows = images(tmp_path, 4)
    rows[1] = {"bytes": b"no picture", "path": None}
    rows[2] = None
    place = dataset(image=rows, text=["a {}", "a {}", "a {}", None])
    found = find([place], Fields(captions="text"))
    with pytest.raises(UcdError) as caught:
        read_images(found)
    assert [line.rpartition("/")[2] for line in caught.value.message.splitlines()] == [
        "00000001.png", "00000002.png", "00000003.txt is missing",
    ]  # fmt: skip
    assert len(read_images(found, skip_broken=True, out=Output())) == 1


def test_of_several_captions_the_first_is_taken(dataset, tmp_path):
    place = dataset(image=images(tmp_path, 3), text=[["a {}", "b {}"], ["", "c {}"], []])
    found = find([place], Fields(captions="text", optional=True))
    assert [image.caption for image in found] == ["a {}", "c {}", None]


def test_a_folder_with_the_name_of_a_dataset_is_read_only_if_it_is_meant(dataset, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    dataset(image=images(tmp_path, 2))
    (tmp_path / "set").rename(tmp_path / "name")
    (tmp_path / "user").mkdir()
    (tmp_path / "name").rename(tmp_path / "user" / "name")
    monkeypatch.chdir(tmp_path)
    assert len(find(["hf:./user/name[train]"])) == 2
    asked = []

    def load(name, *given, **options):
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UcdError, match="no network") as caught:
        find(["hf:user/name[train]"])
    assert asked == ["hf://datasets/user/name"] and caught.value.hint.endswith("is hf:./user/name")


def test_files_of_this_machine_are_not_read_for_a_dataset(dataset, tmp_path):
    private = picture(tmp_path / "private.png")
    with pytest.raises(UcdError, match=r"names a file outside of itself: .*private\.png"):
        find([dataset(image=[{"bytes": None, "path": str(private)}])])


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UcdError, match="needs the package datasets") as caught:
        find(["hf:user/name[train]"])
    assert caught.value.hint == "pip install 'concepts-cli[datasets]'"
