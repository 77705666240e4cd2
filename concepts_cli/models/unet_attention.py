"""Where in the image a word of the prompt acts: cross-attention maps, recorded while a network runs.

The method is DAAM's (Tang et al., *What the DAAM: Interpreting Stable Diffusion Using Cross Attention*, ACL 2023): the
attention that each place pays to each token, resized to the latents' size and summed over heads, layers and time steps.

Shapes: B images, T tokens, (H, W) the latents' size, (h, w) a layer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from concepts_cli.errors import UcdError
from concepts_cli.models.interface import EVERYTHING, Selection, no_such_layers

Rows = slice | Sequence[int]


@dataclass
class AttentionRecorder:
    """The recorded attention: one running sum per layer, whatever the number of steps."""

    rows: Rows  # of the UNet's batch: the conditional half under guidance
    selection: Selection = EVERYTHING
    size: tuple[int, int] = (0, 0)  # of the latents, as the UNet last saw them
    timestep: float = 0.0  # of the UNet's last call
    sums: dict[str, Tensor] = field(default_factory=dict)  # layer -> (B, heads, T, h, w)
    steps: dict[str, int] = field(default_factory=dict)
    layers: dict[str, tuple[tuple[int, int], int]] = field(default_factory=dict)  # all that ran -> (h, w), heads

    def takes(self, layer: str, places: int, heads: int) -> bool:
        """Whether the selection includes this layer of the current UNet call."""
        size = layer_size(self.size, places)
        self.layers[layer] = size, heads
        if not self.counts(layer):
            return False
        some = not self.selection.heads or any(head < heads for head in self.selection.heads)
        return some and self.selection.takes(layer, size, self.timestep)

    def counts(self, layer: str) -> bool:
        """Whether this kind of map includes a layer: the package daam (0.2.0) records neither the middle block nor maps
        at an eighth of the latents' size.
        """
        eighth = tuple((side + 7) // 8 for side in self.size)
        return not self.selection.daam or not ("mid_block" in layer or self.layers[layer][0] == eighth)

    def add(self, layer: str, probabilities: Tensor) -> None:  # (B, heads, h * w, T)
        if self.selection.heads:
            chosen = [head for head in self.selection.heads if head < probabilities.shape[1]]
            probabilities = probabilities[:, chosen]
        maps = probabilities.float().transpose(2, 3).unflatten(3, self.layers[layer][0])
        if layer in self.sums:
            self.sums[layer] += maps
        else:
            self.sums[layer] = maps.clone()
        self.steps[layer] = self.steps.get(layer, 0) + 1

    def maps(self, size: tuple[int, int] | None = None) -> Tensor:
        """The mean attention of every place to every token, (B, T, H, W) in about [0, 1].

        Each head's mean over the steps is enlarged bicubically to `size`, by default the latents', and clamped at 0
        against overshoot; then all heads of all layers count equally. Raises RuntimeError if the UNet never ran, and
        UcdError if it ran at no selected timestep.
        """
        if not self.layers:
            raise RuntimeError("no attention was recorded: the UNet did not run inside `record_attention`")
        if not self.sums:
            first, last = self.selection.timesteps or (0, 0)
            raise UcdError(f"no step has a timestep from {first:g} to {last:g}", "take more steps, or a wider range")
        total, heads = torch.zeros(()), 0
        for layer, maps in self.sums.items():
            mean = (maps / self.steps[layer]).flatten(0, 1)  # (B * heads, T, h, w)
            enlarged = F.interpolate(mean, size or self.size, mode="bicubic").clamp_(min=0)
            total = total.to(enlarged) + enlarged.unflatten(0, maps.shape[:2]).sum(dim=1)
            heads += maps.shape[1]
        return total / heads

    def before_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        self.size = tuple(sample.shape[-2:])
        self.timestep = float(torch.as_tensor(timestep).flatten()[0])

    def after_call(self) -> None:
        """Raise UcdError after the first call, not after a whole picture, if the selection matches no layer."""
        if self.sums or not self.layers or not self.selection.takes_step(self.timestep):
            return
        counted = {name: layer for name, layer in self.layers.items() if self.counts(name)}
        if not counted:
            raise UcdError("daam counts none of the model's layers", "use --map attention")
        have = dict.fromkeys(
            f"{name.split('.transformer')[0]} ({max(places)})" for name, (places, _) in counted.items()
        )
        heads = max(heads for _, heads in counted.values())
        others = "" if len(counted) == len(self.layers) else "; daam leaves out the others"
        raise no_such_layers(list(have), heads, others)


class UNetAttention:
    """A UNet's cross-attention, as the interface's `AttentionProbe`."""

    of_words = False

    def __init__(self, unet: nn.Module):
        self.unet = unet

    def record(
        self, *, rows: Rows = slice(None), selection: Selection = EVERYTHING
    ) -> AbstractContextManager[AttentionRecorder]:
        return record_attention(self.unet, rows=rows, selection=selection)


@contextmanager
def record_attention(
    unet: nn.Module, *, rows: Rows = slice(None), selection: Selection = EVERYTHING
) -> Iterator[AttentionRecorder]:
    """Record the cross-attention of `unet` in this block; its outputs stay bit-identical.

        with record_attention(unet, rows=slice(batch, None)) as recorder:   # guidance: the second half has the prompts
            ...                                                             # any number of steps
        maps = recorder.maps()

    `rows` chooses the B entries of the UNet's batch to record, `selection` among layers, heads and timesteps. The
    layers' own processors are restored when the block ends, even after an exception.
    """
    layers = {name: module for name, module in unet.named_modules() if _is_cross_attention(name, module)}
    originals = {name: layer.processor for name, layer in layers.items()}
    recorder = AttentionRecorder(rows, selection)
    hooks = [
        unet.register_forward_pre_hook(lambda _, args, kwargs: recorder.before_call(args, kwargs), with_kwargs=True),
        unet.register_forward_hook(lambda *_: recorder.after_call()),
    ]
    try:
        for name, layer in layers.items():
            layer.set_processor(_RecordingProcessor(originals[name], name, recorder))
        yield recorder
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.set_processor(originals[name])


class _RecordingProcessor:
    """Leaves the output to the layer's own processor, and computes the probabilities beside it."""

    def __init__(self, original: Any, layer: str, recorder: AttentionRecorder):
        self.original, self.layer, self.recorder = original, layer, recorder

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        places = hidden_states[0, 0].numel() if hidden_states.ndim == 4 else hidden_states.shape[1]
        if encoder_hidden_states is not None and self.recorder.takes(self.layer, places, attn.heads):
            with torch.no_grad():
                probabilities = self._probabilities(attn, hidden_states, encoder_hidden_states, attention_mask)
                self.recorder.add(self.layer, probabilities)
        return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)

    def _probabilities(self, attn: Attention, hidden: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax(Q K^T / sqrt(d)) of the recorded rows, (B, heads, h * w, T); of a joint layer, the text's part."""
        rows = self.recorder.rows
        hidden, text = hidden[rows], text[rows]
        if attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        if mask is not None:
            mask = attn.prepare_attention_mask(mask[rows], text.shape[1], len(text))
        if _is_joint(attn):  # the places' (B, C, h, w) keys come after the text's
            hidden = attn.group_norm(hidden.flatten(2)).transpose(1, 2)
            key = attn.add_k_proj(text)
            key = key if attn.only_cross_attention else torch.cat([key, attn.to_k(hidden)], dim=1)
        else:
            key = attn.to_k(text)
        query, key = attn.head_to_batch_dim(attn.to_q(hidden)), attn.head_to_batch_dim(key)
        scores = attn.get_attention_scores(query, key, mask)[..., : text.shape[1]]
        return scores.unflatten(0, (len(text), attn.heads))


def layer_size(latents: tuple[int, int], places: int) -> tuple[int, int]:
    """(h, w) of the layer with this many places: each level halves the latents, rounding up."""
    height, width = latents
    while height * width > places:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != places:
        raise ValueError(f"{places} places are not a halving of {latents[0]} x {latents[1]} latents")
    return height, width


def _is_cross_attention(name: str, module: nn.Module) -> bool:
    return isinstance(module, Attention) and (name.endswith("attn2") or _is_joint(module))


def _is_joint(attn: Attention) -> bool:
    """Whether places attend to the text and to each other in one layer, as in DeepFloyd IF."""
    return attn.added_kv_proj_dim is not None
