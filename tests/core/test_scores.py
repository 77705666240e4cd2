"""The composed loss and its gradients against the equations, written out one score at a time."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.draws import seeded
from concepts_cli.core.objective import Batch, ComposedLoss, InversionLoss, strongest_and_one
from concepts_cli.core.scores import compose

SENTENCES = ("a photo of a {}", "{}")


def build(model, *, count=3, constraint="none", **options) -> ComposedLoss:
    start = initial_embeddings(model, count, words=None, spread=1.0, generator=seeded(0, "start"))
    weights = torch.rand(5, count, generator=seeded(0, "weights"))
    concepts = Concepts(start, weights, constraint=constraint)
    return ComposedLoss(model, concepts, concept_tokens(count), SENTENCES, **options)


def draw(model) -> Batch:
    generator = seeded(0, "batch")
    shape = (4, *model.latent_shape())
    return Batch(
        rows=torch.tensor([4, 0, 2, 2]),
        latents=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        timesteps=torch.tensor([3, 250, 600, 999]),
        sentences=torch.tensor([[0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]]),
        choices=torch.tensor([0.8, 0.1, 0.4, 0.5]),
    )


def value(objective, batch) -> torch.Tensor:
    """The whole loss, with the weights of the batch's images looked up so that gradients reach the matrix."""
    return sum(objective(batch, objective.concepts.raw_weights[batch.rows]).values())


def plain_score(model, noisy, t, prompt) -> torch.Tensor:
    return model.unet(noisy, t, encoder_hidden_states=model.encode_prompts([prompt]).tensors["hidden_states"]).sample


def plain_loss(model, concepts, batch) -> torch.Tensor:
    """Eq. 10 and 11 word by word: one image, one concept, one UNet call at a time, through the resized vocabulary of
    the encoder.
    """
    alphas = model.scheduler("ddpm").alphas_cumprod
    weights = concepts.raw_weights.softmax(-1) if concepts.constraint == "softmax" else concepts.raw_weights
    sentences = batch.sentences
    total = 0.0
    for b, row in enumerate(batch.rows.tolist()):
        x, noise, t = batch.latents[b : b + 1], batch.noise[b : b + 1], batch.timesteps[b]
        a = alphas[t]
        noisy = a.sqrt() * x + (1 - a).sqrt() * noise
        target = noise if model.noise.prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * x

        uncond = plain_score(model, noisy, t, "").detach()
        composed = uncond
        for k, token in enumerate(concept_tokens(concepts.count)):
            composed = composed + weights[row, k] * (
                plain_score(model, noisy, t, SENTENCES[sentences[b, k]].format(token)) - uncond
            )
        inside = torch.ones(noisy.shape[2:]) if batch.masks is None else batch.masks[b, 0]
        total = total + ((target - composed)[0, :, inside > 0] ** 2).mean()
    return total / len(batch.rows)


@pytest.mark.parametrize(
    ("constraint", "checkpointed", "masked"),
    [
        ("none", False, False),
        ("none", True, False),
        ("softmax", False, False),
        ("softmax", True, True),
        ("none", False, True),
    ],
)
def test_composed_loss_and_gradients_equal_one_score_at_a_time(tiny_model, constraint, checkpointed, masked):
    objective = build(tiny_model, constraint=constraint, checkpointed=checkpointed)
    concepts, batch = objective.concepts, draw(tiny_model)
    if masked:  # another part of each image, of another size
        masks = torch.zeros(4, 1, *batch.latents.shape[2:])
        for b in range(4):
            masks[b, :, b:, : 3 + b] = 1
        batch = replace(batch, masks=masks)
    parameters = [concepts.embeddings["text_encoder"], concepts.raw_weights]

    loss = value(objective, batch)
    gradients = torch.autograd.grad(loss, parameters)
    expected = plain_loss(tiny_model, concepts, batch)
    expected_gradients = torch.autograd.grad(expected, parameters)

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-7)
    assert gradients[0].abs().max() > 1e-6 and gradients[1].abs().max() > 1e-6
    assert not gradients[1][[1, 3]].any()  # images that were not drawn


@pytest.mark.parametrize(
    "weights",
    [
        [[0.1, 0.6, 0.05, 0.2, 0.05]],
        [[0.5, -2.0, 0.0, 1.0, -0.25]],
        [[0.0, 3.0, 0.0, 0.0, 0.0]],
    ],
)
def test_one_of_the_weaker_concepts_stands_for_them_all(weights):
    """The sum over concepts and its gradient by the weights, as means over evenly spread choices."""
    weights = torch.tensor(weights, dtype=torch.float64)
    scores = torch.tensor([1.0, -2.0, 4.0, 0.5, 3.0], dtype=torch.float64)
    choices = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    many = weights.expand(len(choices), -1).clone().requires_grad_()
    which, kept = strongest_and_one(many, 3, choices)
    assert which.shape == kept.shape == (len(choices), 3)
    strongest = weights[0].abs().topk(2).indices
    assert torch.equal(which[:, :2], strongest.expand(len(choices), -1)) and torch.equal(
        kept[0, :2], weights[0, strongest]
    )
    assert not torch.isin(which[:, 2], strongest).any()
    sums = (kept * scores[which]).sum(dim=1)
    torch.testing.assert_close(sums.mean(), weights[0] @ scores, rtol=1e-3, atol=1e-3)
    (gradient,) = torch.autograd.grad(sums.mean(), many)
    expected = torch.where(weights[0] == 0, 0, scores) if weights[0].count_nonzero() > 1 else scores
    torch.testing.assert_close(gradient.sum(dim=0), expected, rtol=2e-3, atol=2e-3)


def test_some_concepts_per_image(tiny_model):
    """All of them is the loss itself; fewer make fewer calls, and weights that sum to one still do."""
    whole, batch = build(tiny_model, constraint="softmax"), draw(tiny_model)
    objectives = [build(tiny_model, constraint="softmax", per_image=count) for count in (3, 5)]
    for objective in objectives:
        torch.testing.assert_close(value(objective, batch), value(whole, batch))
    weights = torch.rand(4, 9).softmax(dim=1)
    _, kept = strongest_and_one(weights, 4, torch.rand(4))
    torch.testing.assert_close(kept.sum(dim=1), torch.ones(4))
    some = build(tiny_model, count=6, constraint="softmax", per_image=2)
    sizes, predict = [], tiny_model.predict
    some.model.predict = lambda noisy, *rest: sizes.append(len(noisy)) or predict(noisy, *rest)
    try:
        value(some, dataclasses.replace(batch, sentences=torch.zeros(4, 6, dtype=torch.long))).backward()
    finally:
        del some.model.predict
    assert sizes == [4 * 2]


def test_compose_is_guidance_for_one_concept_and_the_mean_for_equal_weights():
    uncond, conditional = torch.randn(2, 4, 3, 3), torch.randn(2, 3, 4, 3, 3)
    one = compose(uncond, conditional[:, :1], torch.full((2, 1), 7.5))
    torch.testing.assert_close(one, uncond + 7.5 * (conditional[:, 0] - uncond))
    torch.testing.assert_close(compose(uncond, conditional, torch.full((2, 3), 1 / 3)), conditional.mean(1))
    torch.testing.assert_close(compose(uncond, conditional, torch.zeros(2, 3)), uncond)


def test_only_embeddings_and_weights_are_trained(tiny_model):
    objective = build(tiny_model)
    assert {name: tuple(p.shape) for name, p in objective.concepts.named_parameters()} == {
        "embeddings.text_encoder": (3, 32),
        "raw_weights": (5, 3),
    }
    before = {name: tensor.clone() for name, tensor in tiny_model.text_encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(objective.concepts.parameters(), lr=0.1)
    value(objective, draw(tiny_model)).backward()
    optimizer.step()
    for name, tensor in tiny_model.text_encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    frozen = [p for m in (tiny_model.text_encoder, tiny_model.unet, tiny_model.vae) for p in m.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_softmax_weights_need_no_unconditional_score(tiny_model):
    """Eq. 11 with weights of sum 1: the composition is the weighted mean of the conditional scores."""
    eq11, mean = (build(tiny_model, constraint="softmax", composition=how) for how in ("eq11", "mean"))
    assert not eq11.with_uncond and not mean.with_uncond and build(tiny_model).with_uncond
    batch = draw(tiny_model)
    torch.testing.assert_close(value(eq11, batch), value(mean, batch))


def test_a_mean_composition_leaves_the_unconditional_score_out(tiny_model):
    objective, batch = build(tiny_model, composition="mean"), draw(tiny_model)
    with torch.no_grad():
        objective.concepts.raw_weights.fill_(1 / 3)
        noisy, target = objective.noisy_and_target(batch)
        for b in range(4):
            one = list(batch.split(1))[b]
            scores = [
                plain_score(tiny_model, noisy[b : b + 1], batch.timesteps[b], SENTENCES[s].format(token))
                for s, token in zip(batch.sentences[b], concept_tokens(3), strict=True)
            ]
            torch.testing.assert_close(value(objective, one), F.mse_loss(sum(scores) / 3, target[b : b + 1]))


@pytest.mark.parametrize("owned", [False, True])
def test_a_baseline_explains_each_image_by_one_concept(tiny_model, owned):
    owners = torch.tensor([1, 0, 2, 0, 2]) if owned else None
    concepts = Concepts({"text_encoder": torch.randn(3, 32)}, torch.eye(3)[[0] * 5], train_weights=False)
    objective = InversionLoss(tiny_model, concepts, concept_tokens(3), SENTENCES, owners=owners)
    batch = draw(tiny_model)
    chosen = owners[batch.rows] if owned else torch.tensor([2, 0, 1, 1])
    total = 0.0
    for b, k in enumerate(chosen.tolist()):
        one = list(batch.split(1))[b]
        prompt = SENTENCES[batch.sentences[b, k]].format(concept_tokens(3)[k])
        noisy, target = objective.noisy_and_target(one)
        total = total + F.mse_loss(plain_score(tiny_model, noisy, one.timesteps[0], prompt), target) / 4
    loss = value(objective, batch)
    torch.testing.assert_close(loss, total)
    gradients = [torch.autograd.grad(one, concepts.embeddings["text_encoder"])[0] for one in (loss, total)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_gradient_checkpointing_changes_no_gradient(tiny_model):
    objective, batch = build(tiny_model), draw(tiny_model)
    plain = torch.autograd.grad(value(objective, batch), list(objective.concepts.parameters()))
    tiny_model.checkpoint_gradients()
    recomputed = torch.autograd.grad(value(objective, batch), list(objective.concepts.parameters()))
    torch.testing.assert_close(plain, recomputed)


def test_the_target_is_what_diffusers_scheduler_says(tiny_model):
    objective, batch = build(tiny_model), draw(tiny_model)
    with torch.no_grad():
        objective.concepts.raw_weights.zero_()
        noisy = tiny_model.scheduler("ddpm").add_noise(batch.latents, batch.noise, batch.timesteps)
        hidden = tiny_model.encode_prompts([""] * 4).tensors["hidden_states"]
        uncond = tiny_model.unet(noisy, batch.timesteps, hidden).sample
        target = batch.noise
        if tiny_model.noise.prediction == "v_prediction":
            target = tiny_model.scheduler("ddpm").get_velocity(batch.latents, batch.noise, batch.timesteps)
        torch.testing.assert_close(value(objective, batch), F.mse_loss(uncond, target))
