"""A family unlike the shipped one: a flow-matching transformer on rearranged pixels, with two text encoders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concepts_cli.errors import UcdError
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.models.learned_tokens import LearnedTokens
from concepts_cli.models.noise import FlowNoise

WORDS = ["a", "photo", "of", "in", "the", "style", "cat", "dog", "red", "blue"]
LETTERS = [chr(code) for code in range(33, 127)]
CHANNELS, WIDTH, TOKENS = 12, 32, 10


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
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, WIDTH, dropout=0.0, batch_first=True)

    def forward(self, latents: Tensor, share: Tensor, hidden: Sequence[Tensor], pooled: Tensor) -> Tensor:
        places = self.enter(latents.flatten(2).mT)  # (B, h * w, WIDTH)
        words = [layer(states) for layer, states in zip(self.words, hidden, strict=True)]
        clock = self.time(torch.stack([share.cos(), share.sin()], dim=-1))
        tokens = torch.cat([places, *words], dim=1) + (clock + self.pooled(pooled))[:, None]
        return self.leave(self.block(tokens)[:, : places.shape[1]]).mT.unflatten(2, latents.shape[-2:])


class EulerSampler:
    """Straight steps along the flow; `ddim` is the same thing here."""

    name, takes_eta, follows_process = "euler", False, True

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
    samplers = ("euler", "ddim")

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

    def set_concepts(self, tokens: Sequence[str], embeddings: Mapping[str, Tensor]) -> None:
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
        return [place for place, word in enumerate(prompt.split()) if word in text.split()]

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

    def sampler(self, name: str | None = None) -> EulerSampler:
        if name and name not in self.samplers:
            raise UcdError(f"no scheduler {name!r}", f"known: {', '.join(self.samplers)}")
        return EulerSampler(self.noise)

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = [conditioning.tensors[name] for name in self.encoders]
        share = (time / self.noise.end).expand(len(latents))
        return self.transformer(latents, share, hidden, conditioning.tensors["pooled"])

    def compile(self) -> None:
        self.transformer.compile()

    def checkpoint_gradients(self) -> None:
        """Its activations fit into any memory: there is nothing to recompute."""
