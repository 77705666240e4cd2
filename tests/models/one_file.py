"""A pipeline's weights under the names that they have in one file, as Stable Diffusion was first published."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
IMAGE = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
}
OPEN_CLIP = {
    "text_model.encoder.layers": "transformer.resblocks",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.final_layer_norm": "ln_final",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def replaced(key: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        key = key.replace(new, old)
    return key


def unet_key(key: str, layers: int, attends: list[bool]) -> str:
    """`attends` says of each level of the way up whether it has attention."""
    kind, _, rest = key.partition(".")
    if kind not in ("down_blocks", "up_blocks", "mid_block"):
        return replaced(key, ENDS)
    if kind == "mid_block":
        part, number, rest = rest.split(".", 2)
        place = f"middle_block.{1 if part == 'attentions' else 2 * int(number)}"
    else:
        level, part, number, rest = rest.split(".", 3)
        down = kind == "down_blocks"
        each = layers + 1
        block, side = int(level) * each + int(number), "input" if down else "output"
        if part == "downsamplers":
            return f"input_blocks.{int(level) * each + each}.0.{rest.replace('conv', 'op')}"
        if part == "upsamplers":
            return f"output_blocks.{int(level) * each + layers}.{1 + attends[int(level)]}.{rest}"
        place = f"{side}_blocks.{block + down}.{int(part == 'attentions')}"
    return f"{place}.{replaced(rest, RESNET) if part == 'resnets' else rest}"


def vae_key(key: str, levels: int) -> str:
    for way in ("down", "up"):
        if f".{way}_blocks." in key:
            side, _, level, part, number, rest = key.split(".", 5)
            level = int(level) if way == "down" else levels - 1 - int(level)
            part = f"block.{number}" if part == "resnets" else f"{way}sample"
            return replaced(f"{side}.{way}.{level}.{part}.{rest}", IMAGE)
    return replaced(key, IMAGE)


def open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of open_clip, whose attention has query, key and value in one tensor."""
    found = {"text_projection": state.pop("text_projection.weight").T.contiguous()}
    for key, tensor in state.items():
        head, _, kind = key.rpartition(".")
        if head.endswith(("k_proj", "v_proj")):
            continue
        if head.endswith("q_proj"):
            parts = [state[f"{head[:-6]}{letter}_proj.{kind}"] for letter in "qkv"]
            found[replaced(head[:-7], OPEN_CLIP).replace("self_attn", f"attn.in_proj_{kind}")] = torch.cat(parts)
        else:
            found[replaced(key, OPEN_CLIP)] = tensor
    return found


def save_one_file(pipeline, path: Path, **said: str) -> Path:
    """Write the weights of a Stable Diffusion 1 or XL pipeline into one file; `said` becomes its metadata."""
    config, levels = pipeline.unet.config, len(pipeline.vae.config.block_out_channels)
    attends = ["CrossAttn" in kind for kind in config.up_block_types]
    weights = {}
    for key, tensor in pipeline.unet.state_dict().items():
        name = unet_key(key, config.layers_per_block, attends)
        weights[f"model.diffusion_model.{name}"] = tensor
    for key, tensor in pipeline.vae.state_dict().items():
        name = vae_key(key, levels)
        is_matrix = ".attn_1." in name and tensor.ndim == 2  # once a convolution of 1 x 1
        weights[f"first_stage_model.{name}"] = tensor[..., None, None] if is_matrix else tensor
    second = getattr(pipeline, "text_encoder_2", None)
    prefix = "conditioner.embedders.0.transformer." if second else "cond_stage_model.transformer."
    for key, tensor in pipeline.text_encoder.state_dict().items():
        weights[f"{prefix}text_model.{key.removeprefix('text_model.')}"] = tensor
    if second:
        for key, tensor in open_clip(dict(second.state_dict())).items():
            weights[f"conditioner.embedders.1.model.{key}"] = tensor
    save_file({key: tensor.clone() for key, tensor in weights.items()}, path, metadata={"format": "pt", **said})
    return path
