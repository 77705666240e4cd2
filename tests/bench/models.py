"""What is measured: the built-in model, and a tiny random one of the shape of Stable Diffusion 2.1."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from concepts_cli.models import load_model
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.output import silence_libraries
from tests.conftest import build_pipeline, build_tokenizer

NAMES = ("mini", "tiny-sd21")


def bench_model(name: str, device: str = "cpu") -> StableDiffusion:
    if name == "mini":
        return load_model("mini", device=device, dtype=torch.float32)
    return _tiny_sd21(torch.device(device))


def _tiny_sd21(device: torch.device) -> StableDiffusion:
    """SD 2.1-base with few channels and layers: 64x64 latents of 512 px, four levels, 77 tokens 1,024 wide, the whole
    table of 49,408 words. With these channels a text costs some percent of a UNet call, as it does there.
    """
    silence_libraries()  # no bars among the figures
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with tempfile.TemporaryDirectory() as folder:
        pipeline = StableDiffusionPipeline.from_pretrained(build_pipeline(Path(folder)), safety_checker=None)
    torch.manual_seed(0)
    pipeline.tokenizer = build_tokenizer(77, tokens=49408)
    text = pipeline.text_encoder.config.to_dict()
    wide = {"vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 128, "num_hidden_layers": 1}
    wide |= {"num_attention_heads": 16, "max_position_embeddings": 77}
    pipeline.text_encoder = CLIPTextModel(CLIPTextConfig(**(text | wide)))
    pipeline.unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(48, 96, 192, 192),
        layers_per_block=1,
        cross_attention_dim=1024,
        attention_head_dim=(2, 4, 8, 8),
        norm_num_groups=16,
        use_linear_projection=True,
    )
    pipeline.vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=512,
    )
    return StableDiffusion(pipeline, "tiny-sd21", device=device, dtype=torch.float32)
