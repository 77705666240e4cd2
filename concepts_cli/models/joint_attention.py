"""Where in the image a word of the prompt acts, in a transformer whose image and prompt attend to each other.

The output-space maps of ConceptAttention (Helbling et al., *ConceptAttention: Diffusion Transformers Learn Highly
Interpretable Features*, ICML 2025): the dot product of attention's output at each place with its output at each word,
before the output projection, with a softmax over words, in the later layers. Where some layers keep image and text
apart, these are the later half of those, as published. What differs:

- The paper's words are tokens beside the prompt, which read the image and are read by nothing. Here they are those of
  the prompt itself, which the image reads, and which read each other.
- The paper's softmax is over a list of concepts. Here it is over all tokens of the prompt but padding, chat template
  included, so that a prompt of one word has something to be compared with.
- The published code's softmax has a temperature of 1 (FLUX.1) or 1000 (FLUX.2). Here it is the root mean square of the
  scores, less their mean over the tokens, in each image and layer, so that neither width nor scale matters.
- The published maps of FLUX.2 are of the last 30 % of the steps. Here they are of all, unless the selection says which.

Shapes: B images, T tokens, S of them that the layers' text has up to the last real one, P = h * w places, D width,
(H, W) the latents' size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concepts_cli.errors import UcdError
from concepts_cli.models.interface import EVERYTHING, Selection, no_such_layers

Rows = slice | Sequence[int]


@dataclass(frozen=True)
class JointLayer:
    """The attention of a layer, by the projections that take its outputs."""

    image: nn.Module
    text: nn.Module  # the same one where image and text are one sequence
    heads: int
    width: int  # D, of all heads; the projection may take more after that


@dataclass(frozen=True)
class Call:
    """What a `predict` call looks at."""

    time: Tensor  # () or (B,)
    latents: tuple[int, int]  # (H, W)
    places: tuple[int, int]  # (h, w)
    mask: Tensor  # (B, T), true at real tokens
    image_from: int  # where the image starts in a layer of one sequence
    text_from: int


@dataclass
class JointRecorder:
    """The recorded maps: one running sum, whatever the number of layers and steps."""

    layers: Mapping[str, JointLayer]
    usual: Sequence[str]  # the layers that count if the selection names none
    reads_padding: bool
    rows: Rows
    selection: Selection
    call: Call | None = None  # the present one
    taken: dict[str, list[int]] = field(default_factory=dict)  # its layers that count, and their heads
    halves: dict[str, Tensor] = field(default_factory=dict)  # of the present layer: "image" and "text", (B, ..., D)
    total: Tensor = field(default_factory=lambda: torch.zeros(()))  # (B, S, P)
    count: int = 0  # of layers and calls in it

    def begin(self, call: Call) -> None:
        """Note what the next outputs are about. Raises UcdError for a selection that matches no layer."""
        self.call, time = call, float(call.time.flatten()[0])
        names = self.layers if self.selection.layers else self.usual
        heads = {name: self._heads(self.layers[name]) for name in names}
        self.taken = {name: heads[name] for name in names if self.selection.takes(name, call.places, time)}
        if not any(self.taken.values()) and self.selection.takes_step(time):
            have = [f"{name} ({max(call.places)})" for name in self.layers]
            raise no_such_layers(have, max(layer.heads for layer in self.layers.values()))
        self.mask = call.mask[self.rows].bool()  # (B, T)
        every = torch.arange(self.mask.shape[1], device=self.mask.device)
        self.columns = every.expand_as(self.mask) if self.reads_padding else self.mask.cumsum(dim=1) - 1  # among the S
        columns = int(self.columns[self.mask].max()) + 1
        self.columns = self.columns.clamp(0, columns - 1)
        tokens = self.mask.new_zeros(len(self.mask), columns, dtype=torch.long)
        self.real = tokens.scatter_add_(1, self.columns, self.mask.long())[..., None].bool()  # (B, S, 1)

    def _heads(self, layer: JointLayer) -> list[int]:
        return [head for head in range(layer.heads) if not self.selection.heads or head in self.selection.heads]

    @torch.no_grad()
    def see(self, name: str, part: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Take what a projection is about to take. `part` is "image" or "text", or "both" in one sequence."""
        if not self.taken.get(name) or self.call is None:
            return
        layer, call = self.layers[name], self.call
        outputs = args[0][self.rows, :, : layer.width].float().unflatten(2, (layer.heads, -1))
        outputs = outputs[:, :, self.taken[name]].flatten(2)
        if part == "both":
            end = call.image_from + call.places[0] * call.places[1]
            self.halves = {"image": outputs[:, call.image_from : end], "text": outputs[:, call.text_from :]}
        else:
            self.halves[part] = outputs
        if len(self.halves) == 2:
            self._add(**self.halves)
            self.halves = {}

    def _add(self, image: Tensor, text: Tensor) -> None:  # (B, P, D), (B, at least S, D)
        scores = text[:, : self.real.shape[1]] @ image.mT  # (B, S, P)
        tokens = self.real.sum(dim=1, keepdim=True)
        scores = scores - (scores * self.real).sum(dim=1, keepdim=True) / tokens
        mean_square = (scores * self.real).square().sum(dim=1, keepdim=True) / tokens
        scale = mean_square.mean(dim=2, keepdim=True).sqrt().clamp(min=torch.finfo(scores.dtype).tiny)
        self.total = self.total.to(scores) + (scores / scale).masked_fill(~self.real, -torch.inf).softmax(dim=1)
        self.count += 1

    def maps(self, size: tuple[int, int] | None = None) -> Tensor:
        """How much of every place is each token's, (B, T, H, W): the mean of all layers and calls, which sums to 1 over
        the tokens and is 0 at padding.

        It is enlarged bicubically to `size`, by default the latents', and clamped at 0 against overshoot. Raises
        RuntimeError if the network never ran, and UcdError if it ran at no selected timestep.
        """
        if self.call is None:
            raise RuntimeError("no attention was recorded: the model did not predict inside `record`")
        if not self.count:
            first, last = self.selection.timesteps or (0, 0)
            raise UcdError(f"no step has a timestep from {first:g} to {last:g}", "take more steps, or a wider range")
        mean = self.total / self.count
        maps = mean.gather(1, self.columns[..., None].expand(-1, -1, mean.shape[2])) * self.mask[..., None]
        maps, size = maps.unflatten(2, self.call.places), size or self.call.latents
        return maps if size == self.call.places else F.interpolate(maps, size, mode="bicubic").clamp_(min=0)


class JointAttention:
    """A transformer's joint attention, as the interface's `AttentionProbe`."""

    of_words = True

    def __init__(self, layers: Mapping[str, JointLayer], *, reads_padding: bool):
        """`layers` by name, first to last; `reads_padding`: whether padding is in the network's text, too."""
        self.layers, self.reads_padding = layers, reads_padding
        apart = [name for name, layer in layers.items() if layer.image is not layer.text] or list(layers)
        self.usual = apart[len(apart) // 2 :]
        self._recorder: JointRecorder | None = None

    def begin(self, call: Call) -> None:
        """For `predict`, to say what it looks at before it runs the network."""
        if self._recorder:
            self._recorder.begin(call)

    @contextmanager
    def record(self, *, rows: Rows = slice(None), selection: Selection = EVERYTHING) -> Iterator[JointRecorder]:
        """Record in this block; outputs stay bit-identical. Raises UcdError for the package daam's selection."""
        if selection.daam:
            raise UcdError("daam counts none of the model's layers", "use --map attention")
        recorder = JointRecorder(self.layers, self.usual, self.reads_padding, rows, selection)
        hooks = []
        for name, layer in self.layers.items():
            parts = {"both": layer.image} if layer.image is layer.text else {"image": layer.image, "text": layer.text}
            for part, module in parts.items():
                hooks.append(module.register_forward_pre_hook(partial(recorder.see, name, part)))
        self._recorder = recorder
        try:
            yield recorder
        finally:
            self._recorder = None
            for hook in hooks:
                hook.remove()
