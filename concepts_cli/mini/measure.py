"""How good the built-in model is: what its model card quotes.

    python -m concepts_cli.mini.measure                    the shipped weights
    python -m concepts_cli.mini.measure WEIGHTS --per-class 4 --steps 20 --grid grid.png

Autoencoder, CLIP and ResNet are measured on scenes that training never draws, with backgrounds and placements of their
own; the generator by what the ResNet and the CLIP see in its pictures of "a photo of a CLASS".
"""

import argparse
import json
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.corpus import CLASSES, draw_scene
from concepts_cli.mini.train_autoencoder import pixels
from concepts_cli.mini.train_classifier import classify
from concepts_cli.mini.train_clip import zero_shot

HELD_OUT_SEED = 2**32  # training's scenes come from small seeds


def load_pipeline(weights: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(weights, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_clip(weights: Path) -> open_clip.CLIP:
    return open_clip.create_model(f"local-dir:{weights / 'clip'}").eval()


def load_classifier(weights: Path) -> nn.Module:
    config = json.loads((weights / "resnet" / "config.json").read_text())
    classifier = timm.create_model(config["architecture"], pretrained=False, **config["model_args"])
    classifier.load_state_dict(load_file(weights / "resnet" / "model.safetensors"))
    return classifier.float().eval()


def held_out_scenes(per_class: int, *, new_places: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Plain scenes of one object that training hasn't seen: (N, 64, 64, 3) uint8 and (N,) places in CLASSES."""
    rng = np.random.default_rng((HELD_OUT_SEED, new_places))
    classes = np.repeat(np.arange(len(CLASSES)), per_class)
    options = {"night": False, "style": "", "held_out": new_places}
    return np.stack([draw_scene(rng, labels=(CLASSES[i],), **options).image for i in classes]), classes


def accuracy(scores: torch.Tensor, classes: np.ndarray) -> float:
    return float((scores.argmax(dim=1).numpy() == classes).mean())


def threshold(scores: torch.Tensor, classes: np.ndarray) -> float:
    """The score of their own class that 95% of the pictures reach."""
    return round(float(scores[torch.arange(len(classes)), torch.as_tensor(classes)].quantile(0.05)), 4)


def draw_samples(
    pipeline: StableDiffusionPipeline, per_class: int, *, steps: int = 50, guidance_scale: float = 5.0, seed: int = 0
) -> np.ndarray:
    """`per_class` pictures of "a photo of a CLASS" for each class in turn: (24 * per_class, 64, 64, 3) uint8."""
    pictures = []
    for i, name in enumerate(CLASSES):
        generators = [torch.Generator().manual_seed(hash((seed, i, n)) % 2**63) for n in range(per_class)]
        output = pipeline(
            [f"a photo of a {name}"] * per_class,
            height=64,
            width=64,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generators,
            output_type="np",
        )
        pictures.append(np.rint(output.images * 255).astype(np.uint8))
    return np.concatenate(pictures)


@torch.inference_mode()
def measure_helpers(weights: Path, per_class: int = 20) -> dict:
    """Autoencoder, CLIP and ResNet on scenes that training hasn't seen."""
    vae = load_pipeline(weights).vae
    results = {}
    for name, new_places in (("training's backgrounds", False), ("new backgrounds and places", True)):
        images, classes = held_out_scenes(per_class, new_places=new_places)
        decoded = vae.decode(vae.encode(pixels(images)).latent_dist.mean).sample
        results[name] = {
            "vae_mse": round(float((decoded.clamp(-1, 1) - pixels(images)).square().mean()), 5),
            "clip_accuracy": round(accuracy(zero_shot(load_clip(weights), images), classes), 4),
            "resnet_accuracy": round(accuracy(classify(load_classifier(weights), images), classes), 4),
        }
    return results


def measure_samples(weights: Path, pictures: np.ndarray, per_class: int) -> dict:
    """What the ResNet and the CLIP recognise in the generator's pictures."""
    classes = np.repeat(np.arange(len(CLASSES)), per_class)
    logits = classify(load_classifier(weights), pictures)
    hits = (logits.argmax(dim=1).numpy() == classes).reshape(len(CLASSES), per_class).mean(axis=1)
    return {
        "resnet": round(float(hits.mean()), 4),
        "clip": round(accuracy(zero_shot(load_clip(weights), pictures), classes), 4),
        "resnet_by_class": {name: round(float(hit), 3) for name, hit in zip(CLASSES, hits, strict=True)},
    }


def save_grid(pictures: np.ndarray, columns: int, path: Path) -> None:
    rows = [np.concatenate(list(pictures[i : i + columns]), axis=1) for i in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(rows)).save(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m concepts_cli.mini.measure", description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="?", type=Path, default=WEIGHTS)
    parser.add_argument("--per-class", type=int, default=20, help="pictures of each class")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path, help="write the pictures here, a class a column")
    chosen = parser.parse_args(arguments)
    pictures = draw_samples(
        load_pipeline(chosen.weights),
        chosen.per_class,
        steps=chosen.steps,
        guidance_scale=chosen.guidance_scale,
        seed=chosen.seed,
    )
    if chosen.grid:
        by_class = pictures.reshape(len(CLASSES), chosen.per_class, *pictures.shape[1:])
        save_grid(by_class.swapaxes(0, 1).reshape(pictures.shape), len(CLASSES), chosen.grid)
    results = {
        "samples": measure_samples(chosen.weights, pictures, chosen.per_class),
        **measure_helpers(chosen.weights),
    }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
