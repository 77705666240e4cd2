"""What a step draws: every image in turn, timesteps as asked, and the same however it is dealt out."""

from __future__ import annotations

import pytest
import torch

from concepts_cli.core.draws import Draws, step_batches
from concepts_cli.models.noise import DiscreteNoise
from tests.held_latents import HeldLatents, MixedLatents


def draws(*, count=7, mean=None, std=1.0, **options) -> Draws:
    mean = torch.zeros(1, count, 4, 2, 2) if mean is None else mean
    options = {
        "seed": 0,
        "concepts": 3,
        "sentences": 5,
        "process": DiscreteNoise(torch.ones(1000), torch.ones(()), "epsilon"),
    } | options
    return Draws(HeldLatents(mean, torch.full_like(mean, std)), **options)


def test_every_epoch_shows_every_image_once_in_a_new_order():
    drawing = draws()
    epochs = [[drawing.row(7 * epoch + n) for n in range(7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_repeats_are_shuffled_together():
    drawing = draws(repeats=3)
    rows = [drawing.row(n) for n in range(21)]
    assert sorted(rows) == sorted(list(range(7)) * 3)
    assert sorted(rows[:7]) != list(range(7))


def test_a_draw_depends_on_seed_and_number_alone():
    first, again, other = draws(), draws(), draws(seed=1)
    whole, part = first.batch(range(4, 12)), again.batch([6, 7])
    assert torch.equal(whole.noise[2:4], part.noise) and torch.equal(whole.timesteps[2:4], part.timesteps)
    assert torch.equal(whole.sentences[2:4], part.sentences) and torch.equal(whole.choices[2:4], part.choices)
    assert not torch.equal(whole.noise, other.batch(range(4, 12)).noise)
    assert not torch.equal(whole.noise[0], whole.noise[1])


def test_mirrored_as_often_as_asked():
    mean = torch.stack([torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)])
    share = draws(mean=mean, std=0.0, flip_probability=0.25).batch(range(4000)).latents.mean()
    assert abs(share - 0.25) < 0.03


def test_latents_follow_their_deviation_and_noise_is_standard():
    batch = draws(std=3.0).batch(range(2000))
    assert abs(batch.latents.std() - 3) < 0.1 and abs(batch.noise.std() - 1) < 0.03
    assert abs((batch.latents * batch.noise).mean()) < 0.1


def test_sentences_and_choices_are_drawn_evenly_and_apart():
    batch = draws().batch(range(5000))
    assert batch.sentences.shape == (5000, 3)
    for column in batch.sentences.T:
        torch.testing.assert_close(column.bincount(minlength=5) / 5000, torch.full((5,), 0.2), atol=0.03, rtol=0)
    torch.testing.assert_close(
        (3 * batch.choices).long().bincount(minlength=3) / 5000, torch.full((3,), 1 / 3), atol=0.03, rtol=0
    )
    assert (batch.sentences[:, 0] == batch.sentences[:, 1]).float().mean() < 0.25


def test_all_words_of_an_image_may_share_a_sentence():
    apart, shared = draws().batch(range(50)), draws(shared_sentence=True).batch(range(50))
    assert (shared.sentences == shared.sentences[:, :1]).all() and len(shared.sentences.unique()) == 5
    assert torch.equal(shared.noise, apart.noise) and torch.equal(shared.choices, apart.choices)


@pytest.mark.parametrize(("which", "mean"), [("uniform", 500), ("high-noise", 667), ("low-noise", 333)])
def test_timesteps_lean_to_the_end_that_was_asked_for(which, mean):
    timesteps = draws(timesteps=which).batch(range(4000)).timesteps.float()
    assert abs(timesteps.mean() - mean) < 25 and timesteps.min() >= 0 and timesteps.max() <= 999


def sizes(steps: int, images: int | None, **dealt) -> list[list[int]]:
    """The batch sizes of the first steps, at the published 8 batches of 2."""
    return [[len(each) for each in step_batches(step, 2, 8, epoch_length=images, **dealt)] for step in range(steps)]


def test_steps_span_epochs_unless_an_epoch_ends_them():
    assert sizes(2, None) == [[2] * 8] * 2
    drawn = [number for step in range(3) for batch in step_batches(step, 2, 8) for number in batch]
    assert drawn == list(range(48))


@pytest.mark.parametrize(
    ("images", "steps"),
    [(25, [[2] * 8, [2] * 4 + [1]]), (7, [[2, 2, 2, 1]]), (16, [[2] * 8]), (1, [[1]]), (33, [[2] * 8, [2] * 8, [1]])],
)
def test_an_epoch_ends_a_step_as_published(images, steps):
    """25 images: 16, 9, 16, 9, ...; 7 images: 7 each time. Every epoch shows every image once."""
    assert sizes(2 * len(steps), images) == steps * 2
    drawing = draws(count=images)
    for epoch in range(3):
        of_epoch = range(epoch * len(steps), (epoch + 1) * len(steps))
        numbers = [
            number for step in of_epoch for batch in step_batches(step, 2, 8, epoch_length=images) for number in batch
        ]
        assert numbers == list(range(epoch * images, (epoch + 1) * images))
        assert sorted(map(drawing.row, numbers)) == list(range(images))


def test_processes_fill_an_epoch_with_its_first_images():
    """As accelerate deals out batches: 25 images on two processes are 7 batches each, the last 3 images shown again."""
    drawing = draws(count=25, epoch_multiple=4)
    dealt = [sizes(2, drawing.epoch_length, process=p, processes=2) for p in range(2)]
    assert drawing.epoch_length == 28 and dealt == [[[2] * 7] * 2] * 2
    rows = [drawing.row(number) for number in range(28)]
    assert sorted(rows[:25]) == list(range(25)) and rows[25:] == rows[:3]
    batch = drawing.batch([0, 25])
    assert not torch.equal(batch.noise[0], batch.noise[1])


def test_sentences_can_depend_on_the_image():
    drawing = draws(count=2, sentences=[range(5), range(5, 12)])
    batch = drawing.batch(range(4000))
    first, second = batch.sentences[batch.rows == 0], batch.sentences[batch.rows == 1]
    assert set(first.flatten().tolist()) == set(range(5)) and set(second.flatten().tolist()) == set(range(5, 12))


def test_images_of_several_sizes_are_dealt_into_batches_of_one_size():
    mixed = draws()
    step = [range(0, 4), range(4, 8), range(8, 10)]
    assert mixed.dealt(step) == [(range(0, 4), 4), (range(4, 8), 4), (range(8, 10), 2)]  # of one size: as they are
    held = MixedLatents(torch.zeros(1, 7, 4, 2, 2), torch.ones(1, 7, 4, 2, 2))
    mixed = Draws(held, seed=0, concepts=3, sentences=5, process=mixed.process)
    dealt = mixed.dealt(step)
    assert sorted(draw for numbers, _ in dealt for draw in numbers) == list(range(10))
    for numbers, meant in dealt:
        assert len(numbers) <= meant and len({held.shape(mixed.row(draw)) for draw in numbers}) == 1
        assert all((meant == 2) == (draw >= 8) for draw in numbers)
        assert len(mixed.batch(numbers)) == len(numbers)
    assert len(dealt) < 7  # regrouped over the step's batches, not split one by one
