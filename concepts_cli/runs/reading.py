"""Read the files of a run folder, which may come from anyone: regular files only, bounded, and checked.

Every reader raises FileNotFoundError for a missing file, and UcdError for one that is damaged or can't be read.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from concepts_cli.errors import UcdError, first_line

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 2**28  # of a text file: 100,000 images take a tenth of it
MAX_LINE_BYTES = 2**17
MAX_DEPTH = 32  # of JSON
MAX_DIGITS = 18  # of a whole number in JSON
MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
TRAIN_AGAIN = "train again, or restore the file"
RESTORE = "restore the file, or make it again"
NOT_BLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a FIFO would wait for its writer


def damaged(path: Path, problem: str, hint: str = TRAIN_AGAIN) -> UcdError:
    """The error for a file of a run whose content is wrong."""
    return UcdError(f"{path} is damaged: {problem}", hint)


@contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file of at most `most` bytes, directly or through a symbolic link."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | NOT_BLOCKING), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise damaged(path, f"it is {_kind(status.st_mode)}", RESTORE)
            if most is not None and status.st_size > most:
                raise damaged(path, f"it has {status.st_size:,} bytes, and at most {most:,} make sense", RESTORE)
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UcdError(f"can't read {path}: {error.strerror or error}", "check its permissions and its disk") from error


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a file of at most `most` bytes."""
    with opened(path, most) as file:
        return file.read(most)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, numbered from 1."""
    with opened(path, MAX_BYTES) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
            if len(line) > MAX_LINE_BYTES:
                raise damaged(path, f"line {number} has more than {MAX_LINE_BYTES:,} bytes")
            yield number, line


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """The JSON object in a file; `hint` says how to mend a damaged one."""
    try:
        value = parse_json(read_bytes(path))
    except ValueError as error:
        raise damaged(path, f"it is not JSON: {error}", hint) from error
    if not isinstance(value, dict):
        raise damaged(path, "it holds no JSON object", hint)
    return value


def parse_json(text: bytes | str) -> Any:
    """JSON with finite numbers, nested at most `MAX_DEPTH` deep. Raises ValueError."""
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_not_a_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level, depth = [value], 0
    while level:
        level = [inner for outer in level for inner in _inside(outer)]
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
    return value


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in a safetensors file's header, read without torch."""
    with opened(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, MAX_HEADER_BYTES))
    try:
        metadata = parse_json(header).get("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are no texts")
        return dict(metadata)
    except (ValueError, AttributeError) as error:
        raise damaged(path, f"its header can't be read: {error}") from error


def read_tensors(path: Path, hint: str = TRAIN_AGAIN) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file; 16-bit floats become float32, and all floats are finite."""
    import torch
    from safetensors import SafetensorError, safe_open

    with opened(path):  # safe_open would wait for a FIFO
        pass
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise damaged(path, first_line(error), hint) from error
    for name, tensor in tensors.items():
        try:
            tensors[name] = tensor = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
            wrong = int((~tensor.float().isfinite()).sum()) if tensor.is_floating_point() else 0
        except (NotImplementedError, RuntimeError) as error:  # a type of less than a byte
            raise damaged(path, f"{name} is {str(tensor.dtype).removeprefix('torch.')}", hint) from error
        if wrong:
            raise damaged(path, f"{wrong} of the {tensor.numel()} numbers in {name} are not finite", hint)
    return metadata, tensors


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "not a regular file"


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")
