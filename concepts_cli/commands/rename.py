"""`ucd rename`: a concept gets a name of one's own, everywhere in its run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from concepts_cli.errors import UcdError, shown
from concepts_cli.metrics.evaluation import WAIT_SECONDS, read_metrics
from concepts_cli.output import Output
from concepts_cli.pictures.names import file_name
from concepts_cli.pictures.words import NAME
from concepts_cli.recipe import Recipe, dump_recipe, load_recipe
from concepts_cli.runs.contents import is_token
from concepts_cli.runs.files import png_text, write_json, write_png, write_safetensors, write_text
from concepts_cli.runs.lock import RunLock, locked
from concepts_cli.runs.reading import read_tensors
from concepts_cli.runs.run import CONCEPTS, EVALUATION, RECIPE, WEIGHTS, Run, bare_name

PICTURES = ("samples", "compositions", "heatmaps", "previews", "metrics")
OWN_WORDS = ("prompt", "negative_prompt", "word")  # of a picture's metadata, where a concept has brackets


def rename(run: Run, concept: str, name: str, *, out: Output | None = None) -> Run:
    """Call a concept of a finished run `name`: in its recipe, its files and folders, its scores and its pictures.

    Returns the run, read again. Its page, and what is drawn on sheets, stay as they are until they are made again; of
    sheets this is said. Raises UcdError for a concept that the run doesn't have, a name that can't be one or is taken,
    and a run that is being trained.
    """
    old, new = run.token(concept), f"<{bare_name(name.strip())}>"
    tokens = [new if token == old else token for token in run.tokens]
    if new.casefold() in [token.casefold() for token in run.tokens if token != old]:
        raise UcdError(f"{shown(name)!r} is the name of another concept of {run.path}", "rename that one first")
    recipe = _renamed_recipe(run, tokens)
    if recipe is None or not is_token(new):
        raise UcdError(f"{shown(name)!r} can't be the name of a concept", "use letters, digits, _ and -")
    lock = RunLock(run.path)
    lock.take()
    try:
        _rename_words(run, old, new, tokens)
        write_text(run.path / RECIPE, dump_recipe(recipe))
        _rename_in_scores(run, bare_name(old), bare_name(new))
        _rename_in_pictures(run, Renaming(bare_name(old), bare_name(new)), out or Output(quiet=True))
    finally:
        lock.release()
    return Run(run.path)


def _renamed_recipe(run: Run, tokens: list[str]) -> Recipe | None:
    """The run's recipe with these names; None if they can't be names."""
    load_recipe(run.path / RECIPE)  # raises for other mistakes
    try:
        return load_recipe(run.path / RECIPE, {"concepts.tokens": list(map(bare_name, tokens))})
    except UcdError:
        return None


def _rename_words(run: Run, old: str, new: str, tokens: list[str]) -> None:
    """Embeddings and weights. In between, the weights name no concepts: a kill leaves files that fit each other."""
    weights = read_tensors(run.path / WEIGHTS)[1] if (run.path / WEIGHTS).is_file() else None  # imported runs have none
    if weights is not None:
        write_safetensors(run.path / WEIGHTS, weights)
    file = run.path / "embeddings" / f"{bare_name(old)}.safetensors"
    if file.is_file():
        metadata, tensors = read_tensors(file)
        named = {new if name == old else name: tensor for name, tensor in tensors.items()}
        write_safetensors(file.with_name(f"{bare_name(new)}.safetensors"), named, metadata)
    metadata, tensors = read_tensors(run.path / CONCEPTS)
    metadata["tokens"] = json.dumps(tokens)
    write_safetensors(run.path / CONCEPTS, tensors, metadata)
    if weights is not None:
        write_safetensors(run.path / WEIGHTS, weights, {"tokens": metadata["tokens"]})
    if new != old:
        file.unlink(missing_ok=True)


def _rename_in_scores(run: Run, old: str, new: str) -> None:
    with locked(run.path, EVALUATION, wait=WAIT_SECONDS):
        if metrics := read_metrics(run):
            write_json(run.path / EVALUATION, {"run": run.name, "metrics": _renamed_value(metrics, old, new)})


def _renamed_value(value: Any, old: str, new: str) -> Any:
    """A JSON value in which `old` as a key or as a text is `new`; in a sentence, as a word."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key == "command"}  # it names no concept
        return {new if key == old else key: _renamed_value(item, old, new) for key, item in value.items()} | kept
    if isinstance(value, list):
        return [_renamed_value(item, old, new) for item in value]
    if isinstance(value, str) and (value == old or " " in value):
        return re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", new, value)
    return value


def _rename_in_pictures(run: Run, renaming: Renaming, out: Output) -> None:
    sheets, texts = [], dict[Path, str]()  # the folders that are called after a text with the concept, and their names
    for path in _pictures(run):
        before = png_text(path)
        after = {key: renaming.metadata(key, text) for key, text in before.items()}
        for old, new in zip(_folder_names(before), _folder_names(after), strict=True):
            texts |= {folder: new for folder in list(path.parents)[:2] if folder.name == old != new}
        if "prompt" not in before and (after != before or "--concept all" in before.get("command", "")):
            sheets.append(path)
        if after != before:
            with Image.open(path, formats=["PNG"]) as picture:
                picture.load()
            write_png(path, picture, after)
    if sheets:
        some = f"{sheets[0]}" + (f" and {len(sheets) - 1} more" if len(sheets) > 1 else "")
        again = png_text(sheets[0]).get("command")
        out.note(f"the old name is still drawn on {some}")
        if again:
            out.note(f"to draw it again: {again}")
    for folder in PICTURES:
        for path in sorted((run.path / folder).rglob("*"), key=lambda path: -len(path.parts)):  # the innermost first
            moved = path.with_name(texts.get(path) or renaming.part(path.name))
            if moved != path and moved.exists():
                out.warn(f"{path} keeps its name: {moved} exists already")
            elif moved != path:
                path.rename(moved)


def _folder_names(metadata: Mapping[str, str]) -> tuple[str, str]:
    """What a picture's folder is called if it is called after its prompt, or after the terms of a composition."""
    try:
        words = shlex.split(metadata.get("command", ""))
    except ValueError:
        words = []
    options = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
    sweeps = [word for option, word in pairwise(words) if option == "--sweep"]
    return file_name(metadata.get("prompt", "")), file_name("+".join([*words[2:options], *sweeps]))


def _pictures(run: Run) -> Iterator[Path]:
    for folder in PICTURES:
        yield from (path for path in sorted((run.path / folder).rglob("*.png")) if not path.name.startswith("."))


@dataclass(frozen=True)
class Renaming:
    """How texts and names of files change. A name such as `t3` is the concept wherever it stands; others are not."""

    old: str
    new: str

    @property
    def _anywhere(self) -> bool:
        return re.fullmatch(NAME, self.old) is not None

    def metadata(self, key: str, text: str) -> str:
        if key in OWN_WORDS:
            return text.replace(f"<{self.old}>", f"<{self.new}>")
        if key != "command":
            return text
        try:
            return shlex.join(map(self._word, shlex.split(text)))
        except ValueError:
            return text

    def _word(self, word: str) -> str:
        """A word of a command: a concept, several, a term, or a text that mentions concepts."""
        word = word.replace(f"<{self.old}>", f"<{self.new}>")
        word = re.sub(rf"(?:^|(?<=,)){re.escape(self.old)}(?=$|[,@=])", f"<{self.new}>", word)
        bare = rf"(?<![\w<:/-]){re.escape(self.old)}(?![\w>/-])"
        return re.sub(bare, f"<{self.new}>", word) if self._anywhere else word

    def part(self, name: str) -> str:
        """The name of a file or folder: `t3`, `00000-t3.png`, `t3-mask.png`; for `t3` also a composition, `t1+t3=4`."""
        if self._anywhere:
            return re.sub(rf"(?<![^\W_]){re.escape(self.old)}(?![^\W_])", self.new, name)
        return re.sub(rf"^(\d+-)?{re.escape(self.old)}(-mask)?(\.\w+)?$", rf"\g<1>{self.new}\g<2>\g<3>", name)
