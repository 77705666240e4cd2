"""Words and weights from elsewhere: textual-inversion files, and what the published code writes.

Pickled files are read with torch's weights-only unpickler, which makes tensors and nothing else. Shapes: N images,
K concepts, D embedding width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepts_cli.errors import UcdError, first_line, shown
from concepts_cli.models import OUTPUT
from concepts_cli.recipe.schema import Place
from concepts_cli.runs.contents import MOST, is_token
from concepts_cli.runs.reading import opened, read_object, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

Word = tuple[str, dict[str, "Tensor"]]  # <name>, and its vectors (V, D) by text encoder
PICKLED, SAFE = (".bin", ".pt", ".pth"), ".safetensors"
MOST_VECTORS = 64
MAX_BYTES = 2**28  # an embedding has some kilobytes
NAMELESS = {"emb_params", "emp_params", "*"}  # keys of the only tensor, where the file's name is the word's
HINT = "give a textual-inversion file: .safetensors, .bin or .pt"


def read_words(path: Path, encoders: Mapping[str, set[str]]) -> tuple[list[Word], Place]:
    """The words in a file of diffusers, AUTOMATIC1111, ComfyUI, kohya, OneTrainer or the published code, and whether
    they are for the text encoder's `input` or `output`.

    `encoders` are the model's text encoders, each with the keys that it may have in such files. Raises UcdError for a
    file that holds no words, or those of another kind of model.
    """
    name, tensors = _content(path)
    if at_output := {key.removesuffix(OUTPUT): each for key, each in tensors.items() if key.endswith(OUTPUT)}:
        tensors = at_output  # what is for the input beside it is zeros
    return _words(path, name, tensors, encoders), "output" if at_output else "input"


def _words(path: Path, name: str, tensors: Mapping[str, Tensor], encoders: Mapping[str, set[str]]) -> list[Word]:
    found = {encoder: key for encoder, keys in encoders.items() for key in keys if key in tensors}
    if set(found) == set(encoders) and len(tensors) == len(encoders):
        return [_word(path, name, {encoder: tensors[key] for encoder, key in found.items()})]
    if len(encoders) > 1 or tensors.keys() & {"clip_l", "clip_g"}:
        has, needs = (" and ".join(sorted(names)) for names in (tensors, encoders))
        raise UcdError(f"{path} is made for another kind of model: it has {shown(has)}", f"this model has {needs}")
    (encoder,) = encoders
    words: list[Word] = []
    for key, tensor in tensors.items():
        names = [name] if key in NAMELESS else [part.strip() for part in key.split(",")]
        rows = tensor.reshape(len(names), -1) if len(names) > 1 and len(tensor) == len(names) else tensor
        split = rows.split(1) if len(names) > 1 else [rows]
        if len(split) != len(names):
            raise UcdError(f"{path} names {len(names)} words and has {len(split)} vectors", HINT)
        words += [_word(path, each, {encoder: row}) for each, row in zip(names, split, strict=True)]
    return words


def read_published_weights(path: Path) -> Tensor:
    """The weights in the published code's weights.bin, (N, K)."""
    _, tensors = _content(path)
    if "weights" not in tensors or tensors["weights"].ndim < 2:
        raise UcdError(f"{path} holds no weights of the published code", "leave it out, or restore it")
    return tensors["weights"].flatten(1)


def read_published_images(path: Path) -> list[str]:
    """The N training images that the published code's dataset_info.json lists, in the order of the weights' rows."""
    listed = read_object(path, "leave it out, or restore it")
    places = [listed.get(str(row)) for row in range(len(listed))]
    if not places or not all(isinstance(place, str) and place and "\0" not in place for place in places):
        raise UcdError(f"{path} does not list images by their numbers", "leave it out, or restore it")
    return [str(place) for place in places]


def _content(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The word's name, if the file has one, otherwise the file's; and its tensors, finite and float32."""
    import torch

    try:
        if path.suffix.lower() == SAFE:
            return path.stem, _floats(path, read_tensors(path, HINT)[1])
        if path.suffix.lower() not in PICKLED:
            raise UcdError(f"{path} is not a textual-inversion file", HINT)
        with opened(path, MAX_BYTES) as file:
            try:
                content = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever a damaged or malicious pickle makes the unpickler raise
                problem = f"{path} can't be read without running what is in it: {first_line(error)}"
                raise UcdError(problem, "convert it to .safetensors where you trust it") from error
    except FileNotFoundError as error:
        raise UcdError(f"no such file: {path}", HINT) from error
    name = path.stem
    if isinstance(content, dict) and isinstance(content.get("string_to_param"), dict):  # AUTOMATIC1111's
        name = content["name"] if isinstance(content.get("name"), str) else name
        content = content["string_to_param"]
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise UcdError(f"{path} holds no words", HINT)
    return name, _floats(path, content)


def _floats(path: Path, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    for tensor in tensors.values():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or not tensor.numel():
            raise UcdError(f"{path} holds something other than words", HINT)
        if not tensor.isfinite().all() or tensor.abs().max() > MOST:
            raise UcdError(f"{path} holds numbers that no word has", HINT)
    return {key: tensor.detach().float() for key, tensor in tensors.items()}


def _word(path: Path, name: str, tensors: Mapping[str, Tensor]) -> Word:
    """A word with a name that is safe as a file's. Raises UcdError for tensors that are not its vectors."""
    token = "<" + re.sub(r"[^\w-]+", "-", name).strip("-") + ">"
    if not is_token(token):
        raise UcdError(f"{path}: {shown(name)} can't name a concept", "rename the file")
    rows = {encoder: tensor.reshape(1, -1) if tensor.ndim == 1 else tensor for encoder, tensor in tensors.items()}
    counts = {tuple(tensor.shape[:-1]) for tensor in rows.values()}
    if len(counts) > 1 or any(len(count) != 1 or count[0] > MOST_VECTORS for count in counts):
        vectors = " and ".join(" x ".join(map(str, count)) for count in sorted(counts))
        raise UcdError(f"{path}: {shown(name)} has {vectors} vectors", f"a word has 1 to {MOST_VECTORS}")
    return token, rows
