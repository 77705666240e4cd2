"""How good the built-in model is: what its model card quotes.

    python -m concepts_cli.mini.workshop.measure            all of it, some 30 minutes
    python -m concepts_cli.mini.workshop.measure judges     the autoencoder, the reader and the CLIP, a minute
    python -m concepts_cli.mini.workshop.measure pictures --weights FOLDER    what another denoiser draws

Everything is measured on scenes that training never draws, and half of them with backgrounds that it never has. A
picture shows an object if the reader's logit for it reaches the threshold, as that of the clearest object in 95% of
real scenes does.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from diffusers import AutoencoderKL
from sklearn.metrics import average_precision_score
from torch import Tensor

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.captions import CLASSES, VOCABULARY
from concepts_cli.mini.corpus import Scene, draw_scene
from concepts_cli.mini.workshop.measure_pictures import measure_pictures, rate
from concepts_cli.mini.workshop.nothing import KINDS, draw_nothing
from concepts_cli.mini.workshop.train_autoencoder import pixels
from concepts_cli.mini.workshop.train_clip import zero_shot
from concepts_cli.mini.workshop.train_reader import read, targets
from concepts_cli.mini.workshop.train_unet import read_autoencoder
from concepts_cli.scorers.resnet import load_built_in_resnet

HELD_OUT_SEED = 2**32  # training's scenes come from small seeds
REACHED = 0.95  # the share of real scenes of which an object reaches a judge's threshold


def load_clip(weights: Path) -> open_clip.CLIP:
    return open_clip.create_model(f"local-dir:{weights / 'clip'}").eval()


def load_reader(weights: Path) -> tuple[timm.models.ResNet, float]:
    """The reader of scenes and its threshold."""
    scorer = load_built_in_resnet(torch.device("cpu"), weights)
    return scorer.model, scorer.threshold


def held_out_scenes(count: int, *, first: int = 0) -> list[Scene]:
    """Scenes as the corpus has them, from seeds of their own, every second with a background that it never has."""
    return [draw_scene(np.random.default_rng((HELD_OUT_SEED, first + i)), held_out=i % 2 == 1) for i in range(count)]


def stacked(scenes: list[Scene]) -> np.ndarray:  # (N, 64, 64, 3) uint8
    return np.stack([scene.image for scene in scenes])


def objects_in(scenes: list[Scene]) -> Tensor:
    """Which objects are in each scene: (N, 24) bool."""
    return targets([scene.facts.names for scene in scenes])[:, : len(CLASSES)] > 0.5


def threshold(scores: Tensor, there: Tensor) -> float:
    """The score that the clearest object of 95% of scenes reaches; `there` (N, 24) says which are in them.

    Not the score that 95% of objects reach, which nearly every picture reaches by chance: some objects are hidden by
    the night or a filter.
    """
    clearest = scores[:, : len(CLASSES)].masked_fill(~there, -torch.inf).amax(dim=1)
    return round(float(clearest.quantile(1 - REACHED)), 4)


@torch.inference_mode()
def measure_judges(weights: Path, count: int = 2000) -> dict[str, Any]:
    """The autoencoder, the reader and the CLIP on held-out scenes, and what the judges see in nothing."""
    vae, clip, (reader, limit) = read_autoencoder(weights), load_clip(weights), load_reader(weights)
    clip_limit = json.loads((weights / "clip" / "open_clip_config.json").read_text())["threshold"]
    scenes = held_out_scenes(count, first=10**6)  # none that a threshold was taken from
    images, there = stacked(scenes), objects_in(scenes)
    logits, similarities = read(reader, images), zero_shot(clip, images)
    generator = torch.Generator().manual_seed(0)
    nothing = {kind: draw_nothing(kind, count // 2, vae, images, generator) for kind in KINDS}
    facts = targets([scene.facts.names for scene in scenes])
    precision = {
        name: round(float(average_precision_score(facts[:, i], logits[:, i])), 4) for i, name in enumerate(VOCABULARY)
    }
    return {
        "scenes": count,
        "vae_mse": {
            f"{n} objects": round(_error(vae, images[[len(s.labels) == n for s in scenes]]), 5) for n in (1, 2, 3)
        },
        "reader": {
            "mean_average_precision": round(float(np.mean([precision[name] for name in CLASSES])), 4),
            "average_precision": precision,
            "objects_seen": rate(logits[:, : len(CLASSES)][there] >= limit),
            "others_seen": rate(logits[:, : len(CLASSES)][~there] >= limit),
            "nothing_seen": {
                kind: rate((read(reader, pictures)[:, : len(CLASSES)] >= limit).any(dim=1))
                for kind, pictures in nothing.items()
            },
        },
        "clip": {
            "mean_average_precision": round(
                float(np.mean([average_precision_score(there[:, i], similarities[:, i]) for i in range(len(CLASSES))])),
                4,
            ),
            "objects_seen": rate(similarities[there] >= clip_limit),
            "others_seen": rate(similarities[~there] >= clip_limit),
            "nothing_seen": {
                kind: rate((zero_shot(clip, pictures) >= clip_limit).any(dim=1)) for kind, pictures in nothing.items()
            },
        },
    }


def _error(vae: AutoencoderKL, images: np.ndarray) -> float:
    """The mean squared error of pictures that went through the autoencoder, on [-1, 1]."""
    errors = []
    for start in range(0, len(images), 64):
        batch = pixels(images[start : start + 64])
        decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
        errors.append((decoded - batch).square().mean(dim=(1, 2, 3)))
    return float(torch.cat(errors).mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m concepts_cli.mini.workshop.measure", description=__doc__.splitlines()[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="judges, pictures; default: both")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="whose denoiser draws; the judges ship")
    parser.add_argument("--share", type=float, default=1.0, help="of the pictures that the bars ask for")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cuda draws on a GPU")
    parser.add_argument("--grids", type=Path, help="write the pictures into this folder")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.parts) - {"judges", "pictures"}:
        parser.error(f"no part {sorted(unknown)[0]!r}: expected judges or pictures")
    parts, results = chosen.parts or ["judges", "pictures"], {}
    if "judges" in parts:
        results["judges"] = measure_judges(WEIGHTS)
    if "pictures" in parts:
        reader, limit = load_reader(WEIGHTS)
        results["pictures"] = measure_pictures(
            chosen.weights,
            reader,
            limit,
            held_out=held_out_scenes(int(2000 * chosen.share), first=2 * 10**6),
            share=chosen.share,
            steps=chosen.steps,
            guidance_scale=chosen.guidance_scale,
            seed=chosen.seed,
            grids=chosen.grids,
            device=chosen.device,
        )
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
