"""Which tokens, reconstructions, and which concept explains which place."""

import pytest
import torch

from concepts_cli.core.heat_maps import LEVELS, Subject, encoded, reconstruct, score_gains, shares, tokens_of
from concepts_cli.core.inversion import invert
from concepts_cli.core.sampling import denoise
from concepts_cli.errors import UcdError
from concepts_cli.models.unet_attention import record_attention

CAT, DOG = Subject("cat", "a photo of a cat"), Subject("dog", "a photo of a dog")


def latents_of(model, batch):
    return torch.randn(batch, *model.latent_shape(), generator=torch.Generator().manual_seed(0))


def test_a_word_counts_with_what_follows_it_in_its_own_prompt_and_alone_in_another(tiny_model):
    assert tokens_of(tiny_model, "a photo of a cat", CAT) == list(range(5, 16))
    assert tokens_of(tiny_model, "a photo of a cat", CAT, word_only=True) == [5]
    assert tokens_of(tiny_model, "a cat in a dog", CAT) == [2]
    with pytest.raises(UcdError, match="'dog' is not in the prompt: 'a photo of a cat'"):
        tokens_of(tiny_model, "a photo of a cat", DOG)
    with pytest.raises(UcdError, match="that the model reads"):
        tokens_of(tiny_model, "a photo " * 10 + "dog", DOG)


@torch.no_grad()
def test_with_a_seed_latents_are_sampled_and_those_of_an_image_do_not_depend_on_the_others(tiny_model):
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sampled = encoded(tiny_model, pixels, seed=5)
    for image, latents in zip(pixels, sampled, strict=True):
        posterior = tiny_model.vae.encode(image[None]).latent_dist
        expected = posterior.sample(generator=torch.Generator().manual_seed(5)) * tiny_model.vae.config.scaling_factor
        torch.testing.assert_close(latents, expected[0])
    assert not torch.allclose(sampled, encoded(tiny_model, pixels, seed=6))
    torch.testing.assert_close(encoded(tiny_model, pixels), tiny_model.encode_images(pixels)[0])


@torch.no_grad()
def test_a_stacked_reconstruction_is_that_of_one_image_and_prompt_at_a_time(tiny_model):
    latents, prompts = latents_of(tiny_model, 2), [CAT.prompt, DOG.prompt]
    attention, clean = reconstruct(tiny_model, latents.repeat_interleave(2, 0), prompts * 2, num_inference_steps=3)
    assert attention.shape == (4, 16, 16, 16) and clean.shape == (4, 4, 16, 16)
    for row, (image, prompt) in enumerate((i, p) for i in latents for p in prompts):
        hidden = tiny_model.encode_prompts([prompt])

        def predict(x, t, hidden=hidden):
            return tiny_model.predict(x, t, hidden)

        *_, noise = invert(tiny_model, image[None], predict, 3)
        with record_attention(tiny_model.unet) as recorder:
            *_, alone = denoise(tiny_model.sampler("ddim"), noise, predict, 3)
        torch.testing.assert_close(clean[row], alone[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(attention[row], recorder.maps()[0], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_under_guidance_the_conditional_rows_are_recorded(tiny_model):
    latents = latents_of(tiny_model, 2)
    attention, _ = reconstruct(tiny_model, latents, [CAT.prompt, DOG.prompt], num_inference_steps=2, guidance_scale=3.0)
    swapped, _ = reconstruct(
        tiny_model, latents.flip(0), [DOG.prompt, CAT.prompt], num_inference_steps=2, guidance_scale=3.0
    )
    assert attention.shape == (2, 16, 16, 16)
    torch.testing.assert_close(attention, swapped.flip(0), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_gains_are_differences_of_the_losses_of_training(tiny_model):
    """Summed over the image, a gain is the loss of no concept less that of the concept's own score."""
    latents, prompts = latents_of(tiny_model, 2), [CAT.prompt, DOG.prompt]
    gains = score_gains(tiny_model, latents, prompts, seed=5)
    assert gains.shape == (2, 2, 16, 16)
    scheduler, generator = tiny_model.scheduler("ddim"), torch.Generator().manual_seed(5)
    expected = torch.zeros(2, 2)
    for level in range(LEVELS):
        timestep = torch.tensor(1000 // LEVELS * level + 500 // LEVELS)
        noise = torch.randn(4, 16, 16, generator=generator).expand(2, -1, -1, -1)
        noisy = scheduler.add_noise(latents, noise, timestep[None])
        target = noise
        if tiny_model.noise.prediction == "v_prediction":
            target = scheduler.get_velocity(latents, noise, timestep[None])
        losses = [
            (tiny_model.predict(noisy, timestep, tiny_model.encode_prompts([p] * 2)) - target).square().sum((1, 2, 3))
            for p in ("", *prompts)
        ]
        expected += torch.stack([losses[0] - losses[1], losses[0] - losses[2]], dim=1) / LEVELS
    torch.testing.assert_close(gains.sum((2, 3)), expected, rtol=1e-2, atol=1e-2)


def test_shares_sum_to_one_and_go_to_who_gains_most():
    gains = torch.zeros(1, 3, 16, 16)
    gains[0, 0, :, :8], gains[0, 1, :, 8:] = 2.0, 2.0
    found = shares(gains)[0]
    torch.testing.assert_close(found.sum(0), torch.ones(16, 16))
    assert (found[:, :, :5].argmax(0) == 0).all() and (found[:, :, 11:].argmax(0) == 1).all()
    torch.testing.assert_close(shares(gains * 100), shares(gains))  # no unit
    torch.testing.assert_close(shares(gains[:, :1]), torch.ones(1, 1, 16, 16))
    assert shares(torch.zeros(2, 2, 8, 12)).eq(0.5).all()
