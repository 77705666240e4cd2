"""How long a training will take: calls of the model, timed on this device, times how many there will be."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from concepts_cli.core.pursuit import goals
from concepts_cli.core.starting import WORD_STEPS
from concepts_cli.core.teaching import CANDIDATE_STEPS, LEVELS, most_landmarks
from concepts_cli.errors import memory_error
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.recipe import Recipe

ROWS = 16  # of the calls that are timed


def expected_seconds(recipe: Recipe, images: int, steps: int, model: DiffusionModel, *, starts: bool) -> float | None:
    """Seconds until `steps` are done, and the start from the images if there is one (`starts`).

    None if a call doesn't fit into memory. Encoding the images, checkpoints and previews take little and don't count.
    """
    count = recipe.concepts.most()
    each_step = recipe.train.batch_size * recipe.train.gradient_accumulation
    scored = min(count, recipe.train.concepts_per_image or count)
    trained, asked = steps * each_step * scored, float(steps * each_step)
    if starts:
        rows = _start_rows(recipe, images)
        trained, asked = trained + rows[0], asked + rows[1]
    try:
        forwards, both = _seconds_per_row(model, min(ROWS, max(1, recipe.train.batch_size * scored)))
    except (RuntimeError, MemoryError) as error:
        if memory_error(error) is None:
            raise
        return None
    return trained * both + asked * forwards


def _start_rows(recipe: Recipe, images: int) -> tuple[int, int]:
    """Rows of model calls in a start from the images: with their gradient, and without."""
    count, landmarks = recipe.concepts.most(), min(images, most_landmarks(recipe.concepts.count or 0))
    asked = images * count * LEVELS
    if recipe.weights.constraint == "none":
        known = [0, *goals(count)][:-1]  # before each round
        learned = landmarks * CANDIDATE_STEPS
        asked += sum(min(1, n) * learned * (1 + n) + landmarks * (2 * n + landmarks) * LEVELS for n in known)
        return len(known) * learned, asked
    words = landmarks * recipe.concepts.start_restarts
    return words * CANDIDATE_STEPS + landmarks * WORD_STEPS, asked + landmarks * words * LEVELS


def _seconds_per_row(model: DiffusionModel, rows: int) -> tuple[float, float]:
    """Seconds per row of a model call without, and with, its gradient."""
    latents = torch.zeros(rows, *model.latent_shape(), device=model.device)
    times = model.noise.time(torch.full((rows,), 0.5)).to(model.device)
    with torch.no_grad():
        conditioning = model.encode_prompts(["a photo"] * rows)

    def forwards() -> None:
        with torch.no_grad():
            model.predict(latents, times, conditioning)

    def both() -> None:
        model.predict(latents.clone().requires_grad_(), times, conditioning).square().mean().backward()

    return _timed(forwards, model.device) / rows, _timed(both, model.device) / rows


def _timed(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of a call, the median of three; one before them warms up."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
