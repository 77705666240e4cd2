"""A compiled model: the same losses, and nothing is compiled again after the first step."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.models import build_training

pytestmark = pytest.mark.gpu


def test_steps_of_a_compiled_model(tiny_folder, monkeypatch):
    plain = [step.loss for step in build_training(tiny_folder, "cuda", max_steps=4).steps()]
    compiled = build_training(tiny_folder, "cuda", max_steps=4, compiled=True)
    steps = compiled.steps()
    losses = [next(steps).loss]
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    losses += [step.loss for step in steps]
    torch.testing.assert_close(losses, plain, rtol=0.01, atol=0.01)
