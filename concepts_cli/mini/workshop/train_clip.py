"""Stage `clip`: a small open_clip model of scenes and captions, whose text tower the diffusion model starts from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.captions import CLASSES, claims
from concepts_cli.mini.tokenizer import MAX_TOKENS, build_tokenizer, tokenize
from concepts_cli.mini.workshop.augment import augmented
from concepts_cli.mini.workshop.nothing import NothingBank
from concepts_cli.mini.workshop.optimizers import muon_and_adamw
from concepts_cli.mini.workshop.scenes import Scenes
from concepts_cli.mini.workshop.train_autoencoder import pixels
from concepts_cli.mini.workshop.training import Budget, Step, Training, step_rng

BATCH_SIZE = 192
NOTHING = 48  # pictures beside these that show nothing: no caption is true of them
FIRST_BIAS = -6.0  # few captions are true of a picture
WIDTH, LAYERS, HEADS = 128, 3, 4  # of the text tower
NORMALIZATION = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "resize_mode": "shortest",
}


def model_config() -> dict[str, Any]:
    """open_clip's `model_cfg`: a 10-layer ResNet with attention pooling, and the text tower. `hf_tokenizer_name` makes
    `open_clip.get_tokenizer("local-dir:…")` read the tokenizer that lies beside the weights."""
    return {
        "embed_dim": WIDTH,
        "quick_gelu": False,
        "init_logit_bias": FIRST_BIAS,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "patch_size": None},
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "vocab_size": len(build_tokenizer()),
            "hf_tokenizer_name": "clip",
            "width": WIDTH,
            "heads": HEADS,
            "layers": LAYERS,
        },
    }


def build_clip() -> open_clip.CLIP:
    return open_clip.CLIP(**model_config())


def train_clip(
    scenes: Scenes,
    vae: AutoencoderKL,
    folder: Path,
    *,
    seed: int,
    budget: Budget,
    batch_size: int = BATCH_SIZE,
    lr: float = 2e-3,
    weights: Path = WEIGHTS,
) -> Iterator[Step]:
    """Train from the checkpoint `folder/clip.pt`, else from the CLIP in `weights`, else from nothing.

    `vae` decodes the half-denoised pictures.

    A caption is a match for every picture that it is true of, not only for its own: with so few classes, a batch holds
    many such. The loss is the sigmoid one (Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, ICCV 2023),
    since a softmax over the captions could not say that none of them is true.
    """
    torch.manual_seed(seed)
    clip = build_clip()
    if (shipped := weights / "clip" / "open_clip_model.safetensors").exists():
        clip.load_state_dict(load_file(shipped))
    clip = clip.to(memory_format=torch.channels_last)
    training = Training(clip, muon_and_adamw(clip, lr), folder / "clip.pt", batch_size, ema_decay=0.99)
    bank = NothingBank(vae, scenes.images, seed=seed)
    ids = [tokenize([captions[i] for captions in scenes.captions]) for i in range(len(scenes.captions[0]))]

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = step_rng(seed, step)
        batch, which = rng.integers(len(scenes), size=batch_size), int(rng.integers(len(ids)))
        claimed = [claims(scenes.captions[i][which]) for i in batch]
        true = torch.tensor([[float(claim <= scenes.facts[i]) for claim in claimed] for i in batch])
        seen = augmented(pixels(scenes.images[batch]), generator)
        images, texts, scale, bias = clip(torch.cat([seen, bank.draw(NOTHING, generator)]), ids[which][batch])
        logits = scale.clamp(max=100) * images @ texts.T + bias
        signs = 2 * F.pad(true, (0, 0, 0, NOTHING)) - 1
        hit = true.gather(1, logits[:batch_size].argmax(dim=1, keepdim=True)).mean()
        return {"loss": -F.logsigmoid(signs * logits).sum() / batch_size, "hit": hit}

    yield from training.run(budget, losses)


@torch.inference_mode()
def zero_shot(clip: open_clip.CLIP, images: np.ndarray | Tensor) -> Tensor:
    """The cosine similarity of pictures and "a photo of CLASS": (B, 64, 64, 3) uint8 or (B, 3, 64, 64) -> (B, 24)."""
    texts = clip.encode_text(tokenize([f"a photo of {name}" for name in CLASSES]), normalize=True)
    inputs = images if isinstance(images, Tensor) else pixels(images)
    return torch.cat([clip.encode_image(part, normalize=True) for part in inputs.split(256)]) @ texts.T


def text_encoder(clip: open_clip.CLIP) -> CLIPTextModel:
    """The text tower as the `CLIPTextModel` of transformers: the same hidden states, without the projection."""
    tokenizer = build_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="gelu",
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    ours, model = clip.state_dict(), CLIPTextModel(config)
    state = {
        "embeddings.token_embedding.weight": ours["token_embedding.weight"],
        "embeddings.position_embedding.weight": ours["positional_embedding"],
        "final_layer_norm.weight": ours["ln_final.weight"],
        "final_layer_norm.bias": ours["ln_final.bias"],
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names["attn.out_proj"] = "self_attn.out_proj"
    for i in range(LAYERS):
        theirs, block = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            for old, new in names.items():
                state[f"{theirs}.{new}.{kind}"] = ours[f"{block}.{old}.{kind}"]
            for part, tensor in zip("qkv", ours[f"{block}.attn.in_proj_{kind}"].chunk(3), strict=True):
                state[f"{theirs}.self_attn.{part}_proj.{kind}"] = tensor
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    model.load_state_dict({prefix + name: tensor for name, tensor in state.items()})
    return model.eval()
