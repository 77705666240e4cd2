"""Do heat maps point at their subjects? Measured on scenes whose objects' places are known.

    python -m concepts_cli.mini.workshop.pointing                  words of the model, one and two objects per scene
    python -m concepts_cli.mini.workshop.pointing --run runs/demo  concepts of a run, on scenes that it has not seen

*Pointing accuracy* is the pointing game's (Zhang et al., *Top-down Neural Attention by Excitation Backprop*, ECCV
2016): the share of maps whose peak lies on the object. *IoU* is the mean overlap of the object with the area where the
map, as shown, exceeds a threshold: the best one for all maps of a row. Both are computed at the scene's 64 px.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from concepts_cli.core.attention import normalise, token_map
from concepts_cli.core.heat_maps import Subject, reconstruct, score_gains, shares, tokens_of
from concepts_cli.errors import UcdError
from concepts_cli.metrics.assignment import assign
from concepts_cli.metrics.labels import read_labels
from concepts_cli.metrics.scores import match_one_to_one
from concepts_cli.mini.captions import CLASSES
from concepts_cli.mini.corpus import SIZE, Scene, draw_scene
from concepts_cli.models import load_model
from concepts_cli.models.interface import EVERYTHING, DiffusionModel, Selection
from concepts_cli.runs.run import Run

BATCH = 16
KINDS = ("centre", "attention", "contrast")  # centre: a map that is hot in the middle, whatever the image


def draw_scenes(classes: Sequence[str], *, objects: int, count: int, seed: int) -> list[Scene]:
    """`count` scenes by day and without a filter, every second with a background that training never had."""
    scenes = []
    for i in range(count):
        rng = np.random.default_rng((seed, objects, i))
        labels = tuple(classes[c] for c in rng.choice(len(classes), size=objects, replace=False))
        scenes.append(draw_scene(rng, labels=labels, night=False, style="", held_out=i % 2 == 1))
    return scenes


def scene_maps(
    model: DiffusionModel,
    scenes: Sequence[Scene],
    subjects: dict[str, Subject],
    *,
    compete: bool = False,
    steps: int = 50,
    selection: Selection = EVERYTHING,
) -> dict[str, list[torch.Tensor]]:
    """The maps (H, W) of each kind, for every object of every scene in turn. With `compete`, contrasts are among all
    subjects, not only those in the scene.
    """
    pixels = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) / 127.5 - 1 for scene in scenes])
    latents, _ = model.encode_images(pixels)
    targets = [subjects[label] for scene in scenes for label in scene.labels]
    owners = [row for row, scene in enumerate(scenes) for _ in scene.labels]
    prompts = [subject.prompt for subject in targets]
    recorded, _ = reconstruct(model, latents[owners], prompts, num_inference_steps=steps, selection=selection)
    positions = [tokens_of(model, subject.prompt, subject) for subject in targets]
    attention = [normalise(token_map(maps, tokens)) for maps, tokens in zip(recorded, positions, strict=True)]
    share: list[torch.Tensor] = []
    for scene, latent in zip(scenes, latents, strict=True):
        inside = [subjects[label].prompt for label in scene.labels]
        rivals = [subject.prompt for subject in subjects.values()] if compete else []
        prompts = list(dict.fromkeys([*inside, *rivals]))
        share += shares(score_gains(model, latent[None], prompts))[0, : len(inside)]
    centre = bump(*attention[0].shape)
    return {
        "centre": [centre] * len(attention),
        "attention": attention,
        "contrast": [heat * part for heat, part in zip(attention, share, strict=True)],
    }


def bump(height: int, width: int) -> torch.Tensor:
    """(H, W): 1 in the middle, 0 in the corners."""
    down, across = torch.linspace(-1, 1, height + 1)[1:], torch.linspace(-1, 1, width + 1)[1:]
    return 1 - torch.cartesian_prod(down, across).norm(dim=1).view(height, width) / 2**0.5


def score(maps: Sequence[torch.Tensor], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Pointing accuracy and the best threshold's mean IoU of maps (H, W) against masks (64, 64)."""
    large = [F.interpolate(m[None, None], (SIZE, SIZE), mode="bicubic")[0, 0] for m in maps]
    hits = [bool(mask.flatten()[int(m.argmax())]) for m, mask in zip(large, masks, strict=True)]
    shown = [m.numpy() for m in large]
    thresholds = np.linspace(0.1, 0.9, 17).round(2).tolist()
    ious = {threshold: mean_iou(shown, masks, threshold) for threshold in thresholds}
    best = max(ious, key=ious.__getitem__)
    return {"pointing": float(np.mean(hits)), "iou": ious[best], "threshold": best, "maps": len(maps)}


def mean_iou(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], threshold: float) -> float:
    hot = [m > threshold for m in maps]
    return float(np.mean([(h & mask).sum() / (h | mask).sum() for h, mask in zip(hot, masks, strict=True)]))


def measure(
    model: DiffusionModel,
    subjects: dict[str, Subject],
    *,
    count: int,
    seed: int = 0,
    compete: bool = False,
    steps: int = 50,
    selection: Selection = EVERYTHING,
) -> dict[str, dict[str, dict[str, float]]]:
    """The scores of each kind of map, for scenes of one object and of two."""
    results = {}
    for objects, name in ((1, "one object"), (2, "two objects")):
        scenes = draw_scenes(list(subjects), objects=objects, count=count, seed=seed)
        maps: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
        for start in range(0, count, BATCH):
            batch = scenes[start : start + BATCH]
            batch_maps = scene_maps(model, batch, subjects, compete=compete, steps=steps, selection=selection)
            for kind in KINDS:
                maps[kind] += batch_maps[kind]
        masks = [mask for scene in scenes for mask in scene.masks]
        results[name] = {kind: score(maps[kind], masks) for kind in KINDS}
    return results


def run_subjects(run: Run) -> dict[str, Subject]:
    """The concept matched to each class, by the strongest concept of each training image."""
    if not run.recipe.evaluate.labels:
        raise UcdError(f"the recipe of {run.path} names no labels", "evaluate.labels names them")
    labels = read_labels(run.recipe.evaluate.labels, [record.path for record in run.images])
    result = assign(run.weights.numpy(), labels)
    return {
        result.classes[c]: Subject(run.tokens[k], run.recipe.concepts.prompt_of(run.tokens[k]))
        for k, c in sorted(match_one_to_one(result.counts).items())
        if result.counts[k, c] and result.classes[c] in CLASSES
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m concepts_cli.mini.workshop.pointing", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--run", type=Path, help="measure this run's concepts instead of the model's own words")
    parser.add_argument("--scenes", type=int, default=100, help="number of scenes with one object, and with two")
    parser.add_argument("--steps", type=int, default=50, help="steps of the inversion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layer", action="append", default=[], help="part of a layer's name; may be repeated")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.run:
        run = Run(chosen.run)
        model, subjects = run.load_model("cpu"), run_subjects(run)
    else:
        model = load_model("mini", device="cpu")
        subjects = {name: Subject(name, f"a photo of a {name}") for name in CLASSES}
    results = measure(
        model,
        subjects,
        count=chosen.scenes,
        seed=chosen.seed,
        compete=bool(chosen.run),
        steps=chosen.steps,
        selection=Selection(layers=tuple(chosen.layer)),
    )
    if chosen.json:
        print(json.dumps(results, indent=1))
        return
    print("| objects | map | pointing % | IoU | threshold | maps |\n|---|---|---|---|---|---|")
    for name, kinds in results.items():
        for kind, r in kinds.items():
            cells = f"{100 * r['pointing']:.1f} | {r['iou']:.2f} | {r['threshold']:.2f} | {r['maps']}"
            print(f"| {name} | {kind} | {cells} |")


if __name__ == "__main__":
    main()
