"""The package `daam` itself (Tang et al., ACL 2023): the other engine of `ucd visualize`.

It takes one prompt at a time, which it lower-cases, and needs guidance, 77 tokens, and pictures whose attention is on
64x64 or 96x96 places: 512 or 768 px, or 1024 px of Stable Diffusion XL.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from concepts_cli.data.images import to_image
from concepts_cli.errors import UcdError
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.models.stable_diffusion_xl import StableDiffusionXL
from concepts_cli.models.unet_diffusion import UNetDiffusion
from concepts_cli.recipe import SampleSettings

TOKENS = 77


def trace(pipeline: Any) -> Any:
    """Call `daam.trace`. Raises UcdError if the package is not installed."""
    os.environ.setdefault("MPLBACKEND", "agg")
    try:
        from daam import trace as daam_trace
    except ImportError as error:
        raise UcdError(
            f"the package daam can't be used here: {error}",
            "pip install 'concepts-cli[daam]' && pip install --no-deps daam==0.2.0",
        ) from error
    return daam_trace(pipeline)


def check(model: UNetDiffusion, prompt: str, guidance_scale: float, settings: SampleSettings) -> None:
    """Raise UcdError for what daam doesn't support."""
    native = "use --engine native"
    sides = {settings.height or model.resolution, settings.width or model.resolution}
    known = (512, 1024) if isinstance(model, StableDiffusionXL) else (512, 768)
    if model.max_tokens != TOKENS or sides not in [{side} for side in known]:
        has = f"{model.name} has {' x '.join(map(str, sorted(sides)))} px and {model.max_tokens} tokens"
        needs = f"pictures of {known[0]} or {known[1]} px and {TOKENS} tokens"
        raise UcdError(f"daam needs {needs}; {has}", native)
    if model.where != "input":
        raise UcdError("daam reads prompts by itself, without concepts at the text encoder's output", native)
    if settings.corrector_steps:
        raise UcdError("daam has no corrector steps", f"--corrector-steps 0, or {native}")
    if guidance_scale <= 1:
        raise UcdError("daam needs guidance", f"set --guidance-scale above 1, or {native}")
    if prompt != prompt.lower():
        raise UcdError(f"daam lower-cases prompts: {prompt!r}", f"write it in lower case, or {native}")


@torch.no_grad()
def daam_map(
    model: DiffusionModel, prompt: str, word: str, *, guidance_scale: float, seed: int, settings: SampleSettings
) -> tuple[Image.Image, Tensor]:
    """Generate the picture of a prompt, and daam's map of a word in it, (H, W), averaged over the steps.

    Raises UcdError for what daam doesn't support, and if daam doesn't find the word.
    """
    if not isinstance(model, UNetDiffusion):
        raise UcdError(f"daam doesn't support models like {model.name}", "use --engine native")
    check(model, prompt, guidance_scale, settings)
    pipeline = model.diffusers_pipeline(settings.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with trace(pipeline) as tracer:
        output = pipeline(
            prompt,
            negative_prompt=settings.negative_prompt or None,
            num_inference_steps=settings.steps,
            guidance_scale=guidance_scale,
            eta=settings.eta,
            height=settings.height,
            width=settings.width,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        )
        try:
            heat = tracer.compute_global_heat_map().compute_word_heat_map(word).heatmap
        except ValueError as error:
            raise UcdError(f"daam does not find {word!r} in {prompt!r}", "use --engine native") from error
    return to_image(model.decode(output.images)[0]), heat.float() / settings.steps
