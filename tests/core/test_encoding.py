"""Weights of new images: against SciPy's optimiser, gradient descent through the scores, and themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize
from torch.nn import functional as F

from concepts_cli.core.concepts import concept_tokens
from concepts_cli.core.draws import seeded
from concepts_cli.core.encoding import Quadratic, encode_records
from concepts_cli.core.scores import compose
from concepts_cli.data.finding import find_images
from concepts_cli.data.images import open_image, to_pixels
from concepts_cli.data.records import read_images
from concepts_cli.errors import UcdError
from concepts_cli.recipe import load_recipe

COUNT = 3


def random_quadratic(seed: int, count: int = COUNT, rank: int = 20) -> Quadratic:
    added = torch.randn(rank, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    missing = torch.randn(rank, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return Quadratic(added.T @ added / rank, added.T @ missing / rank, *[missing @ missing / rank] * 2)


@pytest.mark.parametrize("seed", range(6))
def test_on_the_simplex_it_is_scipys_optimum(seed):
    quadratic = random_quadratic(seed, count=6)
    theirs = minimize(
        lambda w: quadratic.loss(torch.from_numpy(w)),
        np.full(6, 1 / 6),
        bounds=[(0, 1)] * 6,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    weights = quadratic.best_weights("softmax", 0.0)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert quadratic.loss(weights) <= theirs.fun + 1e-9
    np.testing.assert_allclose(weights, theirs.x, atol=1e-4)


def test_without_a_constraint_it_is_least_squares():
    quadratic = random_quadratic(0)
    torch.testing.assert_close(
        quadratic.best_weights("none", 5.0), torch.linalg.solve(quadratic.gram, quadratic.cross), rtol=1e-9, atol=1e-9
    )


def test_two_concepts_that_are_one_share_from_where_they_start():
    gram = torch.ones(2, 2, dtype=torch.float64)  # only their sum matters
    cross, base = torch.full((2,), 1.4, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    quadratic = Quadratic(gram, cross, base, base)
    torch.testing.assert_close(quadratic.best_weights("none", 0.2), torch.full((2,), 0.7, dtype=torch.float64))


@pytest.fixture
def known(tiny_model, image_folder, recipe_file):
    """A tiny model that knows three words, images, and a recipe."""
    tokens = concept_tokens(COUNT)
    embeddings = torch.randn(COUNT, 32, generator=seeded(0, "test"))
    tiny_model.set_concepts(tokens, {"text_encoder": embeddings})
    return tiny_model, read_images(find_images([image_folder])), load_recipe(recipe_file), tokens


def encoded(known, records=None, **options):
    model, all_records, recipe, tokens = known
    options = {"steps": 4, "seed": 3} | options
    return list(encode_records(model, records or all_records, recipe=recipe, tokens=tokens, **options))


@pytest.mark.parametrize(("composition", "masked"), [("eq11", False), ("mean", False), ("eq11", True)])
def test_it_is_where_gradient_descent_through_the_scores_ends(known, composition, masked, tmp_path):
    """Eq. 10 and 11 written out, with the draws that the docstrings promise, minimised by LBFGS on the weights."""
    model, records, recipe, tokens = known
    recipe = replace(recipe, weights=replace(recipe.weights, composition=composition))
    known = model, records, recipe, tokens
    inside = torch.ones(16, 16)
    if masked:
        inside[:, 5:] = 0
        Image.fromarray((inside.repeat_interleave(2, 0).repeat_interleave(2, 1) * 255).byte().numpy()).save(
            tmp_path / "m.png"
        )
        records = [replace(records[0], mask=str(tmp_path / "m.png"), mask_sha256="0" * 64)]
    (found,) = encoded(known, records[:1])
    steps, generator = 4, seeded(3, f"encode {records[0].sha256}")
    mean, std = model.encode_images(to_pixels(open_image(records[0].path), model.resolution)[None])
    clean = mean + std * torch.randn(steps, *mean.shape[1:], generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    timesteps = ((torch.arange(steps) + torch.rand(steps, generator=generator)) / steps * 1000).long()
    schedule = model.scheduler("ddpm")
    noisy = schedule.add_noise(clean, noise, timesteps)
    target = schedule.get_velocity(clean, noise, timesteps) if model.noise.prediction == "v_prediction" else noise
    sentences = recipe.concepts.templates()
    order = torch.randperm(len(sentences), generator=seeded(3, "encode"))
    with torch.no_grad():
        uncond = model.predict(noisy, timesteps, model.encode_prompts([""] * steps))
        conditional = torch.stack(
            [
                model.predict(
                    noisy, timesteps, model.encode_prompts([sentences[order[s]].format(t) for s in range(steps)])
                )
                for t in tokens
            ],
            dim=1,
        )
    weights = torch.full((COUNT,), recipe.weights.initial, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        each = weights.expand(steps, -1)
        if composition == "eq11":
            composed = compose(uncond.double(), conditional.double(), each)
        else:
            composed = (conditional.double() * each[:, :, None, None, None]).sum(dim=1)
        value = F.mse_loss(composed[..., inside > 0], target[..., inside > 0].double())
        value.backward()
        return value

    optimizer.step(loss)
    assert found.loss == pytest.approx(loss().item(), rel=1e-5)
    assert found.loss_without == pytest.approx(
        F.mse_loss(uncond[..., inside > 0], target[..., inside > 0]).item(), rel=1e-5
    )
    assert found.loss <= found.loss_without or composition == "mean"


def test_an_image_has_the_same_weights_in_any_company(known):
    _, records, _, _ = known
    together, alone = encoded(known), encoded(known, records[2:3])
    assert together[2] == alone[0]
    assert encoded(known, records[::-1])[3] == alone[0]


def test_rows_of_a_call_change_nothing_but_the_last_digits(known):
    for few, many in zip(encoded(known, rows=1), encoded(known, rows=64), strict=True):
        assert few.loss == pytest.approx(many.loss, rel=1e-4)


def test_the_seed_decides(known):
    assert encoded(known) == encoded(known)
    assert encoded(known)[0].weights != encoded(known, seed=4)[0].weights


def test_scores_that_are_not_finite_are_told(known, monkeypatch):
    model = known[0]
    monkeypatch.setattr(model, "predict", lambda noisy, *_: torch.full_like(noisy, torch.nan))
    with pytest.raises(UcdError, match="not finite") as caught:
        encoded(known)
    assert caught.value.exit_code == 1
