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


def on_paper(name: str, *, side: int, count: int, batch: int, batches: int) -> dict[str, float]:
    """What can be known without running: weights, and the UNet's arithmetic in a step of `batches` times `batch` images
    and `count` concepts.
    """
    from torch.utils.flop_counter import FlopCounterMode

    meta = torch.device("meta")
    pipeline = full_size_pipeline(name, device=meta, dtype=torch.bfloat16)
    unet, rows = pipeline.unet.requires_grad_(False), batch
    width = unet.config.cross_attention_dim
    latents = torch.empty(rows, 4, side // 8, side // 8, dtype=torch.bfloat16, device=meta)
    hidden = torch.empty(rows, 77, width, dtype=torch.bfloat16, device=meta, requires_grad=True)
    added = None
    if unet.config.addition_embed_type:
        pooled, sizes = (torch.empty(rows, size, dtype=torch.bfloat16, device=meta) for size in (1280, 6))
        added = {"text_embeds": pooled, "time_ids": sizes}
    times = torch.empty(rows, dtype=torch.long, device=meta)
    with FlopCounterMode(display=False) as forward:
        output = unet(latents, times, hidden, added_cond_kwargs=added, return_dict=False)[0]
    with FlopCounterMode(display=False) as backward:
        output.float().square().mean().backward()
    calls = count * batches
    step = forward.get_total_flops() * (calls + batches) + backward.get_total_flops() * calls
    parts = {
        part: getattr(pipeline, part)
        for part in ("unet", "vae", "text_encoder", "text_encoder_2")
        if hasattr(pipeline, part)
    }
    weights = {
        f"{part} weights, millions": sum(p.numel() for p in module.parameters()) / 1e6 for part, module in parts.items()
    }
    per_image = {
        "forward TFLOP per row": forward.get_total_flops() / rows / 1e12,
        "backward TFLOP per row": backward.get_total_flops() / rows / 1e12,
    }
    return weights | per_image | {"TFLOP per step": step / 1e12}
