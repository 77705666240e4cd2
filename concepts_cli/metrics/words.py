"""The words that a concept may be named with."""

from __future__ import annotations

from pathlib import Path

from concepts_cli.errors import UcdError
from concepts_cli.runs.reading import read_bytes


def known_words(*, built_in: bool) -> list[str]:
    """The default words: the built-in model's objects, filters and times of day; for other models, the labels of
    ImageNet-1k.
    """
    if built_in:
        from concepts_cli.mini.captions import CLASSES
        from concepts_cli.mini.filters import STYLES

        return [*CLASSES, *STYLES, "night", "day"]
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    first = (info.index_to_description(index).split(", ")[0] for index in range(info.num_classes()))
    return list(dict.fromkeys(first))


def read_words(path: str | Path) -> list[str]:
    """The words in a file, one per line; `#` begins a comment. Raises UcdError if there are none."""
    try:
        lines = read_bytes(Path(path)).decode("utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UcdError(f"words can't be read: {path}: {error}", "evaluate.words names a text file") from error
    if words := [word for line in lines if (word := line.partition("#")[0].strip())]:
        return list(dict.fromkeys(words))
    raise UcdError(f"no words in {path}", "write one per line")
