"""The published configurations of Stable Diffusion 1, 2 and XL, for weights that come in one file without them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

from concepts_cli.errors import UcdError

Layout = Mapping[str, Mapping[str, Any]]  # file in the folder -> its content
MERGES = 49_152 - 256 - 2  # of CLIP's vocabulary of 49,408 tokens: 256 bytes, each twice, and two ends
START, END = "<|startoftext|>", "<|endoftext|>"
CROSS, PLAIN = "CrossAttn", ""
NOISE: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def _unet(channels: tuple[int, ...], attention: tuple[str, ...], **settings: Any) -> dict[str, Any]:
    return {
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": channels,
        "down_block_types": [f"{kind}DownBlock2D" for kind in attention],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(attention)],
        "layers_per_block": 2,
    } | settings


def _vae(side: int, scale: float, upcast: bool) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": side,
        "scaling_factor": scale,
        "force_upcast": upcast,
    }


def _text(kind: str, width: int, layers: int, heads: int, activation: str, projection: int) -> dict[str, Any]:
    return {
        "architectures": [kind],
        "model_type": "clip_text_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": activation,
        "projection_dim": projection,
        "max_position_embeddings": 77,
        "vocab_size": 49_408,
        "bos_token_id": 49_406,
        "eos_token_id": 49_407,
        "pad_token_id": 1,
    }


CLIP_L = _text("CLIPTextModel", 768, 12, 12, "quick_gelu", 768)
CLIP_H = _text("CLIPTextModel", 1024, 23, 16, "gelu", 512)  # the last of 24 layers is left out, as published
CLIP_G = _text("CLIPTextModelWithProjection", 1280, 32, 20, "gelu", 1280)


def _index(pipeline: str, **others: Any) -> dict[str, Any]:
    return {
        "_class_name": pipeline,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    } | others


def stable_diffusion_1(noise: dict[str, Any]) -> Layout:
    unet = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
    return {
        "model_index.json": _index("StableDiffusionPipeline"),
        "scheduler/scheduler_config.json": NOISE | noise,
        "unet/config.json": _unet((320, 640, 1280, 1280), (CROSS, CROSS, CROSS, PLAIN), **unet),
        "vae/config.json": _vae(512, 0.18215, False),
        "text_encoder/config.json": CLIP_L,
        "tokenizer/tokenizer_config.json": _tokenizer(END),
    }


def stable_diffusion_2(noise: dict[str, Any], side: int = 512) -> Layout:
    unet = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
    return {
        "model_index.json": _index("StableDiffusionPipeline"),
        "scheduler/scheduler_config.json": NOISE | noise,
        "unet/config.json": _unet((320, 640, 1280, 1280), (CROSS, CROSS, CROSS, PLAIN), sample_size=side // 8, **unet),
        "vae/config.json": _vae(side, 0.18215, False),
        "text_encoder/config.json": CLIP_H,
        "tokenizer/tokenizer_config.json": _tokenizer("!"),
    }


def stable_diffusion_xl(noise: dict[str, Any]) -> Layout:
    unet = {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    second = {
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "force_zeros_for_empty_prompt": True,
    }
    return {
        "model_index.json": _index("StableDiffusionXLPipeline", **second),
        "scheduler/scheduler_config.json": NOISE | {"timestep_spacing": "leading"} | noise,
        "unet/config.json": _unet((320, 640, 1280), (PLAIN, CROSS, CROSS), **unet),
        "vae/config.json": _vae(1024, 0.13025, True),
        "text_encoder/config.json": CLIP_L,
        "text_encoder_2/config.json": CLIP_G,
        "tokenizer/tokenizer_config.json": _tokenizer(END),
        "tokenizer_2/tokenizer_config.json": _tokenizer("!"),
    }


def _tokenizer(pad: str) -> dict[str, Any]:
    ends = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    return {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **ends}


def write_layout(layout: Layout, folder: Path) -> None:
    """Write a layout's files, and CLIP's vocabulary beside each of its tokenizers."""
    vocabulary, merges = clip_vocabulary()
    for name, content in layout.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        if path.name == "tokenizer_config.json":
            (path.parent / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
            (path.parent / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's tokens with their ids, and its byte-pair merges, from the file that open_clip brings."""
    package = find_spec("open_clip")
    places = package.submodule_search_locations if package else None
    try:
        file = Path((places or ["open_clip"])[0]) / "bpe_simple_vocab_16e6.txt.gz"
        lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError) as error:
        raise UcdError(
            f"CLIP's vocabulary can't be read: {error}", "pip install --force-reinstall open_clip_torch"
        ) from error
    merges = lines[1 : MERGES + 1]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair.split()) for pair in merges),
        START,
        END,
    ]
    return {token: row for row, token in enumerate(tokens)}, merges
