"""What the reader sees in generated pictures: do they follow the prompt, and how close are they to real scenes?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from scipy.linalg import sqrtm
from timm.models import ResNet
from torch import Tensor, nn

from concepts_cli.mini.captions import BACKGROUNDS, CLASSES, DRAWINGS, VOCABULARY
from concepts_cli.mini.corpus import Scene
from concepts_cli.mini.workshop.train_autoencoder import pixels
from concepts_cli.mini.workshop.train_reader import read

BATCH_SIZE = 32
PAIRS, PER_PAIR = 60, 8


@dataclass(frozen=True)
class Generator:
    """A text-to-image pipeline with the settings of one measurement."""

    pipeline: StableDiffusionPipeline
    steps: int
    guidance_scale: float
    seed: int

    def draw(self, prompts: Sequence[str], salt: int = 0) -> np.ndarray:
        """A picture per prompt: (B, 64, 64, 3) uint8. Picture i of a seed and salt is always the same."""
        pictures = []
        for start in range(0, len(prompts), BATCH_SIZE):
            part = range(start, min(start + BATCH_SIZE, len(prompts)))
            output = self.pipeline(
                [prompts[i] for i in part],
                height=64,
                width=64,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                generator=[torch.Generator().manual_seed(self.seed * 10**8 + salt * 10**5 + i) for i in part],
                output_type="np",
            )
            pictures.append(np.rint(output.images * 255).astype(np.uint8))
        return np.concatenate(pictures)


def load_pipeline(weights: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(weights, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure_pictures(
    weights: Path,
    reader: ResNet,
    limit: float,
    *,
    held_out: Sequence[Scene],
    share: float = 1.0,
    steps: int = 50,
    guidance_scale: float = 5.0,
    seed: int = 0,
    grids: Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure the generator. A `share` below 1 draws fewer pictures."""
    generator = Generator(load_pipeline(weights).to(device), steps, guidance_scale, seed)
    results: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale}

    def see(name: str, prompts: Sequence[str]) -> Tensor:  # (B, words)
        pictures = generator.draw(prompts, salt=len(results))
        if grids:
            grids.mkdir(parents=True, exist_ok=True)
            save_grid(pictures, grids / f"{name}.png")
        return read(reader, pictures)

    def times(count: int) -> int:
        return max(1, round(count * share))

    objects = len(CLASSES)
    each = times(8)
    classes = torch.arange(objects).repeat_interleave(each)
    seen = see("objects", [f"a photo of a {CLASSES[i]}" for i in classes])[:, :objects] >= limit
    own = seen.gather(1, classes[:, None])[:, 0]
    results["one object"] = {
        "pictures": len(classes),
        "seen": rate(own),
        "nothing else": rate(seen.sum(dim=1) == own),
        "seen by class": {
            name: rate(part) for name, part in zip(CLASSES, own.unflatten(0, (objects, each)), strict=True)
        },
    }
    pairs = draw_pairs(times(PAIRS), seed)
    prompts = [f"a photo of a {CLASSES[a]} and a {CLASSES[b]}" for a, b in pairs for _ in range(PER_PAIR)]
    both = torch.tensor(pairs).repeat_interleave(PER_PAIR, dim=0)
    seen = see("pairs", prompts)[:, :objects] >= limit
    hits = seen.gather(1, both)
    results["two objects"] = {
        "pictures": len(both),
        "both seen": rate(hits.all(dim=1)),
        "one seen": rate(hits.any(dim=1) & ~hits.all(dim=1)),
        "something else": rate(seen.sum(dim=1) > hits.sum(dim=1)),
    }
    things = [CLASSES[i % objects] for i in range(times(96))]
    # The named background or drawing should score best among all of them, and night above day.
    for kind, names, sentence in (
        ("background", tuple(BACKGROUNDS), "a photo of a {thing} on {name}"),
        ("drawing", DRAWINGS, "a {name} of a {thing}"),
        ("time", ("night", "day"), "a photo of a {thing} at {name}"),
    ):
        named = [names[i % len(names)] if kind != "time" else "night" for i in range(len(things))]
        prompts = [sentence.format(thing=thing, name=name) for thing, name in zip(things, named, strict=True)]
        columns = [VOCABULARY.index(name) for name in names]
        best = see(kind, prompts)[:, columns].argmax(dim=1)
        results[kind] = {
            "pictures": len(best),
            "followed": rate(best == torch.tensor([names.index(name) for name in named])),
            "reader's own error": round(1 - _right(reader, held_out, names), 4),
        }
    captions = [scene.caption for scene in held_out]
    drawn = generator.draw(captions, salt=99)
    real = np.stack([scene.image for scene in held_out])
    results["frechet"] = {
        "pictures": len(drawn),
        "distance": round(frechet_distance(features(reader, drawn), features(reader, real)), 3),
    }
    return results


def draw_pairs(count: int, seed: int) -> list[tuple[int, int]]:
    """Random pairs of different classes, as indices of CLASSES."""
    rng = np.random.default_rng((seed, 60))
    drawn = (rng.choice(len(CLASSES), size=2, replace=False).tolist() for _ in range(count))
    return [(first, second) for first, second in drawn]


def _right(reader: nn.Module, scenes: Sequence[Scene], names: Sequence[str]) -> float:
    """How often the reader picks the right one of `names`, in real scenes of which one is true."""
    named = [(scene, [i for i, name in enumerate(names) if name in scene.facts.names]) for scene in scenes]
    told = [(scene, true[0]) for scene, true in named if true]
    columns = [VOCABULARY.index(name) for name in names]
    logits = read(reader, np.stack([scene.image for scene, _ in told]))[:, columns]
    return float((logits.argmax(dim=1) == torch.tensor([true for _, true in told])).float().mean())


@torch.inference_mode()
def features(reader: ResNet, images: np.ndarray) -> np.ndarray:
    """What the reader's last layer sees: (N, 64, 64, 3) uint8 -> (N, E)."""
    batches = [
        reader.forward_head(reader.forward_features(pixels(images[i : i + 256])), pre_logits=True)
        for i in range(0, len(images), 256)
    ]
    return torch.cat(batches).double().numpy()


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between two sets of features (N, E), as normal distributions (Heusel et al., 2017, eq. 6)."""
    (mean, spread), (other_mean, other_spread) = ((f.mean(axis=0), np.cov(f, rowvar=False)) for f in (first, second))
    root = sqrtm(spread @ other_spread)
    return float(((mean - other_mean) ** 2).sum() + np.trace(spread + other_spread - 2 * np.real(root)))


def save_grid(pictures: np.ndarray, path: Path, columns: int = 16) -> None:
    pictures = pictures[: len(pictures) // columns * columns] if len(pictures) >= columns else pictures
    rows = [np.concatenate(list(pictures[i : i + columns]), axis=1) for i in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(rows)).save(path)


def rate(hits: Tensor) -> float:
    """The share of hits."""
    return round(float(hits.float().mean()), 4)
