"""Langevin steps: their long run is the distribution whose score they follow, at any noise level."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from concepts_cli.core.correctors import Langevin, corrector_generators
from concepts_cli.core.sampling import denoise
from concepts_cli.errors import UcdError

MEAN = 0.7


def gaussian_noise_pred(scheduler, deviation):
    """The exact noise prediction where clean latents are normal around MEAN: of the posterior mean of the noise."""

    def predict(latents, timestep):
        alpha = scheduler.alphas_cumprod[timestep.long()]
        variance = alpha * deviation**2 + 1 - alpha
        return (1 - alpha).sqrt() * (latents - alpha.sqrt() * MEAN) / variance

    return predict


@pytest.mark.parametrize("timestep", [100, 500, 900])
def test_the_long_run_is_the_distribution_at_that_level(timestep):
    scheduler, deviation = DDIMScheduler(), 0.4
    predict = gaussian_noise_pred(scheduler, deviation)
    corrector = Langevin(200, 0.05, corrector_generators(range(64)), "epsilon")
    latents = torch.full((64, 1, 8, 8), -2.0)  # far from it
    latents = corrector(scheduler, latents, torch.tensor(timestep), predict)
    alpha = scheduler.alphas_cumprod[timestep]
    assert float(latents.mean()) == pytest.approx(float(alpha.sqrt() * MEAN), abs=0.05)
    assert float(latents.std()) == pytest.approx(float((alpha * deviation**2 + 1 - alpha).sqrt()), rel=0.06)


def test_velocity_is_the_same_as_noise():
    scheduler = DDIMScheduler()
    noise_pred = gaussian_noise_pred(scheduler, 0.4)

    def velocity_pred(latents, timestep):
        alpha = scheduler.alphas_cumprod[timestep.long()]
        return (noise_pred(latents, timestep) - (1 - alpha).sqrt() * latents) / alpha.sqrt()

    start, timestep = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(400)
    one, other = (
        Langevin(3, 0.05, corrector_generators([0, 1]), predicts)(scheduler, start, timestep, predict)
        for predicts, predict in (("epsilon", noise_pred), ("v_prediction", velocity_pred))
    )
    torch.testing.assert_close(one, other)


def test_an_image_is_the_same_in_any_batch():
    scheduler = DDIMScheduler()
    predict = gaussian_noise_pred(scheduler, 0.4)
    start = torch.randn(3, 1, 4, 4)
    alone, together = (
        Langevin(2, 0.05, corrector_generators(seeds), "epsilon")(scheduler, start[seeds], torch.tensor(400), predict)
        for seeds in ([2], [0, 1, 2])
    )
    torch.testing.assert_close(alone[0], together[2])


def test_no_corrector_changes_no_bit():
    scheduler = DDIMScheduler()
    predict, noise = gaussian_noise_pred(scheduler, 0.4), torch.randn(2, 1, 4, 4)
    *_, plain = denoise(scheduler, noise, predict, 5)
    *_, none = denoise(
        scheduler, noise, predict, 5, corrector=Langevin(0, 0.05, corrector_generators([0, 1]), "epsilon")
    )
    assert torch.equal(plain, none)


def test_schedulers_whose_latents_grow_are_refused():
    corrector = Langevin(1, 0.05, corrector_generators([0]), "epsilon")
    with pytest.raises(UcdError, match="EulerDiscreteScheduler"):
        list(denoise(EulerDiscreteScheduler(), torch.randn(1, 1, 4, 4), lambda x, t: x, 2, corrector=corrector))
