"""Stage `resnet`: a small timm ResNet that reads a scene: which objects are in it, how they are drawn, where and when.

Each word of the corpus is a question of its own, answered yes or no; a picture may have several, or none.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.captions import CLASSES, VOCABULARY
from concepts_cli.mini.workshop.augment import augmented
from concepts_cli.mini.workshop.nothing import NothingBank
from concepts_cli.mini.workshop.optimizers import muon_and_adamw
from concepts_cli.mini.workshop.scenes import Scenes
from concepts_cli.mini.workshop.train_autoencoder import pixels
from concepts_cli.mini.workshop.training import Budget, Step, Training, step_rng

BATCH_SIZE = 96
NOTHING = 24  # of these, pictures that show nothing
ARCHITECTURE = "resnet18"
SHAPE = {
    "channels": [24, 48, 96, 192],
    "stem_type": "deep",
    "stem_width": 12,
    "num_classes": len(VOCABULARY),
    "global_pool": "catavgmax",  # an object is there wherever it is, and a background everywhere
}


def build_reader() -> nn.Module:
    """timm's resnet18, narrowed."""
    return timm.create_model(ARCHITECTURE, pretrained=False, **SHAPE)


def targets(facts: list[frozenset[str]]) -> Tensor:
    """What is true of B scenes: (B, words of the corpus), 0 or 1."""
    return torch.tensor([[float(name in names) for name in VOCABULARY] for names in facts])


def train_reader(
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
    """Train from the checkpoint `folder/resnet.pt`, else from the reader in `weights`, else from nothing.

    `vae` decodes the half-denoised pictures.
    """
    torch.manual_seed(seed)
    reader = build_reader()
    if (shipped := weights / "resnet" / "model.safetensors").exists():
        reader.load_state_dict(load_file(shipped))
    reader = reader.to(memory_format=torch.channels_last)
    training = Training(reader, muon_and_adamw(reader, lr), folder / "resnet.pt", batch_size, ema_decay=0.99)
    bank = NothingBank(vae, scenes.images, seed=seed)

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = step_rng(seed, step)
        batch = rng.integers(len(scenes), size=batch_size - NOTHING)
        wanted = targets([scenes.facts[i] for i in batch])
        seen = augmented(pixels(scenes.images[batch]), generator)
        logits = reader(torch.cat([seen, bank.draw(NOTHING, generator)]))
        wanted = F.pad(wanted, (0, 0, 0, NOTHING))
        # Counts of objects, not a mean over all the words that are not there.
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1).mean()
        objects = slice(len(CLASSES))
        right = ((logits > 0) == (wanted > 0.5))[:, objects].all(dim=1).float().mean()
        return {"loss": loss, "exact": right}

    yield from training.run(budget, losses)


@torch.inference_mode()
def read(reader: nn.Module, images: np.ndarray | Tensor, batch_size: int = 256) -> Tensor:
    """The logit of each word of the corpus: (B, 64, 64, 3) uint8, or (B, 3, 64, 64) in [-1, 1] -> (B, words)."""
    inputs = images if isinstance(images, Tensor) else pixels(images)
    return torch.cat([reader(inputs[start : start + batch_size]) for start in range(0, len(inputs), batch_size)])
