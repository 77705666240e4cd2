"""What a computation would allocate, counted on torch's meta device: tensors have shapes there and no content."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Accounting(TorchDispatchMode):
    """Counts the bytes that live at once within a `with` block; `peak` is the most of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note((args, kwargs), counted=False)  # what was there before, such as weights, of which views are made
        output = function(*args, **(kwargs or {}))
        self._note(output, counted=True)
        return output

    def _note(self, tensors: Any, *, counted: bool) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor) or tensor.device.type != "meta":
                continue
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self._known:
                size = storage.nbytes() if counted else 0
                self._known.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def accounting() -> Iterator[Accounting]:
    """Count what the block would allocate, with attention that makes no matrix, which the meta device lacks.

    torch has modes for other functions, but the recomputations of a backward pass don't enter them.
    """
    with patch.object(F, "scaled_dot_product_attention", _attention), Accounting() as counted:
        yield counted


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # (B, heads, S, D) each
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return fused(query, key, value, dropout_p, is_causal, scale=scale)[0]


def bytes_of(modules: Iterable[nn.Module]) -> int:
    """The bytes of the weights and buffers of modules, each once."""
    tensors = {id(each): each for module in modules for each in (*module.parameters(), *module.buffers())}
    return sum(each.numel() * each.element_size() for each in tensors.values())
