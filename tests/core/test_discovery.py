"""The loop: learning rates, memory, rows of the weights, patience; and where concepts start."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from accelerate import Accelerator

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import Training
from concepts_cli.core.draws import seeded
from concepts_cli.core.objective import ComposedLoss
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.recipe import TrainSettings
from tests.held_latents import HeldLatents, MixedLatents

SETTINGS = TrainSettings(max_steps=4, batch_size=4, gradient_accumulation=1, learning_rate=0.01)


@pytest.fixture
def training(tiny_folder):
    def build(*, update="auto", shared=False, held=HeldLatents, **settings) -> Training:
        model = load_model(str(tiny_folder), device="cpu")
        start = torch.randn(2, model.text.table.shape[1], generator=seeded(0, "start"))
        concepts = Concepts({"text_encoder": start}, torch.ones(1 if shared else 7, 2))
        latents = torch.randn(2, 7, *model.latent_shape(), generator=seeded(0, "latents"))
        return Training(
            ComposedLoss(model, concepts, concept_tokens(2), ("{}",)),
            held(latents, torch.ones_like(latents)),
            dataclasses.replace(SETTINGS, **settings),
            flip_probability=0.5,
            update=update,
            accelerator=Accelerator(cpu=True),
        )

    return build


def trained(training) -> list[torch.Tensor]:
    list(training.steps())
    return [tensor.detach() for tensor in training.concepts.tensors().values()]


def test_learning_rates_scale_with_the_batch_and_differ_where_asked(training):
    scaled = training(scale_learning_rate=True, gradient_accumulation=2, weights_learning_rate=0.001)
    torch.testing.assert_close(scaled._rates_at(0), [0.01 * 8, 0.001 * 8])
    warm = training(scale_learning_rate=False, schedule="linear", warmup_steps=2)
    torch.testing.assert_close([warm._rates_at(step)[0] for step in range(4)], [0.0, 0.005, 0.01, 0.005])


def test_every_schedule_of_diffusers_is_taken(training):
    from typing import get_args

    from diffusers.optimization import SchedulerType

    from concepts_cli.recipe import Schedule

    assert set(get_args(Schedule)) == {kind.value for kind in SchedulerType}
    for kind in get_args(Schedule):
        rules = "1:2,0.5" if kind == "piecewise_constant" else None
        rates = [training(schedule=kind, schedule_rules=rules)._rates_at(step)[0] for step in range(4)]
        assert all(0 <= rate <= 0.04 for rate in rates), kind
    steps = training(schedule="piecewise_constant", schedule_rules="1:2,0.5", scale_learning_rate=False)
    assert [steps._rates_at(step)[0] for step in range(4)] == [0.01, 0.01, 0.005, 0.005]


@pytest.mark.parametrize("held", [HeldLatents, MixedLatents])
def test_batches_accumulation_and_parts_make_no_difference(training, held):
    """What a step is made of depends on how many images it has, not on how they are dealt out."""
    whole = trained(training(batch_size=4, held=held))
    for dealt in ({"batch_size": 2, "gradient_accumulation": 2}, {"batch_size": 1, "gradient_accumulation": 4}):
        torch.testing.assert_close(trained(training(**dealt, held=held)), whole, rtol=1e-3, atol=1e-5)


def test_a_batch_that_does_not_fit_is_taken_in_parts(training, monkeypatch):
    whole, cramped, hopeless = trained(training()), training(), training()
    sizes = []

    def memory_for(count, objective):
        def call(batch, raw):
            sizes.append(len(batch))
            if len(batch) > count:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return objective(batch, raw)

        call.concepts = objective.concepts
        return call

    cramped.objective = memory_for(1, cramped.objective)
    torch.testing.assert_close(trained(cramped), whole, rtol=1e-3, atol=1e-5)
    assert sizes[:3] == [4, 2, 1] and set(sizes[2:]) == {1}
    hopeless.objective = memory_for(0, hopeless.objective)
    with pytest.raises(UcdError, match="not even one image") as caught:
        list(hopeless.steps())
    assert "concept_checkpointing" in caught.value.hint


def test_memory_that_runs_out_later_halves_a_step_too(training):
    whole, later = trained(training()), training()
    objective, sizes = later.objective, []

    def call(batch, raw):
        sizes.append(len(batch))
        if len(sizes) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return objective(batch, raw)

    call.concepts = objective.concepts
    later.objective = call
    torch.testing.assert_close(trained(later), whole, rtol=1e-3, atol=1e-5)
    assert sizes == [4, 4, 4, 2, 2, 2, 2]


def test_an_error_that_is_not_of_memory_is_not_hidden(training):
    broken = training()

    def fail(batch, raw):
        raise RuntimeError("a bug")

    broken.objective = fail
    with pytest.raises(RuntimeError, match="a bug"):
        list(broken.steps())


def test_only_the_rows_that_a_step_sees_are_moved(training):
    seen = training(update="seen", batch_size=2, max_steps=1)
    rows = {seen.draws.row(0), seen.draws.row(1)}
    weights = trained(seen)[1]
    moved = (weights != 1).any(dim=1)
    assert set(moved.nonzero().flatten().tolist()) == rows
    assert (training(update="auto").sees_rows, training(update="all").sees_rows) == (False, False)


def test_moving_seen_rows_only_is_adamw_when_all_are_seen(training):
    """Seven images in a step of seven: every row has a gradient every time."""
    every = [trained(training(update=update, batch_size=7)) for update in ("all", "seen")]
    torch.testing.assert_close(*every, rtol=1e-4, atol=1e-6)


def test_all_images_may_share_one_row(training):
    shared = training(shared=True)
    weights = trained(shared)[1]
    assert weights.shape == (1, 2) and (weights != 1).all()


def test_patience_ends_a_training_whose_images_have_settled(training):
    settled = training(patience=2, max_steps=50, learning_rate=1e-6, weight_decay=0.0, batch_size=1)
    with torch.no_grad():
        settled.concepts.raw_weights.copy_(torch.tensor([[2.0, 1.0]] * 7))
    steps = list(settled.steps())
    assert [step.number for step in steps] == [1, 2] and [step.stopped for step in steps] == [False, True]
    assert settled.has_settled and list(settled.steps()) == []
    resumed = training(patience=2, max_steps=50)
    resumed.restore(settled.state())
    assert resumed.has_settled


def test_a_stop_is_taken_note_of_when_its_step_is_done(training):
    asked = training(max_steps=10)
    steps = list(asked.steps(stop=lambda: asked.step == 3))
    assert [(step.number, step.stopped) for step in steps] == [(1, False), (2, False), (3, True)]


def test_terms_of_the_loss_are_reported_when_there_are_several(training):
    plain = training(max_steps=1)
    assert next(plain.steps()).terms == {}
    both = training(max_steps=1)
    both.objective.regularizers = dataclasses.replace(both.objective.regularizers, token_norm=0.5)
    step = next(both.steps())
    assert set(step.terms) == {"mse", "token_norm"} and step.loss == pytest.approx(sum(step.terms.values()))


def test_a_checkpoint_of_another_collection_is_refused(training):
    state = training().state()
    state["concepts.raw_weights"] = torch.ones(8, 2)
    with pytest.raises(UcdError, match="raw_weights"):
        training().restore(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer.0.exp_avg", torch.ones(3)),
        ("optimizer.0.exp_avg", None),
        ("optimizer.1.step", torch.ones(2, 2)),
        ("optimizer.1.exp_avg_sq", None),
        ("step", torch.ones(2, dtype=torch.int64)),
        ("settled_since", torch.ones(2)),
        ("settled_since", None),
        ("concepts.embeddings", None),
    ],
)
def test_a_checkpoint_with_odd_tensors_is_refused_by_name(training, name, value):
    begun = training(max_steps=2)
    next(begun.steps())
    state = begun.state() | {"optimizer.x.y": torch.ones(1), "optimizer.99.step": torch.ones(1)}  # nobody's
    training().restore(state)
    state = {key: tensor for key, tensor in state.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(UcdError, match=name) as caught:
        training().restore(state)
    assert caught.value.hint


def test_concepts_start_around_the_table_or_at_words(tiny_model):
    def start(**options):
        options = {"words": None, "spread": 1.0, "generator": seeded(0, "start")} | options
        return initial_embeddings(tiny_model, options.pop("count", 2), **options)["text_encoder"]

    table = tiny_model.text.table
    torch.testing.assert_close(start(spread=0.0), table.mean(0).expand(2, -1))
    spread = start(count=4000)
    torch.testing.assert_close(spread.std(0), table.std(0), rtol=0.1, atol=0)
    cat, dog = (tiny_model.text.pieces(word)[0] for word in ("cat", "dog"))
    torch.testing.assert_close(start(words=["cat", "dog"]), table[[cat, dog]])
    torch.testing.assert_close(start(words=["cat", "dog"], unit_norm=True).norm(dim=1), torch.ones(2))
    shared = start(words=["cat"])
    assert not torch.equal(shared[0], shared[1])
    for words in (["cat", "dog", "red"], ["elephant", "dog"]):
        with pytest.raises(UcdError, match=r"concepts\.initial"):
            start(words=words)


@pytest.mark.parametrize("constraint", ["none", "softmax"])
def test_a_concept_that_no_image_prefers_gets_half_of_the_largest(constraint):
    embeddings = torch.randn(3, 16, generator=seeded(0, "embeddings"))
    weights = torch.tensor([[3.0, 0.0, 1.0]] * 4 + [[0.0, 0.0, 2.0]] * 2)
    concepts = Concepts({"text_encoder": embeddings.clone()}, weights.clone(), constraint=constraint)
    before = concepts.weights().detach()
    assert concepts.revive(seeded(0, "revive")) == 1
    torch.testing.assert_close(concepts.embeddings["text_encoder"][[0, 2]], embeddings[[0, 2]])
    away = (concepts.embeddings["text_encoder"][1] - embeddings[0]).std() / embeddings[0].std()
    assert 0.1 < away < 0.6
    after = concepts.weights()
    torch.testing.assert_close(after[:4, 0], after[:4, 1])
    torch.testing.assert_close(after[4:], before[4:])
    torch.testing.assert_close(after.sum(1), before.sum(1))


def test_nothing_is_revived_while_every_concept_has_an_image():
    concepts = Concepts({"text_encoder": torch.randn(2, 16)}, torch.eye(2))
    assert concepts.revive(seeded(0, "revive")) == 0
    assert torch.equal(concepts.raw_weights, torch.eye(2))


def test_normal_starts_are_standard_normal(tiny_folder):
    model = load_model(str(tiny_folder), device="cpu")
    options = {"words": None, "start": "normal", "generator": seeded(0, "start")}
    start = initial_embeddings(model, 1000, spread=1.0, **options)["text_encoder"]
    assert abs(start.mean()) < 0.02 and abs(start.std() - 1) < 0.02
    assert abs(initial_embeddings(model, 1000, spread=3.0, **options)["text_encoder"].std() - 3) < 0.06


def test_several_processes_fill_up_an_epoch_that_ends_a_step(training, monkeypatch):
    """7 images in batches of 4: each of two processes takes one, the second with the epoch's first image again."""
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    rows = []
    for process in range(2):
        monkeypatch.setattr(Accelerator, "process_index", process)
        ours = training(epoch_ends_step=True, gradient_accumulation=2)
        ((drawn, _),) = ours._draws_of(0, process)
        rows += [ours.draws.row(number) for number in drawn]
    assert sorted(rows[:7]) == list(range(7)) and rows[7] == rows[0]
