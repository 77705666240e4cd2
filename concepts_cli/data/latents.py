"""Every training image goes through the VAE once; what training draws from is a small file of means and deviations."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from concepts_cli.data.images import ImageRecord, open_image, to_pixels
from concepts_cli.models.stable_diffusion import StableDiffusion


@dataclass
class Latents:
    """Means and standard deviations of N images' latents, each (O, N, C, h, w); O is 2 when mirrored ones are there,
    else 1.
    """

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return self.mean.shape[1]

    def draw(self, rows: Tensor, flip_probability: float, generator: torch.Generator) -> Tensor:
        """A sample of the latents of the images `rows` (B,), some mirrored -> (B, C, h, w), on the CPU."""
        mirrored = torch.zeros_like(rows)
        if self.mean.shape[0] == 2:
            mirrored = (torch.rand(rows.shape, generator=generator) < flip_probability).long()
        mean, std = self.mean[mirrored, rows], self.std[mirrored, rows]
        return mean + std * torch.randn(mean.shape, generator=generator)


def cache_folder() -> Path:
    """$UCD_CACHE, or `ucd` in the user's cache folder."""
    if place := os.environ.get("UCD_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ucd"


def encode(
    model: StableDiffusion,
    records: Sequence[ImageRecord],
    *,
    resolution: int,
    resize: str,
    mirrored: bool,
    batch_size: int = 8,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of a batch of images at a time, each (O, B, C, h, w)."""
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        pixels = torch.stack([to_pixels(open_image(Path(r.path)), resolution, resize) for r in batch])
        sides = [pixels, pixels.flip(-1)] if mirrored else [pixels]
        encoded = [model.encode_images(side) for side in sides]
        yield torch.stack([mean.cpu() for mean, _ in encoded]), torch.stack([std.cpu() for _, std in encoded])


def cache_file(
    model: StableDiffusion, records: Sequence[ImageRecord], *, resolution: int, resize: str, mirrored: bool
) -> Path:
    """Where these latents lie: the name has everything that they depend on, so that what is there is right."""
    key = hashlib.sha256(f"1 {model.vae_fingerprint} {resolution} {resize} {mirrored}".encode())
    for record in records:
        key.update(record.sha256.encode())
    return cache_folder() / "latents" / f"{key.hexdigest()[:32]}.safetensors"


def load_cached(path: Path) -> Latents | None:
    """The latents in a cache file, or None when it isn't there or isn't whole."""
    try:
        tensors = load_file(path)
        return Latents(tensors["mean"], tensors["std"])
    except Exception:  # safetensors raises its own type for a damaged file; a cache is made anew, never trusted
        return None


def save_cached(path: Path, latents: Latents) -> None:
    """Write a cache file beside its place and rename it; a cache that can't be written is no reason to stop."""
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError, SafetensorError):  # safetensors has its own for a full disk
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({"mean": latents.mean.contiguous(), "std": latents.std.contiguous()}, beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
