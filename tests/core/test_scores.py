"""The composed loss and its gradients against the equations, written out one score at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import Batch, ComposedLoss, seeded
from concepts_cli.core.scores import compose

SENTENCES = ("a photo of a {}", "{}")


def build(model, *, count=3, constraint="none", checkpointed=False):
    start = initial_embeddings(model, count, words=None, spread=1.0, generator=seeded(0, "start"))
    weights = torch.rand(5, count, generator=seeded(0, "weights"))
    concepts = Concepts(start, weights, constraint=constraint)
    return ComposedLoss(model, concepts, concept_tokens(count), SENTENCES, checkpointed=checkpointed)


def draw(model) -> Batch:
    generator = seeded(0, "batch")
    shape = (4, *model.latent_shape())
    return Batch(
        rows=torch.tensor([4, 0, 2, 2]),
        latents=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        timesteps=torch.tensor([3, 250, 600, 999]),
        sentences=torch.tensor([0, 1, 0, 1]),
    )


def plain_score(model, noisy, t, prompt) -> torch.Tensor:
    return model.unet(noisy, t, encoder_hidden_states=model.encode_prompts([prompt])).sample


def plain_loss(model, concepts, batch) -> torch.Tensor:
    """Eq. 10 and 11 word by word: one image, one concept, one UNet call at a time, through the resized vocabulary of
    the encoder.
    """
    alphas = model.scheduler("ddpm").alphas_cumprod
    weights = concepts.raw_weights.softmax(-1) if concepts.constraint == "softmax" else concepts.raw_weights
    total = 0.0
    for b, row in enumerate(batch.rows.tolist()):
        x, noise, t = batch.latents[b : b + 1], batch.noise[b : b + 1], batch.timesteps[b]
        a = alphas[t]
        noisy = a.sqrt() * x + (1 - a).sqrt() * noise
        target = noise if model.prediction_type == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * x

        uncond = plain_score(model, noisy, t, "").detach()
        composed = uncond
        for k, token in enumerate(concept_tokens(concepts.count)):
            composed = composed + weights[row, k] * (
                plain_score(model, noisy, t, SENTENCES[batch.sentences[b]].format(token)) - uncond
            )
        total = total + ((target - composed) ** 2).mean()
    return total / len(batch.rows)


@pytest.mark.parametrize("constraint", ["none", "softmax"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_composed_loss_and_gradients_equal_one_score_at_a_time(tiny_model, constraint, checkpointed):
    loss_module = build(tiny_model, constraint=constraint, checkpointed=checkpointed)
    concepts, batch = loss_module.concepts, draw(tiny_model)
    parameters = [concepts.embeddings, concepts.raw_weights]

    loss = loss_module(batch)
    gradients = torch.autograd.grad(loss, parameters)
    expected = plain_loss(tiny_model, concepts, batch)
    expected_gradients = torch.autograd.grad(expected, parameters)

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-7)
    assert gradients[0].abs().max() > 1e-6 and gradients[1].abs().max() > 1e-6
    assert not gradients[1][[1, 3]].any()  # images that were not drawn


def test_compose_is_guidance_for_one_concept_and_the_mean_for_equal_weights():
    uncond, conditional = torch.randn(2, 4, 3, 3), torch.randn(2, 3, 4, 3, 3)
    one = compose(uncond, conditional[:, :1], torch.full((2, 1), 7.5))
    torch.testing.assert_close(one, uncond + 7.5 * (conditional[:, 0] - uncond))
    torch.testing.assert_close(compose(uncond, conditional, torch.full((2, 3), 1 / 3)), conditional.mean(1))
    torch.testing.assert_close(compose(uncond, conditional, torch.zeros(2, 3)), uncond)


def test_only_embeddings_and_weights_are_trained(tiny_model):
    loss_module = build(tiny_model)
    assert {name: tuple(p.shape) for name, p in loss_module.named_parameters()} == {
        "concepts.embeddings": (3, 32),
        "concepts.raw_weights": (5, 3),
    }
    before = {name: value.clone() for name, value in tiny_model.text_encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(loss_module.parameters(), lr=0.1)
    loss_module(draw(tiny_model)).backward()
    optimizer.step()
    for name, value in tiny_model.text_encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    frozen = [p for m in (tiny_model.text_encoder, tiny_model.unet, tiny_model.vae) for p in m.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_the_target_is_what_diffusers_scheduler_says(tiny_model):
    loss_module, batch = build(tiny_model), draw(tiny_model)
    with torch.no_grad():
        loss_module.concepts.raw_weights.zero_()
        noisy = tiny_model.scheduler("ddpm").add_noise(batch.latents, batch.noise, batch.timesteps)
        hidden = tiny_model.encode_prompts([""] * 4)
        uncond = tiny_model.unet(noisy, batch.timesteps, hidden).sample
        target = batch.noise
        if tiny_model.prediction_type == "v_prediction":
            target = tiny_model.scheduler("ddpm").get_velocity(batch.latents, batch.noise, batch.timesteps)
        torch.testing.assert_close(loss_module(batch), F.mse_loss(uncond, target))
