"""Stage `clip`: a small open_clip model of scenes and captions, whose text tower the diffusion model starts from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from concepts_cli.mini.augment import augmented
from concepts_cli.mini.corpus import CLASSES, claims
from concepts_cli.mini.optimizers import muon_and_adamw
from concepts_cli.mini.scenes import Scenes
from concepts_cli.mini.tokenizer import MAX_TOKENS, build_tokenizer
from concepts_cli.mini.train_autoencoder import pixels
from concepts_cli.mini.training import Budget, Step, Training, step_rng

BATCH_SIZE = 192
WIDTH, LAYERS, HEADS = 128, 3, 4  # of the text tower
NORMALIZATION = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "resize_mode": "shortest",
}


def model_config() -> dict:
    """open_clip's `model_cfg`: a 10-layer ResNet with attention pooling, and the text tower. `hf_tokenizer_name` makes
    `open_clip.get_tokenizer("local-dir:…")` read the tokenizer that lies beside the weights."""
    return {
        "embed_dim": WIDTH,
        "quick_gelu": False,
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


def tokenize(captions: list[str]) -> Tensor:
    """B captions -> (B, 16) token ids."""
    options = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "pt"}
    return build_tokenizer()(captions, **options).input_ids


def train_clip(
    scenes: Scenes, folder: Path, *, seed: int, budget: Budget, batch_size: int = BATCH_SIZE, lr: float = 2e-3
) -> Iterator[Step]:
    """Train, from the checkpoint `folder/clip.pt` if there is one.

    A caption is a match for every picture that it is true of, not only for its own: with so few classes, a batch holds
    many such.
    """
    torch.manual_seed(seed)
    clip = build_clip().to(memory_format=torch.channels_last)
    training = Training(clip, muon_and_adamw(clip, lr), folder / "clip.pt", batch_size, ema_decay=0.99)
    ids, claimed = tokenize(scenes.captions), [claims(caption) for caption in scenes.captions]

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = step_rng(seed, step)
        batch = rng.integers(len(scenes), size=batch_size)
        true = torch.tensor([[float(claimed[j] <= scenes.facts[i]) for j in batch] for i in batch])
        images, texts, scale = clip(augmented(pixels(scenes.images[batch]), generator), ids[batch])
        logits = scale.clamp(max=100) * images @ texts.T
        by_image = F.cross_entropy(logits, true / true.sum(dim=1, keepdim=True))
        by_text = F.cross_entropy(logits.T, true.T / true.T.sum(dim=1, keepdim=True))
        hit = true.gather(1, logits.argmax(dim=1, keepdim=True)).mean()
        return {"loss": (by_image + by_text) / 2, "hit": hit}

    yield from training.run(budget, losses)


@torch.inference_mode()
def zero_shot(clip: open_clip.CLIP, images: np.ndarray) -> Tensor:
    """The cosine similarity of pictures and "a photo of CLASS": (B, 64, 64, 3) uint8 -> (B, 24)."""
    texts = clip.encode_text(tokenize([f"a photo of {name}" for name in CLASSES]), normalize=True)
    return clip.encode_image(pixels(images), normalize=True) @ texts.T


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
