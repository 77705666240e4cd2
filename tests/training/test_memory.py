"""The memory that a training is expected to take, against what it takes."""

from __future__ import annotations

import pytest
import torch

from concepts_cli.commands.train import Trainer, train
from concepts_cli.core.concepts import Concepts, concept_tokens, several
from concepts_cli.core.objective import Batch, ComposedLoss, InversionLoss
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.training import memory
from tests.models.tiny_flux2 import build_flux2
from tests.models.tiny_t5 import build_if, build_pixart
from tests.models.tiny_xl import build_xl
from tests.models.tiny_z_image import build_z_image
from tests.training.allocations import measured_peak

WITHIN = 0.11
BUILD = {"xl": build_xl, "z-image": build_z_image, "flux2": build_flux2, "pixart": build_pixart, "if": build_if}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("flux2", "pixart", "if")]


@pytest.fixture(params=["sd", "xl", "z-image", *SLOW])
def folder(request, tiny_folder, tmp_path):
    if request.param == "sd":
        return tiny_folder
    BUILD[request.param](tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def recipe(workplace, recipe_file):
    """A recipe of nine concepts, four images a step."""

    def build(*settings):
        return load_recipe(recipe_file, ["concepts.count=9", "train.batch_size=4", "data.resolution=64", *settings])

    return build


def measured_step(recipe, images: int) -> int:
    """What a forward and backward pass of a step of this recipe allocates."""
    model, concepts, train = load_model(recipe.model, device="cpu"), recipe.concepts, recipe.train
    words = {
        name: torch.randn(concepts.count, *several(concepts.vectors), table.shape[1])
        for name, table in model.tables.items()
    }
    learned = Concepts(words, torch.ones(images, concepts.count), where=concepts.where)
    learned.constraint = recipe.weights.constraint
    arguments = model, learned, concept_tokens(concepts.count), concepts.templates()
    if train.method == "composed":
        loss = ComposedLoss(*arguments, checkpointed=train.concept_checkpointing, per_image=train.concepts_per_image)
    else:
        loss = InversionLoss(*arguments)
    if train.gradient_checkpointing:
        model.checkpoint_gradients()
    side = recipe.data.resolution or model.resolution
    latents = torch.randn(images, *model.latent_shape(side, side))
    sentences = (torch.arange(images) % len(concepts.templates()))[:, None].expand(-1, concepts.count)
    times = model.noise.time(torch.rand(images))
    batch = Batch(torch.arange(images), latents, latents, times, sentences, torch.rand(images))
    raw = torch.ones(images, concepts.count, requires_grad=True)
    return measured_peak(lambda: sum(loss(batch, raw).values()).backward())


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.concept_checkpointing=true",),
        ("train.gradient_checkpointing=true",),
        ("weights.constraint=softmax", "concepts.vectors=2", "concepts.property=null"),
        ("train.method=textual-inversion",),
        ("concepts.where=output", "train.concepts_per_image=2"),
    ],
    ids=str,
)
def test_a_steps_peak_is_known_from_the_configuration(recipe_file, folder, settings):
    recipe = load_recipe(recipe_file, [f"model={folder}", "concepts.count=3", "data.resolution=64", *settings])
    model = memory._skeleton(recipe)
    if recipe.concepts.where not in model.places:
        pytest.skip("refused before a plan is made")
    if recipe.train.gradient_checkpointing:
        model.checkpoint_gradients()
    expected = memory._step_peak(model, recipe, 4, concept_checkpointing=recipe.train.concept_checkpointing)
    measured = measured_step(recipe, 4)
    assert abs(expected / measured - 1) < WITHIN, (expected, measured)


@torch.no_grad()
def test_the_peak_of_encoding_images_is_known(folder, recipe):
    chosen = recipe(f"model={folder}")
    model = load_model(str(folder), device="cpu")
    expected = memory._images_peak(memory._skeleton(chosen), chosen, 4)
    measured = measured_peak(lambda: model.encode_images(torch.rand(4, 3, 64, 64)))
    assert 0.6 < expected / measured < 1.1  # a CPU's convolutions copy their input, which these pictures are most of


def test_the_fastest_plan_that_fits_is_taken(recipe):
    whole = memory.plan_memory(recipe(), None)
    assert (whole.images_at_once, whole.start_rows, whole.encoded_at_once) == (4, 64, 8) and whole.fits
    half, tight, nothing = (memory.plan_memory(recipe(), int(whole.peak * share)) for share in (0.7, 0.12, 0.001))
    assert (half.images_at_once, half.concept_checkpointing, half.fits) == (2, False, True)
    assert tight.concept_checkpointing and tight.fits
    assert (nothing.images_at_once, nothing.encoded_at_once, nothing.gradient_checkpointing) == (1, 1, True)
    assert not nothing.fits and nothing.peak <= tight.peak < half.peak < whole.peak
    asked = memory.plan_memory(recipe("train.gradient_checkpointing=true"), None)
    assert asked.gradient_checkpointing and not asked.concept_checkpointing and asked.peak < whole.peak


def test_what_is_loaded_counts(recipe):
    both, previews, output = (
        memory.plan_memory(recipe(*settings), None).weights
        for settings in ((), ("train.preview_every=1",), ("concepts.where=output",))
    )
    assert previews > both > output


@pytest.mark.parametrize(("size", "bytes_"), [("12GB", 12 * 10**9), ("1.5 GiB", 1.5 * 2**30), ("800MB", 800 * 10**6)])
def test_sizes(recipe, size, bytes_):
    assert memory.memory_limit(recipe(f"train.memory={size}"), torch.device("cpu")) == bytes_
    with pytest.raises(UcdError, match="expected a size, such as 12GB"):
        recipe("train.memory=much")


def test_a_training_fits_itself_into_what_it_may_take_and_learns_the_same(recipe, workplace, capsys):
    overrides = ("train.max_steps=1", "concepts.count=3", "data.resolution=32")
    free = train(recipe(*overrides), output=workplace / "free", device="cpu", out=Output(quiet=True))
    weights, model = memory.plan_memory(free.recipe, None).weights, memory._skeleton(free.recipe)
    limit = weights + memory._step_peak(model, free.recipe, 1, concept_checkpointing=False)
    tight = recipe(*overrides, f"train.memory={limit / 1000:.0f}KB")
    trainer = Trainer(tight, output=workplace / "tight", device="cpu", out=Output())
    assert "of memory: 2 images at a time, concept checkpointing" in capsys.readouterr().err
    for _ in trainer.steps(lambda: False):
        pass
    assert trainer.run.recipe.train.concept_checkpointing and trainer.training._rows_that_fit == 2
    torch.testing.assert_close(trainer.run.embeddings, free.embeddings, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_said_and_tried(recipe, workplace, capsys):
    Trainer(recipe("train.memory=1KB"), device="cpu", out=Output())._release()
    assert "this takes" in capsys.readouterr().err
