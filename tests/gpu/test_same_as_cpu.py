"""A GPU gives what the CPU gives, to the last digits of float32: losses, gradients, pictures and maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concepts_cli.core.heat_maps import reconstruct, score_gains
from concepts_cli.core.sampling import Term, composition, generate, guided
from concepts_cli.models import load_model
from concepts_cli.recipe import SampleSettings
from tests.gpu.models import build_training

pytestmark = pytest.mark.gpu
PROMPTS = ("a photo of a cat", "a photo of a dog")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Without TensorFloat-32, which convolutions otherwise use."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def on_both(tiny_folder):
    return [load_model(str(tiny_folder), device=device, dtype=torch.float32) for device in ("cpu", "cuda")]


def first_gradients(training) -> dict[str, torch.Tensor]:
    terms, _ = training._backward(4)
    gradients = {name: table.grad for name, table in training.concepts.embeddings.items()}
    return {"terms": terms, "weights": training.concepts.raw_weights.grad} | gradients


@pytest.mark.parametrize(
    "options", [{}, {"checkpointed": True}, {"per_image": 2}], ids=["plain", "checkpointed", "few"]
)
def test_loss_and_gradients(tiny_folder, options):
    cpu, gpu = (first_gradients(build_training(tiny_folder, device, **options)) for device in ("cpu", "cuda"))
    for name, expected in cpu.items():
        torch.testing.assert_close(gpu[name].cpu(), expected, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("update", ["all", "seen"])
def test_twenty_steps(tiny_folder, update):
    def trained(device: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        training = build_training(tiny_folder, device, update=update)
        losses = torch.tensor([step.loss for step in training.steps()])
        return losses, {name: tensor.detach().cpu() for name, tensor in training.concepts.tensors().items()}

    (losses, cpu), (gpu_losses, gpu) = trained("cpu"), trained("cuda")
    torch.testing.assert_close(gpu_losses, losses, rtol=1e-3, atol=1e-4)
    for name, expected in cpu.items():
        torch.testing.assert_close(gpu[name], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_near(tiny_folder, precision):
    exact, half = build_training(tiny_folder, "cuda"), build_training(tiny_folder, "cuda", precision=precision)
    losses = [torch.tensor([step.loss for step in training.steps()]) for training in (exact, half)]
    torch.testing.assert_close(*losses, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "euler"])
def test_pictures(on_both, scheduler):
    requests = [guided(PROMPTS[0], 7.5, seed=0), guided(PROMPTS[1], 1.0, seed=1)]
    composed = [composition([Term(prompt, 3.0) for prompt in PROMPTS], seed=2)]
    for asked in (requests, composed):
        settings = SampleSettings(steps=6, scheduler=scheduler)
        cpu, gpu = (np.stack([np.asarray(p).astype(int) for p in generate(m, asked, settings)]) for m in on_both)
        assert abs(cpu - gpu).max() <= 2


@torch.no_grad()
def test_maps(on_both):
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    gains = [score_gains(model, latents.to(model.device), PROMPTS).cpu() for model in on_both]
    torch.testing.assert_close(*gains, rtol=1e-2, atol=1e-3)
    attention = [
        reconstruct(model, latents.to(model.device), PROMPTS, num_inference_steps=3)[0].cpu() for model in on_both
    ]
    torch.testing.assert_close(*attention, rtol=1e-2, atol=1e-4)
