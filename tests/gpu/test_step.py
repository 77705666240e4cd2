"""A step on a GPU: it waits for nothing, and its memory grows with neither concepts nor batches."""

from __future__ import annotations

import gc

import pytest
import torch

from tests.gpu.models import build_training

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"update": "seen"},
        {"per_image": 2},
        {"checkpointed": True},
        {"precision": "fp16"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_a_step_never_waits_for_the_device(tiny_folder, options):
    training = build_training(tiny_folder, "cuda", **options)
    steps = training.steps()
    next(steps), next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        training._update(training._rates_at(training.step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(tensor).all() for tensor in training.concepts.tensors().values())


def test_a_step_of_sdxl_never_waits_either(tmp_path):
    from tests.models.tiny_xl import build_xl

    build_xl(tmp_path)
    training = build_training(tmp_path, "cuda")
    next(training.steps())
    torch.cuda.set_sync_debug_mode("error")
    try:
        training._update(training._rates_at(training.step))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def peak_of_a_step(folder, **options) -> int:
    """Bytes beyond what the model and the training hold."""
    training = build_training(folder, "cuda", gradient_accumulation=1, max_steps=2, **options)
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    assert len(list(training.steps())) == 2
    return torch.cuda.max_memory_allocated() - held


def test_memory_grows_with_concepts_unless_they_are_checkpointed(tiny_folder):
    few, many = (peak_of_a_step(tiny_folder, side=128, concepts=count) for count in (2, 16))
    assert many > 4 * few
    few, many = (peak_of_a_step(tiny_folder, side=128, concepts=count, checkpointed=True) for count in (2, 16))
    assert many < 1.3 * few


def test_a_batch_that_does_not_fit_is_halved(tiny_folder):
    options = {"side": 256, "max_steps": 2, "gradient_accumulation": 1}
    whole = build_training(tiny_folder, "cuda", **options)
    losses = [step.loss for step in whole.steps()]
    needed = peak_of_a_step(tiny_folder, side=256)
    del whole
    gc.collect()
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + 0.7 * needed
    try:
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
        cramped = build_training(tiny_folder, "cuda", **options)
        torch.testing.assert_close([step.loss for step in cramped.steps()], losses, rtol=1e-3, atol=1e-4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert cramped._rows_that_fit in (1, 2)
