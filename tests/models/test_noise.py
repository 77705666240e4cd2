"""Noise processes against diffusers' schedulers, and batches that are indexed, joined and repeated."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from concepts_cli.errors import UcdError
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.noise import DiscreteNoise, FlowNoise
from concepts_cli.models.samplers import scheduled_noise

PROCESSES = [
    scheduled_noise(DDPMScheduler(prediction_type=prediction).config, torch.device("cpu"))
    for prediction in ("epsilon", "v_prediction")
]
CLEAN, NOISE = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_is_diffusers_arithmetic_to_the_bit():
    scheduler, times = DDPMScheduler(), torch.tensor([0, 500, 999])
    for process in PROCESSES:
        noisy, target = process.example(CLEAN, NOISE, times)
        assert torch.equal(noisy, scheduler.add_noise(CLEAN, NOISE, times))
        velocity = process.prediction == "v_prediction"
        assert torch.equal(target, scheduler.get_velocity(CLEAN, NOISE, times) if velocity else NOISE)


@pytest.mark.parametrize("process", [*PROCESSES, FlowNoise(), FlowNoise(end=1000)], ids=lambda p: p.prediction)
def test_split_undoes_an_example(process):
    times = process.time(torch.tensor([0.1, 0.5, 0.9]))
    noisy, target = process.example(CLEAN, NOISE, times)
    torch.testing.assert_close(process.split(target, noisy, times), (CLEAN, NOISE), rtol=1e-4, atol=1e-4)
    one = process.add(CLEAN, NOISE, times[1])
    torch.testing.assert_close(one[1], noisy[1])


def test_times_run_from_clean_to_noise():
    u = torch.tensor([0.0, 0.5, 0.9999, 1.0], dtype=torch.float64)
    assert PROCESSES[0].time(u).tolist() == [0, 500, 999, 999]
    assert FlowNoise(end=10).time(u[:2]).tolist() == [0.0, 5.0]
    for process in (*PROCESSES, FlowNoise()):
        signal, spread = process.levels(process.time(u))
        assert (signal.diff() <= 0).all() and (spread.diff() >= 0).all()


def test_processes_are_told_apart():
    assert PROCESSES[0].same_schedule(PROCESSES[1]) and FlowNoise().same_schedule(FlowNoise())
    other = DiscreteNoise(torch.linspace(0.9, 0.1, 1000), torch.ones(()), "epsilon")
    for process in (other, FlowNoise()):
        assert not PROCESSES[0].same_schedule(process) and not process.same_schedule(PROCESSES[0])
    with pytest.raises(UcdError, match="'sample'"):
        DiscreteNoise(torch.ones(10), torch.ones(()), "sample")


def test_eq_11_of_velocities_is_eq_11_of_noises():
    """With the same weights, e = x + (1 - s) v, so that the loss in v is that in e divided by (1 - s)^2."""
    process, generator = FlowNoise(), torch.Generator().manual_seed(1)
    share, weights = torch.tensor(0.7), torch.tensor([2.0, -0.5, 0.3])
    noisy, target = process.example(CLEAN, NOISE, share)
    uncond, *conditional = torch.randn(4, *CLEAN.shape, generator=generator)

    def composed(uncond, conditional):
        return uncond + sum(w * (each - uncond) for w, each in zip(weights, conditional, strict=True))

    velocity = composed(uncond, conditional)
    noise = composed(*(noisy + (1 - share) * uncond, [noisy + (1 - share) * each for each in conditional]))
    torch.testing.assert_close(process.split(velocity, noisy, share)[1], noise)
    in_velocities, in_noises = ((velocity - target) ** 2).mean(), ((noise - NOISE) ** 2).mean()
    torch.testing.assert_close(in_velocities, in_noises / (1 - share) ** 2)


def test_batches_are_indexed_joined_repeated_and_told_apart():
    batch = Conditioning({"hidden": torch.tensor([[1, 2], [3, 4], [1, 2]]), "pooled": torch.tensor([[5], [6], [5]])})
    assert len(batch) == 3 and batch[[2, 0]].tensors["pooled"].tolist() == [[5], [5]]
    joined = Conditioning.join([batch[1:2], batch])
    assert joined.tensors["hidden"].tolist() == [[3, 4], [1, 2], [3, 4], [1, 2]]
    assert batch[:2].repeat(2).tensors["pooled"].tolist() == [[5], [6], [5], [6]]
    one = batch[:1].repeat(100)
    assert len(one) == 100 and one.tensors["hidden"].stride(0) == 0, "a single row is not copied"
    different, where = batch.distinct()
    assert len(different) == 2 and where.tolist() == [0, 1, 0]
    assert torch.equal(different[where].tensors["hidden"], batch.tensors["hidden"])
