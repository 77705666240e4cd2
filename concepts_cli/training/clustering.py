"""Which images belong together, found without the diffusion model: the start of two of the paper's baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from concepts_cli.data.images import ImageRecord, open_image, to_pixels
from concepts_cli.errors import UcdError
from concepts_cli.recipe import Recipe
from concepts_cli.scorers.clip import choose_clip
from concepts_cli.scorers.loading import batches

PIXELS_SIDE = 64  # images are scaled to this before their pixels are compared


def cluster(recipe: Recipe, records: Sequence[ImageRecord], device: torch.device) -> Tensor:
    """The cluster of each image, (N,), by k-means over its pixels (`ti-kmeans`) or CLIP features (`ti-clip-kmeans`).

    Raises UcdError for fewer images than concepts.
    """
    from sklearn.cluster import KMeans

    count, paths = recipe.concepts.most(), [Path(record.path) for record in records]
    if len(paths) < count:
        raise UcdError(f"{len(paths)} images can't make {count} clusters", "add images, or lower concepts.count")
    features = _pixels(paths) if recipe.train.method == "ti-kmeans" else _clip_features(recipe, paths, device)
    owners = KMeans(count, n_init=10, random_state=recipe.train.seed).fit_predict(features)
    return torch.from_numpy(owners).long()


def _pixels(paths: Sequence[Path]) -> np.ndarray:  # (N, 3 * side * side)
    return torch.stack([to_pixels(open_image(path), PIXELS_SIDE) for path in paths]).flatten(1).numpy()


@torch.no_grad()
def _clip_features(recipe: Recipe, paths: Sequence[Path], device: torch.device) -> np.ndarray:  # (N, E)
    clip = choose_clip(recipe, device)
    embeddings = [clip.model.encode_image(pixels.to(device)).float().cpu() for pixels in batches(paths, clip.transform)]
    return torch.nn.functional.normalize(torch.cat(embeddings), dim=1).numpy()
