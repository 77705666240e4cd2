"""Atomic, durable writes: a killed process or a power cut leaves the old file or the new one, never half a file."""

from __future__ import annotations

import json
import os
import secrets
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepts_cli.errors import UcdError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it replaces `path` if the block succeeds, once the disk holds it.

    Raises UcdError (1) if it can't be written.
    """
    beside = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.touch()
            mode = beside.stat().st_mode  # as the umask wants it, whatever a library makes of it
            yield beside
            beside.chmod(mode)
            _flush(beside, os.O_RDWR)
            beside.replace(path)
            with suppress(OSError):  # not every system can flush a folder
                _flush(path.parent, os.O_RDONLY)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def _flush(path: Path, flags: int) -> None:
    """Wait until the disk holds what was written."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> UcdError:
    """The error for a path that can't be written."""
    return UcdError(f"can't write {path}: {error.strerror or error}", "choose another --output", exit_code=1)


def check_place(folder: Path) -> None:
    """Raise UcdError, before any long work, if `folder` can't be created or written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UcdError(f"can't write to {folder}: {there} is not a folder", "choose another --output")
    try:
        with tempfile.TemporaryFile(dir=there):  # os.access always says yes to root
            pass
    except OSError as error:
        raise UcdError(f"can't write to {folder}: {there}: {error.strerror}", "choose another --output") from error


def check_file(path: Path, *, force: bool) -> None:
    """Raise UcdError, before any long work, if `path` exists, unless `force`, or can't be written."""
    if path.exists() and not force:
        raise UcdError(f"{path} exists already", "--force overwrites it")
    check_place(path.parent)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    write_text(path, json.dumps(document, indent=2) + "\n")


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors; the same ones and the same metadata are the same bytes."""
    from safetensors.torch import save

    whole = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])  # safetensors has the metadata in any order
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as beside, beside.open("wb") as file:
        file.writelines((len(text).to_bytes(8, "little"), text, memoryview(whole)[8 + length :]))


def write_png(path: Path, image: Image.Image, metadata: dict[str, Any]) -> None:
    """Write a PNG with `metadata` as text chunks."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, str(value))
    with replacing(path) as beside:
        image.save(beside, pnginfo=info)


def png_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG; empty for any other file, and for a damaged one."""
    from PIL import Image

    if not path.is_file():  # a FIFO would wait for its writer
        return {}
    try:
        with Image.open(path, formats=["PNG"]) as file:
            return dict(getattr(file, "text", {}))
    except (OSError, SyntaxError, ValueError, OverflowError, struct.error, zlib.error, Image.DecompressionBombError):
        return {}
