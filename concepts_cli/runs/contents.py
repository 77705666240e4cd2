"""What the files of a run hold, each checked as it is read: tokens, embeddings, weights, images, checkpoints.

Raises what `reading` raises. Shapes: N images, K concepts, D embedding width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepts_cli.data.captions import MARK
from concepts_cli.models.embeddings import from_file
from concepts_cli.runs.reading import damaged, parse_json, read_lines, read_metadata, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from concepts_cli.data.images import ImageRecord

# Its name is a folder's name, and a word in prompts; `all` means all, and the others are devices on Windows.
TOKEN = re.compile(r"<(?!(?i:all|con|prn|aux|nul|com\d|lpt\d)>)\w[\w-]*>")
SHA256 = "[0-9a-f]{64}"
MOST = 1e6  # of an embedding's numbers: a model's own are below 100
MAX_TOKEN_BYTES = 120  # a file's name has at most 255
CHECKPOINT_HINT = "delete it to continue from an earlier one, or start over with --force"


def is_token(token: object) -> bool:
    """Whether this is `<NAME>` with a name that is safe as a file's name."""
    return isinstance(token, str) and bool(TOKEN.fullmatch(token)) and len(token.encode()) <= MAX_TOKEN_BYTES


def read_tokens(path: Path, metadata: dict[str, str] | None = None) -> tuple[str, ...]:
    """The K tokens that the metadata of concepts.safetensors name; the file's header is enough."""
    try:
        tokens = parse_json((read_metadata(path) if metadata is None else metadata)["tokens"])
    except (KeyError, ValueError) as error:
        raise damaged(path, "it does not name its concepts") from error
    if not isinstance(tokens, list) or not tokens:
        raise damaged(path, "it does not name its concepts")
    if wrong := [token for token in tokens if not is_token(token)]:
        raise damaged(path, f"{str(wrong[0])[:60]!r} is not the name of a concept, such as <t1>")
    if len({token.casefold() for token in tokens}) < len(tokens):
        raise damaged(path, "several concepts have the same name")
    return tuple(tokens)


def read_concepts(path: Path) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The K tokens, and their embeddings by text encoder, (K, D) or, of V vectors, (K, V, D), float32."""
    metadata, tensors = read_tensors(path)
    tokens, embeddings = read_tokens(path, metadata), from_file(tensors)
    if not embeddings:
        raise damaged(path, "it holds no embeddings")
    for table in embeddings.values():
        _check_floats(path, "the embeddings", table)
        if table.numel() and table.abs().max() > MOST:
            raise damaged(path, f"its embeddings reach {table.abs().max():.0e}, and at most {MOST:.0e} makes sense")
        if table.ndim not in (2, 3) or len(table) != len(tokens) or not table.numel():
            raise damaged(path, f"it names {len(tokens)} concepts, and its embeddings are {tuple(table.shape)}")
    return tokens, embeddings


def read_weights(path: Path, images: int, tokens: Sequence[str]) -> Tensor:
    """The weights of N images, (N, K), float32."""
    metadata, tensors = read_tensors(path)
    if "weights" not in tensors:
        raise damaged(path, "it holds no weights")
    weights = tensors["weights"]
    _check_floats(path, "the weights", weights)
    if weights.shape != (images, len(tokens)):
        found = " x ".join(map(str, weights.shape)) or "one number"
        raise damaged(path, f"it belongs to another run: {found}, not {images} images x {len(tokens)} concepts")
    if "tokens" in metadata and read_tokens(path, metadata) != tuple(tokens):
        raise damaged(path, "it belongs to another run, whose concepts have other names")
    return weights


def read_images(path: Path) -> list[ImageRecord]:
    """The N training images of images.jsonl."""
    records = [_image(path, number, line) for number, line in read_lines(path)]
    if not records:
        raise damaged(path, "it is empty")
    return records


def read_checkpoint(path: Path, step: int) -> dict[str, Tensor]:
    """The tensors of a checkpoint, which has to be that of `step`."""
    import torch

    _, state = read_tensors(path, CHECKPOINT_HINT)
    number = state.get("step", torch.empty(0))
    if number.is_floating_point() or number.numel() != 1 or int(number) != step:
        raise damaged(path, f"it is not the checkpoint of step {step}", CHECKPOINT_HINT)
    if "images" in state and (state["images"].dtype != torch.uint8 or state["images"].shape[1:] != (32,)):
        raise damaged(path, "its list of images can't be read", CHECKPOINT_HINT)
    for name, tensor in state.items():
        if name.startswith(("concepts.", "optimizer.")) and not tensor.is_floating_point():
            raise damaged(path, f"{name} holds no floating-point numbers", CHECKPOINT_HINT)
        if name.endswith((".step", ".exp_avg_sq")) and tensor.numel() and tensor.min() < 0:
            raise damaged(path, f"{name} is negative", CHECKPOINT_HINT)
    return state


def _image(path: Path, number: int, line: bytes) -> ImageRecord:
    from concepts_cli.data.images import ImageRecord

    try:
        fields: Any = parse_json(line)
    except ValueError as error:
        raise damaged(path, f"line {number} is not JSON: {error}") from error
    match fields:
        case {"path": str(place), "sha256": str(sha256), "width": int(width), "height": int(height)}:
            sizes = type(width) is type(height) is int and min(width, height) > 0  # True is an int, too
            if _is_path(place) and re.fullmatch(SHA256, sha256) and sizes:
                return ImageRecord(place, sha256, width, height, **_belongings(path, number, fields))
    raise damaged(path, f"line {number} does not describe an image by its path, sha256, width and height")


def _belongings(path: Path, number: int, fields: dict[str, Any]) -> dict[str, Any]:
    """The caption, the mask and the place of an image, as far as it has them."""
    own: dict[str, Any] = {key: fields[key] for key in ("caption", "mask", "mask_sha256", "place") if key in fields}
    caption, place = own.get("caption", MARK), own.get("place", 0)
    masked = own.keys() & {"mask", "mask_sha256"}
    mask, sha256 = own.get("mask", "mask"), own.get("mask_sha256", "0" * 64)
    fits = isinstance(caption, str) and MARK in caption and type(place) is int and place >= 0 and len(masked) != 1
    if not (fits and _is_path(mask) and isinstance(sha256, str) and re.fullmatch(SHA256, sha256)):
        raise damaged(path, f"line {number} has a caption, a mask or a place that can't be one")
    return own


def _is_path(text: object) -> bool:
    return isinstance(text, str) and bool(text) and "\0" not in text


def _check_floats(path: Path, what: str, tensor: Tensor) -> None:
    if str(tensor.dtype) != "torch.float32":
        raise damaged(path, f"{what} are {str(tensor.dtype).removeprefix('torch.')}, expected float32")
