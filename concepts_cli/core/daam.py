"""The package `daam` (Tang et al., ACL 2023) itself, where it can be used: the other engine of `ucd visualize`.

It takes one prompt at a time, under guidance, of a model with 77 tokens and 64x64 or 96x96 latents, and lower-cases the
prompt.
"""

from __future__ import annotations

import os

import torch
from PIL import Image
from torch import Tensor

from concepts_cli.core.sampling import Request
from concepts_cli.errors import UcdError
from concepts_cli.models.stable_diffusion import StableDiffusion

TOKENS = 77


def trace(pipeline):
    """`daam.trace`. Raises UcdError when the package is not installed."""
    os.environ.setdefault("MPLBACKEND", "agg")
    try:
        from daam import trace as daam_trace
    except ImportError as error:
        raise UcdError(
            f"the package daam can't be used here: {error}",
            "pip install 'concepts-cli[daam]' && pip install --no-deps daam==0.2.0",
        ) from error
    return daam_trace(pipeline)


def check(model: StableDiffusion, request: Request) -> None:
    """Raise UcdError for what daam can't do."""
    (term,) = request.terms
    native = "use --engine native"
    if model.tokenizer.model_max_length != TOKENS or model.resolution not in (512, 768):
        has = f"{model.name} has {model.resolution} px and {model.tokenizer.model_max_length} tokens"
        raise UcdError(f"daam needs pictures of 512 or 768 px and {TOKENS} tokens; {has}", native)
    if term.weight <= 1:
        raise UcdError("daam records under guidance only", f"--guidance-scale above 1, or {native}")
    if term.prompt != term.prompt.lower():
        raise UcdError(f"daam lower-cases prompts: {term.prompt!r}", f"write it in small letters, or {native}")


@torch.no_grad()
def daam_map(
    model: StableDiffusion, request: Request, word: str, *, num_inference_steps: int, scheduler: str
) -> tuple[Image.Image, Tensor]:
    """The picture of a request of one term, and daam's map of a word in it, (H, W), a mean over the steps.

    Raises UcdError for what daam can't do, and when it does not find the word.
    """
    from diffusers import StableDiffusionPipeline

    check(model, request)
    (term,) = request.terms
    pipeline = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=model.scheduler(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    with trace(pipeline) as tracer:
        output = pipeline(
            term.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=term.weight,
            generator=torch.Generator().manual_seed(request.seed),
        )
        try:
            heat = tracer.compute_global_heat_map().compute_word_heat_map(word).heatmap
        except ValueError as error:
            raise UcdError(f"daam does not find {word!r} in {term.prompt!r}", "use --engine native") from error
    return output.images[0], heat.float() / num_inference_steps
