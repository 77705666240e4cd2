"""`ucd import`: words that were learned elsewhere, as a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from concepts_cli.data.finding import find_images
from concepts_cli.data.images import ImageRecord
from concepts_cli.data.records import read_images
from concepts_cli.errors import UcdError
from concepts_cli.models import TOKEN, family_of
from concepts_cli.output import Output
from concepts_cli.paths import public_path
from concepts_cli.recipe import Recipe
from concepts_cli.recipe.fields import override
from concepts_cli.recipe.loading import plain_name
from concepts_cli.recipe.schema import ConceptSettings, DataSettings
from concepts_cli.runs.foreign import NAMELESS, Word, read_published_images, read_published_weights, read_words
from concepts_cli.runs.run import Run, bare_name
from concepts_cli.runs.training_folder import make_training_folder

ONE_BY_ONE = "import them one by one"
EMBEDDINGS, WEIGHTS, IMAGES = PUBLISHED = ("learned_embeds.bin", "weights.bin", "dataset_info.json")


def import_concepts(
    files: Sequence[Path],
    *,
    model: str,
    images: Sequence[Path] = (),
    name: str | None = None,
    output: Path | None = None,
    force: bool = False,
    out: Output | None = None,
) -> Run:
    """Make a run of textual-inversion files, or of the folder that the published code wrote.

    Each word becomes a concept of `model`, the one it was learned on. The published code's weights come along if its
    training images are found where it lists them, or by name in the folders `images`. The run is `output`, or
    runs/NAME; `name` is by default the first file's. Raises UcdError for files that can't be read or are made for
    another kind of model, for two words of one name, and for a folder that holds something, unless `force`.
    """
    out = out or Output(quiet=True)
    given = [inside for file in files for inside in _inside(file)]
    encoders = _encoders(model)
    read = [read_words(file, encoders) for file in given if file.name not in (WEIGHTS, IMAGES)]
    words, places = [word for words, _ in read for word in words], {where for _, where in read}
    if len(places) > 1:
        raise UcdError("some of these words are for the input of the text encoder, some for its output", ONE_BY_ONE)
    if not words:
        raise UcdError(f"no words in {', '.join(map(str, files))}", f"the published code's are in {EMBEDDINGS}")
    tokens, embeddings = _table(words)
    weights, records = _weights(given, images, len(tokens), out)
    recipe = Recipe(
        name=plain_name(files[0].resolve().stem),
        model=_place(model),
        data=DataSettings(images=tuple(dict.fromkeys(str(Path(each.path).parent) for each in records)) or ("images",)),
        concepts=ConceptSettings(
            count=len(tokens),
            vectors=len(words[0][1][next(iter(encoders))]),
            where=places.pop(),
            tokens=tuple(map(bare_name, tokens)),
        ),
    )
    if name:
        recipe = override(recipe, {"name": name})
    lock, _ = make_training_folder(recipe, output, resume=False, force=force)
    try:
        run = Run(lock.folder)
        run.clear()
        run.begin(recipe, records)
        run.save_concepts(tokens, embeddings, weights)
    finally:
        lock.release()
    return run


def _inside(file: Path) -> list[Path]:
    """The published code's files in a folder, or the file itself. Raises UcdError for a folder without them."""
    if not file.is_dir():
        return [file]
    if not (file / EMBEDDINGS).is_file():
        raise UcdError(f"{file} is not a folder of the published code", f"it has no {EMBEDDINGS}; name single files")
    return [file / name for name in PUBLISHED if (file / name).is_file()]


def _encoders(model: str) -> dict[str, set[str]]:
    """The model's text encoders, each with the keys that it has in other tools' files."""
    tools = family_of(model).tools
    if not tools:
        raise UcdError(f"words can't be imported for {public_path(model)}", "no other tool has any")
    keys: dict[str, set[str]] = defaultdict(set)
    for of_tool in tools.values():
        for encoder, key in of_tool.items():
            keys[encoder] |= {key} - {TOKEN, *NAMELESS}
    return dict(keys)


def _table(words: Sequence[Word]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The K words and their embeddings by text encoder, (K, D) or, of V vectors, (K, V, D)."""
    tokens = tuple(token for token, _ in words)
    if len({token.casefold() for token in tokens}) < len(tokens):
        raise UcdError("several of these words have the same name", "rename a file, or import them one by one")
    widths = [{encoder: row.shape[1] for encoder, row in rows.items()} for _, rows in words]
    if other := next((token for token, width in zip(tokens, widths, strict=True) if width != widths[0]), None):
        raise UcdError(f"{other} and {tokens[0]} were learned on different models", ONE_BY_ONE)
    counts = {len(next(iter(rows.values()))) for _, rows in words}
    if len(counts) > 1:
        has = " and ".join(map(str, sorted(counts)))
        raise UcdError(f"these words have {has} vectors", ONE_BY_ONE)
    tables = {encoder: torch.stack([rows[encoder] for _, rows in words]) for encoder in words[0][1]}
    return tokens, {encoder: table.squeeze(1) for encoder, table in tables.items()}


def _weights(
    files: Sequence[Path], folders: Sequence[Path], count: int, out: Output
) -> tuple[Tensor | None, list[ImageRecord]]:
    """The published weights (N, K) and their images; None and nothing if a part of them is missing, which is said."""
    parts: Mapping[str, Path] = {file.name: file for file in files}
    if WEIGHTS not in parts:
        return None, []
    if IMAGES not in parts:
        out.warn(f"importing without weights: {IMAGES} is missing, which says what their rows are")
        return None, []
    weights, listed = read_published_weights(parts[WEIGHTS]), read_published_images(parts[IMAGES])
    if weights.shape != (len(listed), count):
        found = " x ".join(map(str, weights.shape))
        problem = f"{parts[WEIGHTS]} has {found} weights, for {len(listed)} images and {count} words"
        raise UcdError(problem, "leave it out, or give the files of one training")
    by_name = {path.name: path for path in (find_images(folders) if folders else [])}
    paths = [Path(place) if Path(place).is_file() else by_name.get(Path(place).name) for place in listed]
    if missing := [place for place, path in zip(listed, paths, strict=True) if path is None]:
        where = "--images FOLDER says where they are"
        out.warn(f"importing without weights: {len(missing)} of {len(listed)} training images are not here; {where}")
        return None, []
    return weights, read_images([path.absolute() for path in paths if path])


def _place(model: str) -> str:
    """A model's folder or file as a run's recipe has it: absolute."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model
