"""Random pipelines around a T5 text encoder, built from the real classes: PixArt and DeepFloyd IF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ["a", "photo", "of", "in", "the", "style", "painting", "cat", "dog", "red", "blue"]
WIDTH = 32


def build_tokenizer():
    """Some words after a space; others are spelled."""
    from transformers import T5Tokenizer

    ends = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz.,"]
    return T5Tokenizer(vocab=[*ends, *(("▁" + word, -1.0) for word in WORDS), *letters], extra_ids=4)


def build_text_encoder(vocabulary: int):
    """T5 1.1's encoder, whose word embeddings have a large deviation."""
    from transformers import T5Config, T5EncoderModel

    encoder = T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=WIDTH,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )
    encoder.shared.weight.data.mul_(8)
    return encoder.eval()


def build_pixart(folder: Path | None = None, *, kind: str = "Sigma", **network: Any):
    """The pipeline, saved to `folder` if there is one: 32 px pictures, 16x16x4 latents."""
    import diffusers

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24, "caption_channels": WIDTH}
    others = {"num_layers": 2, "sample_size": 16, "use_additional_conditions": False, "out_channels": 8}
    transformer = diffusers.PixArtTransformer2DModel(**sizes | others | network)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=0.13,
    )
    pipeline = getattr(diffusers, f"PixArt{kind}Pipeline")(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer) + 20),  # as published: more rows than the vocabulary
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_end=0.008),  # more would enlarge rounding errors
    )
    return _saved(pipeline, folder)


def build_if(folder: Path | None = None, *, variance: str = "learned_range"):
    """The pipeline of DeepFloyd IF's stage I, saved to `folder` if there is one: 16 px pictures."""
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        cross_attention_norm="group_norm",
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
        thresholding=True,
        variance_type=variance,
    )
    pipeline = IFPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer) + 20),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def _saved(pipeline: Any, folder: Path | None):
    for part in pipeline.components.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            if not parameter.any():  # some start at zero, and would hide what a test looks for
                torch.nn.init.normal_(parameter, std=0.1)
    pipeline.set_progress_bar_config(disable=True)
    if folder:
        pipeline.save_pretrained(folder)
    return pipeline


def learned() -> torch.Tensor:
    """The vectors of `<t1>` and `<t2>`, (2, D)."""
    return 8 * torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))


def taught(pipeline: Any, embeddings: torch.Tensor):
    """The pipeline with the words `<t1>` and `<t2>` in its own table."""
    pipeline.tokenizer.add_tokens(["<t1>", "<t2>"])
    pipeline.text_encoder.get_input_embeddings().weight.data[_rows(pipeline)] = embeddings
    return pipeline


def learn(pipeline: Any, table: torch.Tensor):
    """The taught pipeline, frozen, with gradients from these words to `table`."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    rows = _rows(pipeline)
    pipeline.text_encoder.encoder.embed_tokens.register_forward_hook(
        lambda _, args, output: sum(
            ((args[0] == each)[..., None] * (row - output) for each, row in zip(rows, table, strict=True)), start=output
        )
    )
    return pipeline


def _rows(pipeline: Any) -> list[int]:
    return pipeline.tokenizer.convert_tokens_to_ids(["<t1>", "<t2>"])
