"""Stage `resnet`: a small timm ResNet that names the object in a picture."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concepts_cli.mini.augment import augmented
from concepts_cli.mini.corpus import CLASSES
from concepts_cli.mini.optimizers import muon_and_adamw
from concepts_cli.mini.scenes import Scenes
from concepts_cli.mini.train_autoencoder import pixels
from concepts_cli.mini.training import Budget, Step, Training, step_rng

BATCH_SIZE = 96
ARCHITECTURE = "resnet18"
SHAPE = {"channels": [24, 48, 96, 192], "stem_type": "deep", "stem_width": 12, "num_classes": len(CLASSES)}


def build_classifier() -> nn.Module:
    """timm's resnet18, narrowed."""
    return timm.create_model(ARCHITECTURE, pretrained=False, **SHAPE)


def train_classifier(
    scenes: Scenes, folder: Path, *, seed: int, budget: Budget, batch_size: int = BATCH_SIZE, lr: float = 2e-3
) -> Iterator[Step]:
    """Train on the scenes with one object, from the checkpoint `folder/resnet.pt` if there is one."""
    torch.manual_seed(seed)
    classifier = build_classifier().to(memory_format=torch.channels_last)
    training = Training(classifier, muon_and_adamw(classifier, lr), folder / "resnet.pt", batch_size, ema_decay=0.99)
    single = np.flatnonzero(scenes.labels[:, 1] < 0)

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = step_rng(seed, step)
        batch = single[rng.integers(len(single), size=batch_size)]
        target = torch.as_tensor(scenes.labels[batch, 0]).long()
        logits = classifier(augmented(pixels(scenes.images[batch]), generator))
        loss = F.cross_entropy(logits, target, label_smoothing=0.05)
        return {"loss": loss, "accuracy": (logits.argmax(dim=1) == target).float().mean()}

    yield from training.run(budget, losses)


@torch.inference_mode()
def classify(classifier: nn.Module, images: np.ndarray) -> Tensor:
    """The logit of each of `CLASSES`: (B, 64, 64, 3) uint8 -> (B, 24)."""
    return classifier(pixels(images))
