"""What a step draws: every image in turn, timesteps as asked, and the same for any number of processes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from accelerate import Accelerator

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import ComposedLoss, Training, seeded
from concepts_cli.data.latents import Latents
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.recipe import TrainSettings

SETTINGS = TrainSettings(max_steps=4, batch_size=4, gradient_accumulation=1, learning_rate=0.01)


@pytest.fixture
def training(tiny_folder):
    def build(**settings) -> Training:
        model = load_model(str(tiny_folder), device="cpu")
        concepts = Concepts(torch.randn(2, model.embedding_dim), torch.ones(7, 2))
        loss = ComposedLoss(model, concepts, concept_tokens(2), ("{}",))
        latents = torch.randn(2, 7, *model.latent_shape(), generator=seeded(0, "latents"))
        chosen = dataclasses.replace(SETTINGS, **settings)
        return Training(
            loss,
            Latents(latents, torch.ones_like(latents)),
            chosen,
            flip_probability=0.5,
            accelerator=Accelerator(cpu=True),
        )

    return build


def test_every_epoch_shows_every_image_once_in_a_new_order(training):
    drawing = training(batch_size=4)
    rows = torch.cat([drawing.draw(index).rows for index in range(7)])  # four epochs of seven
    epochs = rows.view(4, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_a_batch_larger_than_the_collection_runs_on_into_the_next_epochs(training):
    rows = training(batch_size=20).draw(0).rows
    assert sorted(rows[:7].tolist()) == sorted(rows[7:14].tolist()) == list(range(7)) and len(rows) == 20


def test_a_draw_depends_on_seed_and_index_alone(training):
    first, again, other = training(), training(), training(seed=1)
    assert torch.equal(first.draw(5).noise, again.draw(5).noise)
    assert not torch.equal(first.draw(5).noise, first.draw(6).noise)
    assert not torch.equal(first.draw(5).noise, other.draw(5).noise)


def test_processes_share_one_batch(training):
    whole, half = training(batch_size=4), training(batch_size=2)
    half.micro_batch = 4

    class Half:
        device, num_processes = torch.device("cpu"), 2

    parts = []
    for half.accelerator in (Half(), Half()):
        half.accelerator.process_index = len(parts)
        parts.append(half.draw(3))
    rebuilt = torch.stack([part.latents for part in parts], dim=1).flatten(0, 1)
    assert torch.equal(rebuilt, whole.draw(3).latents)


@pytest.mark.parametrize(("which", "mean"), [("uniform", 500), ("high-noise", 667), ("low-noise", 333)])
def test_timesteps_lean_to_the_end_that_was_asked_for(training, which, mean):
    timesteps = training(timesteps=which, batch_size=4000).draw(0).timesteps.float()
    assert abs(timesteps.mean() - mean) < 25 and timesteps.min() >= 0 and timesteps.max() <= 999


def test_learning_rates_scale_with_the_batch_and_differ_where_asked(training):
    scaled = training(scale_learning_rate=True, gradient_accumulation=2, weights_learning_rate=0.001)
    torch.testing.assert_close(scaled._rate_at(0), [0.01 * 8, 0.001 * 8])
    warm = training(scale_learning_rate=False, schedule="linear", warmup_steps=2)
    torch.testing.assert_close([warm._rate_at(step)[0] for step in range(4)], [0.0, 0.005, 0.01, 0.005])


def test_a_checkpoint_of_another_collection_is_refused(training):
    state = training().state()
    state["concepts.raw_weights"] = torch.ones(8, 2)
    with pytest.raises(UcdError, match="raw_weights"):
        training().restore(state)


def test_concepts_start_around_the_table_or_at_words(tiny_model):
    def start(**options):
        options = {"words": None, "spread": 1.0, "generator": seeded(0, "start")} | options
        return initial_embeddings(tiny_model, options.pop("count", 2), **options)

    table = tiny_model.token_table
    torch.testing.assert_close(start(spread=0.0), table.mean(0).expand(2, -1))
    spread = start(count=4000)
    torch.testing.assert_close(spread.std(0), table.std(0), rtol=0.1, atol=0)
    cat, dog = (tiny_model.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("cat", "dog"))
    torch.testing.assert_close(start(words=["cat", "dog"]), table[[cat, dog]])
    shared = start(words=["cat"])
    assert not torch.equal(shared[0], shared[1])
    for words in (["cat", "dog", "red"], ["elephant", "dog"]):
        with pytest.raises(UcdError, match=r"concepts\.initial"):
            start(words=words)


@pytest.mark.parametrize("constraint", ["none", "softmax"])
def test_a_concept_that_no_image_prefers_gets_half_of_the_largest(constraint):
    embeddings = torch.randn(3, 16, generator=seeded(0, "embeddings"))
    weights = torch.tensor([[3.0, 0.0, 1.0]] * 4 + [[0.0, 0.0, 2.0]] * 2)
    concepts = Concepts(embeddings.clone(), weights.clone(), constraint=constraint)
    before = concepts.weights().detach()
    assert concepts.revive(seeded(0, "revive")) == 1
    torch.testing.assert_close(concepts.embeddings[[0, 2]], embeddings[[0, 2]])
    away = (concepts.embeddings[1] - embeddings[0]).std() / embeddings[0].std()
    assert 0.1 < away < 0.6
    after = concepts.weights()
    torch.testing.assert_close(after[:4, 0], after[:4, 1])
    torch.testing.assert_close(after[4:], before[4:])
    torch.testing.assert_close(after.sum(1), before.sum(1))


def test_nothing_is_revived_while_every_concept_has_an_image():
    concepts = Concepts(torch.randn(2, 16), torch.eye(2))
    assert concepts.revive(seeded(0, "revive")) == 0
    assert torch.equal(concepts.raw_weights, torch.eye(2))
