"""A random StableDiffusionXLPipeline, built from the real classes, with text encoders of different widths."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.conftest import build_tokenizer

WIDTHS = {"clip_l": 16, "clip_g": 24}


def text_encoder(tokenizer, width: int, length: int, **options):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        **options,
    )
    return (CLIPTextModelWithProjection if "projection_dim" in options else CLIPTextModel)(config)


def build_xl(
    folder: Path | None = None,
    *,
    tokens: int = 16,
    side: int = 16,
    levels: int = 2,
    zeros: bool = True,
    end: int | None = 2,
):
    """The pipeline, saved to `folder` if there is one; pictures have 2 ** (levels - 1) times `side` pixels.

    `end` is the end token's id in the second text encoder's configuration, None for the tokenizer's; the published
    model has 2, which makes transformers pool the token with the largest id.
    """
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    first, second = build_tokenizer(tokens), build_tokenizer(tokens)
    second.pad_token = "!"  # as published: the two pad differently
    unet = UNet2DConditionModel(
        sample_size=side,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=sum(WIDTHS.values()),
        norm_num_groups=4,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    )
    vae = AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=side * 2 ** (levels - 1),
        force_upcast=True,
    )
    ends = {"bos_token_id": first.bos_token_id, "eos_token_id": first.eos_token_id}
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        tokenizer=first,
        tokenizer_2=second,
        text_encoder=text_encoder(first, WIDTHS["clip_l"], tokens, **ends),
        text_encoder_2=text_encoder(
            second, WIDTHS["clip_g"], tokens, projection_dim=20, **ends | ({"eos_token_id": end} if end else {})
        ),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    if folder:
        pipeline.save_pretrained(folder)
    return pipeline
