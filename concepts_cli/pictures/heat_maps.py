"""Draw heat maps: generate or invert the pictures, record attention, and write the overlays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import ImageOps
from torch import Tensor

from concepts_cli.core.attention import normalise, token_map
from concepts_cli.core.heat_maps import attention_of, encoded, reconstruct, score_gains, shares, tokens_of
from concepts_cli.core.sampling import TaughtModel, generate
from concepts_cli.data.images import as_pixels, centre_square, to_image, to_pixels
from concepts_cli.models.daam import daam_map
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.pictures.overlays import MapSettings, Target, write_overlay
from concepts_cli.pictures.plan import PicturePlan
from concepts_cli.pictures.targets import open_large_enough
from concepts_cli.runs.run import Run


def draw_generated(
    taught: Mapping[str, TaughtModel], targets: Sequence[Target], plan: PicturePlan, maps: MapSettings
) -> Iterator[Path]:
    """Generate, record and write, one batch of pictures at a time; `sample` makes the same with the same settings."""
    model, settings = taught[""].model, plan.settings
    if maps.engine == "daam":
        for target in targets:
            picture, heat = daam_map(
                model,
                target.prompt,
                target.subject.word,
                guidance_scale=target.request.terms[target.term].weight,
                seed=target.request.seed,
                settings=settings,
            )
            write_overlay(target, picture, heat, plan, maps)
            yield target.path
        return
    requests = list(dict.fromkeys(target.request for target in targets))
    for start in range(0, len(requests), settings.batch_size):
        batch = requests[start : start + settings.batch_size]
        terms = len(batch[0].terms)
        # Each picture has 1 + `terms` rows in the model's batch, the unconditional one first.
        rows = [row for row in range(len(batch) * (1 + terms)) if row % (1 + terms)]
        with attention_of(model).record(rows=rows, selection=maps.attention) as recorder:
            pictures = list(generate(taught, batch, settings, halve=False))  # the recorder has counted the rows
        recorded = recorder.maps().unflatten(0, (len(batch), terms))
        batch_targets = [target for target in targets if target.request in batch]
        heats = [
            token_map(
                recorded[batch.index(t.request), t.term],
                tokens_of(model, t.prompt, t.subject, word_only=maps.kind == "daam"),
            )
            for t in batch_targets
        ]
        if maps.kind == "contrast":
            pixels = torch.stack([as_pixels(picture) for picture in pictures])
            latents, _ = model.encode_images(pixels)
            heats = _contrast(
                model, plan.run, latents, batch_targets, [batch.index(t.request) for t in batch_targets], heats
            )
        for target, heat in zip(batch_targets, heats, strict=True):
            write_overlay(target, pictures[batch.index(target.request)], heat, plan, maps)
            yield target.path


def draw_images(
    taught: Mapping[str, TaughtModel], targets: Sequence[Target], plan: PicturePlan, maps: MapSettings
) -> Iterator[Path]:
    """Invert, record and write, one batch of images at a time, all concepts of an image in one pass."""
    model = taught[""].model
    data, settings = plan.run.recipe.data, plan.settings
    resolution = data.resolution or model.resolution
    files = list(dict.fromkeys(target.image for target in targets if target.image))
    for start in range(0, len(files), settings.batch_size):
        batch: list[Path] = files[start : start + settings.batch_size]
        pictures = [open_large_enough(path) for path in batch]
        if maps.kind == "daam":
            pictures = [centre_square(picture, resolution) for picture in pictures]
        elif data.resize == "crop":
            pictures = [ImageOps.fit(picture, (min(picture.size), min(picture.size))) for picture in pictures]
        pixels = torch.stack([to_pixels(picture, resolution) for picture in pictures])
        latents = encoded(model, pixels, seed=settings.seed if maps.kind == "daam" else None)
        batch_targets = [target for target in targets if target.image in batch]
        rows = [batch.index(target.image) for target in batch_targets if target.image]
        recorded, clean = reconstruct(
            model,
            latents[rows],
            [target.prompt for target in batch_targets],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            inversion=maps.inversion,
            selection=maps.attention,
        )
        reconstructed = model.decode(clean).cpu()
        errors = (reconstructed - (pixels[rows] / 2 + 0.5)).square().mean(dim=(1, 2, 3)).sqrt().tolist()
        heats = [
            token_map(r, tokens_of(model, t.prompt, t.subject, word_only=maps.kind == "daam"))
            for r, t in zip(recorded, batch_targets, strict=True)
        ]
        if maps.kind == "contrast":
            heats = _contrast(model, plan.run, latents, batch_targets, rows, heats)
        for i, target in enumerate(batch_targets):
            write_overlay(target, pictures[rows[i]], heats[i], plan, maps, to_image(reconstructed[i]), errors[i])
            yield target.path


def _contrast(
    model: DiffusionModel,
    run: Run,
    latents: Tensor,
    targets: Sequence[Target],
    rows: Sequence[int],
    heats: Sequence[Tensor],
) -> list[Tensor]:
    """Attention times the share of each place that the subject's score explains, among all subjects and concepts."""
    concepts = [run.recipe.concepts.prompt_of(token) for token in run.tokens]
    prompts = list(dict.fromkeys([*(target.subject.prompt for target in targets), *concepts]))
    share = shares(score_gains(model, latents, prompts))
    places = [(row, prompts.index(target.subject.prompt)) for row, target in zip(rows, targets, strict=True)]
    return [normalise(heat) * share[place] for heat, place in zip(heats, places, strict=True)]
