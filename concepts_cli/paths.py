"""Paths in what others will see: a page, a published run, a picture's metadata. They name no folder of this machine."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

HUB = "hf:"  # before a dataset's name, or a folder's in the layout of one
IMAGE_FILES = (".csv", ".tsv", ".parquet", ".tar")  # that list or hold many
COMPRESSED = (".tar.gz", ".tgz")  # that are refused, with a hint


def holds_images(name: str) -> bool:
    """Whether a file of this name lists or holds images, as `data.images` takes it."""
    return name.lower().endswith((*IMAGE_FILES, *COMPRESSED))


def public_path(path: str | Path) -> str:
    """A path, or any other text, that can be shown to others.

    Of an absolute path, and of one that leads out of the current folder, only the last name remains, or `~` for the
    user's home; a relative one stays.
    """
    text = os.fspath(path)
    if text.startswith(HUB):
        return HUB + public_path(text.removeprefix(HUB))
    place = Path(text).expanduser() if text.startswith("~") else Path(text)
    if not place.is_absolute() and ".." not in place.parts:
        return text
    return "~" if place == Path("~").expanduser() else place.name or place.anchor


def public_settings(settings: T) -> T:
    """A dataclass of settings, such as a recipe, with only public paths."""
    return dataclasses.replace(
        settings, **{field.name: _public(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    )


def _public(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return public_settings(value)
    if isinstance(value, tuple):
        return tuple(map(_public, value))
    return public_path(value) if isinstance(value, str) else value
