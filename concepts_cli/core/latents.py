"""Latents of the training images: each image is encoded once and cached on disk, one small file per image.

A file's path names everything that its content depends on, so an existing file is always valid: later runs use it,
whatever other images they have; two runs may fill the cache at once; and interrupted encoding continues. Files are
memory-mapped when they are read.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from concepts_cli.data.buckets import training_size
from concepts_cli.data.cache import cache_folder
from concepts_cli.data.images import ImageRecord, open_image, to_pixels
from concepts_cli.data.masks import latent_mask
from concepts_cli.errors import UcdError
from concepts_cli.models.interface import DiffusionModel

ENCODED = 8  # images in a call of the image encoder
KEPT_BYTES = 256 * 2**20  # of latents to keep in memory once read
Moments = tuple[Tensor, Tensor]  # mean and standard deviation of one image's latents, each (C, h, w)


class Latents(Protocol):
    """The latents of N images. If some have a mask, they are `masked`."""

    @property
    def masked(self) -> bool: ...

    def __len__(self) -> int: ...

    def moments(self, row: int, *, mirrored: bool = False) -> Moments: ...

    def shape(self, row: int) -> tuple[int, int, int]: ...

    def mask(self, row: int, *, mirrored: bool = False) -> Tensor: ...


class Preparation(TypedDict):
    """How an image is prepared for the image encoder."""

    resolution: int
    resize: str
    mirrored: bool


class CachedLatents:
    """Latents in the cache folder, read on demand; the last `KEPT_BYTES` of them stay in memory."""

    def __init__(
        self, model: DiffusionModel, records: Sequence[ImageRecord], *, resolution: int, resize: str, mirrored: bool
    ):
        """`resolution` is in pixels; `resize` is as for `to_pixels`; `mirrored` also caches mirror images."""
        self.model, self.records = model, records
        self.how: Preparation = {"resolution": resolution, "resize": resize, "mirrored": mirrored}
        sides = f"{resize} {model.size_multiple}" if resize == "bucket" else resize
        key = f"2 {model.fingerprint} {model.dtype} {resolution} {sides} {mirrored}"
        self.folder = cache_folder() / "latents" / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._unwritten: dict[int, dict[str, Tensor]] = {}
        capacity = max(KEPT_BYTES // self._bytes(model.latent_shape(resolution, resolution)), 1)
        self._read: Callable[[int], dict[str, Tensor]] = lru_cache(maxsize=capacity)(self._load)
        self.masked = any(record.mask for record in records)
        self._read_mask: Callable[[int], Tensor] = lru_cache(maxsize=capacity)(self._load_mask)

    def __len__(self) -> int:
        return len(self.records)

    def moments(self, row: int, *, mirrored: bool = False) -> Moments:
        tensors = self._read(row)
        side = int(mirrored and self.how["mirrored"])
        return tensors["mean"][side].float(), tensors["std"][side].float()

    def mask(self, row: int, *, mirrored: bool = False) -> Tensor:
        """How much each place of an image counts, (1, h, w) in [0, 1]: all of it, if it has no mask."""
        mask = self._read_mask(row)
        return mask.flip(-1) if mirrored and self.how["mirrored"] else mask

    def _load_mask(self, row: int) -> Tensor:
        return mask_of(self.records[row], self.shape(row), self.model, self.how["resolution"], self.how["resize"])

    def shape(self, row: int) -> tuple[int, int, int]:
        """(C, h, w) of an image's latents."""
        record, how = self.records[row], self.how
        size = training_size(
            record.width,
            record.height,
            resolution=how["resolution"],
            resize=how["resize"],
            multiple=self.model.size_multiple,
        )
        return self.model.latent_shape(*reversed(size))

    def _bytes(self, shape: tuple[int, int, int]) -> int:
        """Bytes on disk of the moments of latents (C, h, w)."""
        return 2 * (1 + self.how["mirrored"]) * math.prod(shape) * self.model.dtype.itemsize

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Those of `rows` that are not cached yet."""
        return [row for row in rows if not self._is_there(row)]

    def encode_missing(self, rows: Sequence[int], *, batch_size: int = ENCODED) -> Iterator[int]:
        """Encode and cache `rows`, one batch of images of one size at a time; yield each row when it is done."""
        for _, alike in groupby(sorted(rows, key=self.shape), key=self.shape):
            same = list(alike)
            for start in range(0, len(same), batch_size):
                batch = same[start : start + batch_size]
                ((means, stds),) = encode(self.model, [self.records[row] for row in batch], **self.how)
                for position, row in enumerate(batch):
                    moments = {"mean": means[:, position], "std": stds[:, position]}
                    self._write(row, {name: each.to(self.model.dtype).contiguous() for name, each in moments.items()})
                    yield row

    def _path(self, row: int) -> Path:
        digest = self.records[row].sha256
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def _is_there(self, row: int) -> bool:
        """Whether the file exists with its full length: the header, then every byte of the tensors."""
        if row in self._unwritten:
            return True
        try:
            with self._path(row).open("rb") as file:
                header = int.from_bytes(file.read(8), "little")
                return os.fstat(file.fileno()).st_size == 8 + header + self._bytes(self.shape(row))
        except OSError:
            return False

    def _load(self, row: int) -> dict[str, Tensor]:
        if row in self._unwritten:
            return self._unwritten[row]
        path = self._path(row)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            hint = "delete it and continue with --resume, which makes it again"
            raise UcdError(f"the cached latents {path} can't be read", hint, exit_code=1) from error

    def _write(self, row: int, tensors: dict[str, Tensor]) -> None:
        """Write atomically; if the cache can't be written, keep the latents in memory."""
        path = self._path(row)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, beside)
            if not self._is_there(row):  # another run may have written it meanwhile, and be using it
                beside.replace(path)
        except (OSError, SafetensorError):  # safetensors has its own error for a full disk
            self._unwritten[row] = tensors
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def mask_of(record: ImageRecord, shape: tuple[int, ...], model: DiffusionModel, resolution: int, resize: str) -> Tensor:
    """How much each place of an image's latents (C, h, w) counts, (1, h, w). Raises what `latent_mask` raises."""
    height, width = shape[-2:]
    if not record.mask:
        return torch.ones(1, height, width)
    return latent_mask(Path(record.mask), (height, width), resolution, resize, model.size_multiple)


def encode(
    model: DiffusionModel,
    records: Sequence[ImageRecord],
    *,
    resolution: int,
    resize: str,
    mirrored: bool,
    batch_size: int = ENCODED,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the mean and standard deviation of one batch of images at a time, (O, B, C, h, w) each.

    The images of a batch must be of one size once they are resized.
    """
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        pixels = torch.stack(
            [to_pixels(open_image(Path(r.path)), resolution, resize, model.size_multiple) for r in batch]
        )
        sides = [pixels, pixels.flip(-1)] if mirrored else [pixels]
        encoded = [model.encode_images(side) for side in sides]
        yield torch.stack([mean.cpu() for mean, _ in encoded]), torch.stack([std.cpu() for _, std in encoded])
