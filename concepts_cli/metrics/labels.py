"""The hidden classes of images: from a JSON file, or from the names of their folders."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from concepts_cli.errors import UcdError
from concepts_cli.runs.reading import parse_json, read_bytes

FORM = 'expected {"file name": ["class", ...], ...}'


def read_labels(path: str | Path, images: Sequence[str]) -> list[list[str]]:
    """The classes of `images` from a JSON file {file name: [class, ...]}.

    A name may include folders, as in "cats/01.png". Raises UcdError if the file is missing, has another form, or leaves
    images out.
    """
    try:
        labels = parse_json(read_bytes(Path(path)))
    except FileNotFoundError as error:
        raise UcdError(f"labels can't be read: {path}: no such file", "evaluate.labels names them") from error
    except ValueError as error:
        raise UcdError(f"labels are not JSON: {path}: {error}", FORM) from error
    if not isinstance(labels, dict):
        raise UcdError(f"{path}: contains no labels", FORM)
    for name, classes in labels.items():
        if not (isinstance(classes, list) and classes and all(isinstance(label, str) for label in classes)):
            raise UcdError(f"{path}: {name!r} has no list of classes", FORM)
    keys = [_longest_match(image, labels) for image in images]
    if missing := [Path(image).name for image, name in zip(images, keys, strict=True) if name is None]:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        hint = FORM
        if len(missing) == len(images):
            hint = "its labels and class names are of other images: give --class-names, or evaluate.labels of these"
        raise UcdError(f"{path}: no classes for {len(missing)} of {len(images)} images: {shown}", hint)
    return [labels[name] for name in keys]


def folder_labels(images: Sequence[str]) -> list[list[str]] | None:
    """The name of each image's folder, or None if all lie in one folder."""
    folders = [[Path(image).parent.name] for image in images]
    return folders if len({Path(image).parent for image in images}) > 1 else None


def one_label(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> list[str]:
    """The single class of each image; if an image has several, the one that is among `classes`.

    Raises UcdError if that leaves none, or more than one.
    """
    chosen = []
    for own in labels:
        fitting = list(own) if len(own) == 1 else [label for label in own if label in classes]
        if len(fitting) != 1:
            raise UcdError(
                f"classification needs one class per image, but one has {', '.join(own)}",
                "evaluate.class_names (--class-names) says which of an image's labels count",
            )
        chosen += fitting
    return chosen


def _longest_match(image: str, names: Container[str]) -> str | None:
    """The longest of `names` that the path `image` ends in: "cats/01.png" before "01.png"."""
    parts = Path(image).parts
    return next((name for i in range(len(parts)) if (name := "/".join(parts[i:])) in names), None)
