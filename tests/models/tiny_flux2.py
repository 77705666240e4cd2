"""A random Flux2KleinPipeline, built from the real classes: a byte-pair vocabulary, Qwen3, a flow transformer."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.models.tiny_z_image import build_tokenizer

WIDTH = 16
TOKENS = 48  # of a prompt, so that tests are quick; the published tokenizer has more, and 512 are used


def build_flux2(folder: Path | None = None, *, tokens: int = TOKENS, is_distilled: bool = False, **transformer):
    """The pipeline, saved to `folder` if there is one: 32 px pictures, 8x8x16 latents."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    tokenizer = build_tokenizer(tokens)
    text = Qwen3Config(
        vocab_size=len(tokenizer) + 20,  # as published: the table has more rows than the vocabulary
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=29,  # the network reads the states after 9, 18 and 27 of them
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    settings = {
        "in_channels": 16,
        "num_layers": 3,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 3 * WIDTH,
        "timestep_guidance_channels": 32,
        "axes_dims_rope": (4, 4, 4, 4),
        "guidance_embeds": False,
    }
    network = Flux2Transformer2DModel(**(settings | transformer))
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(text),
        tokenizer=tokenizer,
        transformer=network,
        is_distilled=is_distilled,
    )
    for part in (pipeline.text_encoder, pipeline.vae):
        part.eval()
    pipeline.set_progress_bar_config(disable=True)
    if folder:
        pipeline.save_pretrained(folder)
    return pipeline
