"""Langevin steps: their long run is the distribution whose score they follow, at any noise level."""

import pytest
import torch
from diffusers import DDIMScheduler

from concepts_cli.core.correctors import Langevin, corrector_generators
from concepts_cli.core.sampling import check_settings, denoise
from concepts_cli.errors import UcdError
from concepts_cli.models.noise import DiscreteNoise
from concepts_cli.models.samplers import DiffusersSampler
from concepts_cli.recipe import SampleSettings

MEAN = 0.7


def process(scheduler, prediction="epsilon") -> DiscreteNoise:
    return DiscreteNoise(scheduler.alphas_cumprod, scheduler.final_alpha_cumprod, prediction)


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
    corrector = Langevin(200, 0.05, corrector_generators(range(64)), process(scheduler))
    latents = torch.full((64, 1, 8, 8), -2.0)  # far from it
    latents = corrector(latents, torch.tensor(timestep), predict)
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
        Langevin(3, 0.05, corrector_generators([0, 1]), process(scheduler, predicts))(start, timestep, predict)
        for predicts, predict in (("epsilon", noise_pred), ("v_prediction", velocity_pred))
    )
    torch.testing.assert_close(one, other)


def test_an_image_is_the_same_in_any_batch():
    scheduler = DDIMScheduler()
    predict = gaussian_noise_pred(scheduler, 0.4)
    start = torch.randn(3, 1, 4, 4)
    alone, together = (
        Langevin(2, 0.05, corrector_generators(seeds), process(scheduler))(start[seeds], torch.tensor(400), predict)
        for seeds in ([2], [0, 1, 2])
    )
    torch.testing.assert_close(alone[0], together[2])


def test_no_corrector_changes_no_bit():
    scheduler = DDIMScheduler()
    predict, noise = gaussian_noise_pred(scheduler, 0.4), torch.randn(2, 1, 4, 4)
    *_, plain = denoise(DiffusersSampler(scheduler), noise, predict, 5)
    corrector = Langevin(0, 0.05, corrector_generators([0, 1]), process(scheduler))
    *_, none = denoise(DiffusersSampler(scheduler), noise, predict, 5, corrector=corrector)
    assert torch.equal(plain, none)


def test_what_does_not_go_with_a_sampler_is_refused_and_the_others_named(tiny_model):
    with pytest.raises(UcdError, match="corrector steps don't work with euler") as caught:
        check_settings(tiny_model, SampleSettings(scheduler="euler", corrector_steps=1))
    assert caught.value.hint == "use ddim or ddpm or pndm or dpm++ or dpm++karras or dpm++sde or deis or unipc"
    with pytest.raises(UcdError, match="euler takes no eta, got 0.5") as caught:
        check_settings(tiny_model, SampleSettings(scheduler="euler", eta=0.5))
    assert "ddim" in caught.value.hint and "dpm++" not in caught.value.hint
