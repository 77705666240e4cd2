"""Published architectures at full size with random weights: everything but the download.

The configurations are those that `ucd` completes single files with; the vocabulary is CLIP's own, from open_clip.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from concepts_cli.models.layouts import (
    Layout,
    stable_diffusion_1,
    stable_diffusion_2,
    stable_diffusion_xl,
    write_layout,
)
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.models.stable_diffusion_xl import StableDiffusionXL
from concepts_cli.models.unet_diffusion import UNetDiffusion
from concepts_cli.output import silence_libraries

Family = type[StableDiffusion] | type[StableDiffusionXL]
ARCHITECTURES: dict[str, tuple[Callable[[dict[str, Any]], Layout], Family]] = {
    "sd15": (stable_diffusion_1, StableDiffusion),
    "sd21": (stable_diffusion_2, StableDiffusion),
    "sdxl": (stable_diffusion_xl, StableDiffusionXL),
}


def full_size(name: str, *, device: torch.device, dtype: torch.dtype) -> UNetDiffusion:
    """A model of this architecture, with weights as its classes initialise them."""
    family = ARCHITECTURES[name][1]
    return family(full_size_pipeline(name, device=device, dtype=dtype), name, device=device, dtype=dtype)


def full_size_pipeline(name: str, *, device: torch.device, dtype: torch.dtype) -> Any:
    """The same as diffusers' pipeline, to be saved to a folder."""
    silence_libraries()
    import diffusers
    import transformers

    layout, family = ARCHITECTURES[name]
    files = layout({})
    parts: dict[str, Any] = dict.fromkeys(set(family.left_out) - {"requires_safety_checker", "add_watermarker"})
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_layout(files, Path(folder))
        for part, kind in files["model_index.json"].items():
            if not isinstance(kind, list):
                continue
            made = getattr({"diffusers": diffusers, "transformers": transformers}[kind[0]], kind[1])
            config = files.get(f"{part}/config.json", {})
            if part.startswith("tokenizer"):
                parts[part] = made.from_pretrained(Path(folder, part))
            elif part == "scheduler":
                parts[part] = made.from_config(files[f"{part}/scheduler_config.json"])
            elif kind[0] == "transformers":
                with torch.device(device):
                    parts[part] = made(made.config_class.from_dict(dict(config))).to(dtype)
            else:
                with torch.device(device):
                    parts[part] = made.from_config(dict(config)).to(dtype)
    options = {key: value for key, value in files["model_index.json"].items() if isinstance(value, bool)}
    if "requires_safety_checker" in family.left_out:
        options["requires_safety_checker"] = False
    return getattr(diffusers, family.pipeline_class)(**parts, **options)
