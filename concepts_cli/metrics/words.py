"""The words that a concept may be named with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from concepts_cli.errors import UcdError
from concepts_cli.runs.reading import read_bytes

FRAGMENT = 1.05  # times the row of an ending, before which the row of its word comes


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


def without_fragments(vocabulary: Mapping[str, int], *, built_in: bool) -> dict[str, int]:
    """The entries of a byte-pair vocabulary, {word: row}, that are words, not ends of words such as "arfish".

    The built-in model's words are those of its captions. In other vocabularies, whose rows are in the order of merging,
    an end is as frequent as the word that it belongs to, so that the two are merged one soon after the other.
    """
    if built_in:
        from concepts_cli.mini.captions import words

        return {word: vocabulary[word] for word in words() if word in vocabulary}
    soonest: dict[str, int] = {}  # by ending, the first row after its own of a longer word
    for word, row in sorted(vocabulary.items(), key=lambda entry: -entry[1]):
        endings = (word[start:] for start in range(1, len(word) - 1))
        soonest |= {end: row for end in endings if row > vocabulary.get(end, row)}
    return {word: row for word, row in vocabulary.items() if soonest.get(word, FRAGMENT * row + 1) > FRAGMENT * row}


def read_words(path: str | Path) -> list[str]:
    """The words in a file, one per line; `#` begins a comment. Raises UcdError if there are none."""
    try:
        lines = read_bytes(Path(path)).decode("utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UcdError(f"words can't be read: {path}: {error}", "evaluate.words names a text file") from error
    if words := [word for line in lines if (word := line.partition("#")[0].strip())]:
        return list(dict.fromkeys(words))
    raise UcdError(f"no words in {path}", "write one per line")
