"""A family unlike the shipped one: a flow-matching transformer on rearranged pixels, with two text encoders, a sampler
of its own, and sides that are multiples of 2."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from concepts_cli.errors import UcdError
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.interface import EVERYTHING, DiffusionModel, Selection
from concepts_cli.models.learned_tokens import LearnedTokens
from concepts_cli.models.noise import FlowNoise

WORDS = ["a", "photo", "of", "in", "the", "style", "cat", "dog", "red", "blue"]
LETTERS = [chr(code) for code in range(33, 127)]
CHANNELS, WIDTH, HEADS, TOKENS, LAYER = 12, 32, 4, 10, "block"


class Encoder(nn.Module):
    """Words of a vocabulary, in an order of its own, and one layer that mixes them."""

    def __init__(self, words: Sequence[str], width: int):
        super().__init__()
        self.vocabulary = {word: row for row, word in enumerate(["<end>", *words])}
        self.embed = LearnedTokens(nn.Embedding(len(self.vocabulary), width))
        self.place = nn.Parameter(torch.randn(TOKENS, width) / 4)
        self.mix = nn.TransformerEncoderLayer(width, 2, width, dropout=0.0, batch_first=True)

    def pieces(self, text: str) -> list[int]:
        words = text.split()
        known = (
            [self.vocabulary[word]] if word in self.vocabulary else map(self.vocabulary.get, word) for word in words
        )
        return [row for rows in known for row in rows]

    def ids(self, prompts: Sequence[str]) -> Tensor:  # (P, T)
        rows = [[*self.pieces(prompt), *[0] * TOKENS][:TOKENS] for prompt in prompts]
        return torch.tensor(rows)

    def learn(self, tokens: Sequence[str], embeddings: Tensor) -> None:
        start = self.embed.table.num_embeddings
        self.vocabulary |= {token: start + row for row, token in enumerate(tokens)}
        self.embed.learn([self.vocabulary[token] for token in tokens], embeddings)

    def forward(self, ids: Tensor) -> Tensor:  # (P, T) -> (P, T, D)
        return self.mix(self.embed(ids) + self.place)


class Transformer(nn.Module):
    """Places of the image and words attend to each other; time and pooled text shift them all."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.enter, self.leave = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CHANNELS)
        self.words = nn.ModuleList(nn.Linear(width, WIDTH) for width in widths)
        self.pooled, self.time = nn.Linear(widths[-1], WIDTH), nn.Linear(2, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, dropout=0.0, batch_first=True)
        self.saves_memory = False

    def tokens(self, latents: Tensor, share: Tensor, hidden: Sequence[Tensor], pooled: Tensor) -> Tensor:
        places = self.enter(latents.flatten(2).mT)  # (B, h * w, WIDTH)
        words = [layer(states) for layer, states in zip(self.words, hidden, strict=True)]
        clock = self.time(torch.stack([share.cos(), share.sin()], dim=-1))
        return torch.cat([places, *words], dim=1) + (clock + self.pooled(pooled))[:, None]

    def forward(self, latents: Tensor, share: Tensor, hidden: Sequence[Tensor], pooled: Tensor) -> Tensor:
        tokens = self.tokens(latents, share, hidden, pooled)
        mixed = checkpoint(self.block, tokens, use_reentrant=False) if self.saves_memory else self.block(tokens)
        return self.leave(mixed[:, : latents.shape[-2:].numel()]).mT.unflatten(2, latents.shape[-2:])


class Record:
    """The mean attention of the recorded calls, over the heads and both text encoders."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []  # (B, T, h, w) each

    def maps(self, size: tuple[int, int] | None = None) -> Tensor:
        if not self.calls:
            raise UcdError("no step has a time that is asked for")
        mean = torch.stack(self.calls).mean(dim=0)
        return F.interpolate(mean, size) if size else mean


class BlockAttention:
    """The attention of the one block, worked out once more beside it."""

    of_words = False

    def __init__(self, transformer: Transformer, end: float):
        self.transformer, self.end = transformer, end

    @contextmanager
    def record(
        self, *, rows: slice | Sequence[int] = slice(None), selection: Selection = EVERYTHING
    ) -> Iterator[Record]:
        record, attention = Record(), self.transformer.block.self_attn
        heads = [head for head in range(HEADS) if not selection.heads or head in selection.heads]

        @torch.no_grad()
        def watch(module, args, output):
            latents, share, hidden, pooled = args
            height, width = latents.shape[-2:]
            if not heads or not selection.takes(LAYER, (height, width), float(share[0]) * self.end):
                if not heads or selection.takes_step(float(share[0]) * self.end):
                    raise UcdError("no layer is left", f"it has {LAYER} ({max(height, width)}), of {HEADS} heads")
                return
            tokens = module.tokens(latents, share, hidden, pooled)[rows]
            _, weights = attention(tokens, tokens, tokens, average_attn_weights=False)  # (B, heads, S, S)
            words = weights[:, heads, : height * width, height * width :].unflatten(3, (len(hidden), TOKENS))
            record.calls.append(words.mean(dim=(1, 3)).mT.unflatten(2, (height, width)))

        hook = self.transformer.register_forward_hook(watch)
        try:
            yield record
        finally:
            hook.remove()


class EulerSampler:
    """Straight steps along the flow."""

    takes_eta, follows_process = False, True

    def __init__(self, noise: FlowNoise):
        self.noise = noise

    def times(self, num_steps: int, device: torch.device) -> Tensor:
        self._ladder = torch.linspace(self.noise.end, 0, num_steps + 1, device=device)
        return self._ladder[:-1]

    def ascent(self, num_steps: int, device: torch.device):
        ladder = torch.linspace(0, self.noise.end, num_steps + 1, device=device)
        return pairwise(ladder)

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def model_input(self, latents: Tensor, time: Tensor) -> Tensor:
        return latents

    def step(self, prediction: Tensor, time: Tensor, latents: Tensor, *, generators=None, eta: float = 0) -> Tensor:
        after = self._ladder[(self._ladder == time).nonzero()[0, 0] + 1]
        return latents + (after - time) / self.noise.end * prediction


class TinyFlow(DiffusionModel):
    is_causal, max_tokens = False, TOKENS
    resolution, size_multiple = 16, 2
    samplers = ("flow-euler",)

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype):
        self.name, self.device, self.dtype, self.noise = name, device, dtype, FlowNoise(end=1000.0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoders = {
                "text_encoder": Encoder([*WORDS, *LETTERS], 16),
                "text_encoder_2": Encoder([*reversed(WORDS), *LETTERS], 24),
            }
            self.transformer = Transformer((16, 24))
        for module in (*self.encoders.values(), self.transformer):
            module.to(device).requires_grad_(False).eval()
        self.attention = BlockAttention(self.transformer, self.noise.end)

    @classmethod
    def load(cls, source: str, *, name: str, revision: str | None, device, dtype) -> TinyFlow:
        return cls(name, device, dtype)

    @staticmethod
    def save(folder: Path) -> Path:
        folder.mkdir()
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "TinyFlowPipeline"}))
        return folder

    @property
    def tables(self) -> Mapping[str, Tensor]:
        return {name: encoder.embed.weight for name, encoder in self.encoders.items()}

    def set_concepts(self, tokens: Sequence[str], embeddings: Mapping[str, Tensor], where: str = "input") -> None:
        for name, encoder in self.encoders.items():
            encoder.learn(tokens, embeddings[name])

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        return Tokens({name: encoder.ids(prompts).to(self.device) for name, encoder in self.encoders.items()})

    def encode(self, tokens: Tokens) -> Conditioning:
        hidden = {name: encoder(tokens.tensors[name]) for name, encoder in self.encoders.items()}
        return Conditioning({**hidden, "pooled": hidden["text_encoder_2"].mean(dim=1)})

    def pieces(self, text: str) -> Mapping[str, list[int]]:
        return {name: encoder.pieces(text) for name, encoder in self.encoders.items()}

    def whole_words(self) -> Mapping[str, int]:
        return {word: self.encoders["text_encoder"].vocabulary[word] for word in WORDS}

    def positions(self, prompt: str, text: str) -> list[int]:
        words, place, found = self.encoders["text_encoder"], 0, []
        for word in prompt.split():
            after = place + len(words.pieces(word))
            found += range(place, after) if word in text.split() else ()
            place = after
        return [place for place in found if place < TOKENS]

    def is_truncated(self, prompt: str) -> bool:
        return any(len(pieces) > TOKENS for pieces in self.pieces(prompt).values())

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        return (CHANNELS, (height or self.resolution) // 2, (width or self.resolution) // 2)

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        latents = F.pixel_unshuffle(pixels.to(self.device), 2)
        return latents, torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        return (F.pixel_shuffle(latents, 2) / 2 + 0.5).clamp(0, 1)

    @property
    def fingerprint(self) -> str:
        return "rearranged pixels"

    def sampler(self, name: str | None = None, *, size: tuple[int, int] | None = None) -> EulerSampler:
        self.sampler_name(name)
        return EulerSampler(self.noise)

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = [conditioning.tensors[name] for name in self.encoders]
        share = (time / self.noise.end).expand(len(latents))
        return self.transformer(latents, share, hidden, conditioning.tensors["pooled"])

    def compile(self) -> None:
        self.transformer.compile()

    def checkpoint_gradients(self) -> None:
        self.transformer.saves_memory = True
