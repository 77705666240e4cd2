"""No operation of a step asks the device for a value or a size, which would wait for it.

Held to on the CPU, by following what would be on the device: the model, what is learned, what is copied there, and all
that comes of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from concepts_cli.models.device import to_device
from tests.gpu.models import build_training

# Their result, or its shape, depends on values.
WAITING = {
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "_unique2", "unique_dim", "unique_consecutive",
    "masked_select", "bincount", "_coalesce", "_coalesced_", "repeat_interleave.Tensor",
}  # fmt: skip


class Device(TorchDispatchMode):
    """Follows tensors of a device that isn't there, and refuses operations that would wait for it."""

    def __init__(self):
        super().__init__()
        self.storages: dict[int, Tensor] = {}  # keeps them, so that no address is used again

    def take(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            if tensor.layout is torch.strided:
                self.storages[tensor.untyped_storage().data_ptr()] = tensor

    def has(self, value: object) -> bool:
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return isinstance(value, Tensor)  # only the device has sparse ones
        return value.untyped_storage().data_ptr() in self.storages

    def copy(self, tensor: Tensor, device: torch.device) -> Tensor:
        copied = to_device(tensor, device).clone()
        self.take(copied)
        return copied

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        concerned = any(map(self.has, tree_leaves((args, kwargs or {}))))
        names = {func.overloadpacket.__name__, f"{func.overloadpacket.__name__}.{func._overloadname}"}
        if concerned and names & WAITING:
            raise AssertionError(f"{func} waits for the device")
        result = func(*args, **kwargs or {})
        if concerned:
            self.take(*(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)))
        return result


@contextmanager
def on_a_device(training, monkeypatch) -> Iterator[None]:
    """In this block the training's tensors are on a device that must not be waited for."""
    device, model = Device(), training.objective.model
    for module in (model.unet, *(text.encoder for text in model.texts.values()), training.concepts):
        device.take(*module.parameters(), *module.buffers())
    device.take(model.noise._signal, model.noise._spread, training.objective.uncond.tensors["hidden_states"])
    device.take(*training.objective.prompts.tensors.values())
    for place in ("core.discovery", "core.objective"):
        monkeypatch.setattr(f"concepts_cli.{place}.to_device", device.copy)
    listed = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: pytest.fail("waits") if device.has(tensor) else listed(tensor))
    with device:
        yield


@pytest.mark.parametrize(
    "options",
    [{}, {"update": "seen"}, {"checkpointed": True}, {"weights_learning_rate": 0.1, "batch_size": 1}],
    ids=str,
)
def test_a_step_does_not_wait(tiny_folder, monkeypatch, options):
    training, same = (build_training(tiny_folder, "cpu", **options) for _ in range(2))
    rates = training._rates_at(0)
    expected = same._update(rates)
    with on_a_device(training, monkeypatch):
        outcome = training._update(rates)
    assert torch.equal(outcome, expected)  # and copies are all that the following changed


@pytest.mark.parametrize("read", [lambda t: t.item(), lambda t: t.tolist(), lambda t: t.unique(), bool], ids=range(4))
def test_waiting_is_noticed(tiny_folder, monkeypatch, read):
    training = build_training(tiny_folder, "cpu")
    with on_a_device(training, monkeypatch), pytest.raises((AssertionError, pytest.fail.Exception), match="waits"):
        read((training.concepts.raw_weights.detach() * 2).sum())
