"""The hidden classes: from a JSON file, or from folders."""

import json

import pytest

from concepts_cli.errors import UcdError
from concepts_cli.metrics.labels import folder_labels, read_labels


def test_folders_are_labels_where_there_are_several():
    assert folder_labels(["/x/cats/1.png", "/x/dogs/1.png"]) == [["cats"], ["dogs"]]
    assert folder_labels(["/x/cats/1.png", "/x/cats/2.png"]) is None


@pytest.fixture
def labels_file(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"1.png": ["cat"], "b/1.png": ["dog"], "2.png": ["dog", "cat"]}))
    return path


def test_labels_are_found_by_name_and_by_folder_where_that_says_more(labels_file):
    assert read_labels(labels_file, ["/x/a/1.png", "/x/b/1.png", "2.png"]) == [["cat"], ["dog"], ["dog", "cat"]]


def test_images_left_out_are_named(labels_file):
    with pytest.raises(UcdError, match=r"2 of 3 images: 7\.png, 8\.png"):
        read_labels(labels_file, ["1.png", "7.png", "8.png"])


@pytest.mark.parametrize(
    "text, problem",
    [("{", "not JSON"), ("[]", "no labels"), ('{"1.png": "cat"}', "no list"), ('{"1.png": []}', "no list")],
)
def test_labels_of_another_form_are_refused(tmp_path, text, problem):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(UcdError, match=problem):
        read_labels(path, ["1.png"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UcdError, match=r"labels can't be read: .*gone\.json"):
        read_labels(tmp_path / "gone.json", [])
