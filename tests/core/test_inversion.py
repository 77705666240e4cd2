"""Inversion against diffusers' DDIMInverseScheduler, and back again."""

import pytest
import torch
from diffusers import DDIMInverseScheduler

from concepts_cli.core.inversion import invert
from concepts_cli.core.sampling import denoise


def latents_of(model, batch=2):
    return torch.randn(batch, *model.latent_shape(), generator=torch.Generator().manual_seed(0))


def scores(model, scale=1.0):
    """The model's predictions under guidance, a fifth as strong: a random model's change too fast to be followed."""
    hidden = model.encode_prompts(["a cat", "a photo of a dog"])
    uncond = model.encode_prompts(["", ""])

    def predict(latents, timestep):
        base = model.predict(latents, timestep, uncond)
        return (base + scale * (model.predict(latents, timestep, hidden) - base)) / 5

    return predict


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [4, 10])
@torch.no_grad()
def test_each_step_is_that_of_diffusers_inverse_scheduler(tiny_model, spacing, steps):
    tiny_model.scheduler_config = {**tiny_model.scheduler_config, "timestep_spacing": spacing}
    oracle = DDIMInverseScheduler.from_config(tiny_model.scheduler_config)
    oracle.set_timesteps(steps)
    expected, predict = latents_of(tiny_model), scores(tiny_model)
    ours = invert(tiny_model, latents_of(tiny_model), predict, steps)
    for latents, timestep in zip(ours, oracle.timesteps, strict=True):
        expected = oracle.step(predict(expected, timestep), timestep, expected).prev_sample
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@torch.no_grad()
def test_the_way_back_ends_where_the_way_in_began_and_nearer_with_corrections(tiny_model, guidance_scale):
    start, predict = latents_of(tiny_model), scores(tiny_model, guidance_scale)
    errors = []
    for corrections in (0, 1, 12):
        *_, noise = invert(tiny_model, start, predict, 8, corrections=corrections)
        *_, again = denoise(tiny_model.sampler("ddim"), noise, predict, 8)
        errors.append(float((again - start).square().mean().sqrt()))
    assert errors[1] < errors[0]
    assert errors[2] < 1e-3, "the fixed point is the exact inverse"


@torch.no_grad()
def test_inversion_has_no_randomness(tiny_model):
    def run():
        *_, noise = invert(tiny_model, latents_of(tiny_model), scores(tiny_model), 5)
        return noise

    assert torch.equal(run(), run())
