"""How well images fit the caption of each class, by an open_clip model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from concepts_cli.errors import UcdError, did_you_mean, first_line
from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.captions import CLASSES, words
from concepts_cli.paths import public_path
from concepts_cli.recipe import BUILT_IN, Recipe
from concepts_cli.scorers.loading import BATCH_SIZE, BUILT_IN_CAVEAT, Transform, batches

CAPTION = "a photo of {}"  # as published
THRESHOLD = 0.3  # as published, for OpenAI's ViT-B/32
CONFIG = "open_clip_config.json"


class ClipModel(Protocol):
    """The interface of open_clip's models."""

    context_length: int  # tokens of a caption

    def encode_image(self, image: Tensor) -> Tensor: ...  # (B, 3, H, W) -> (B, E)

    def encode_text(self, text: Tensor) -> Tensor: ...  # (C, T) -> (C, E)


@dataclass(frozen=True)
class ClipScorer:
    """An open_clip model that scores images against class names."""

    name: str
    threshold: float  # the similarity that counts as "shows the class"
    model: ClipModel
    transform: Transform
    tokenize: Callable[[list[str]], Tensor]  # captions -> (C, T)
    device: torch.device
    vocabulary: frozenset[str] | None = None  # the words it knows, if they are few
    caveat: str | None = None  # what readers of its scores should know

    smoothing = 0.0  # of the class counts in KL, as published

    def check(self, names: Sequence[str]) -> None:
        """Raise UcdError for names with a word that the model never saw."""
        if self.vocabulary is None:
            return
        if unknown := [name for name in names if not self.vocabulary.issuperset(_words(name))]:
            raise UcdError(f"the {self.name} never saw {', '.join(unknown)}", f"its classes: {', '.join(CLASSES)}")

    @torch.no_grad()
    def features(self, paths: Sequence[Path]) -> np.ndarray:
        """The unit-length embeddings of N images: (N, E)."""
        embeddings = [self.model.encode_image(pixels.to(self.device)) for pixels in batches(paths, self.transform)]
        return F.normalize(torch.cat(embeddings).float(), dim=-1).cpu().numpy()

    @torch.no_grad()
    def score(self, features: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """Cosine similarities of N images, by their features (N, E), with the captions of C classes: (N, C)."""
        text = []
        for start in range(0, len(class_names), BATCH_SIZE):
            captions = [CAPTION.format(name) for name in class_names[start : start + BATCH_SIZE]]
            text.append(self.model.encode_text(self.tokenize(captions).to(self.device)))
        return features @ F.normalize(torch.cat(text).float(), dim=-1).cpu().numpy().T


def choose_clip(recipe: Recipe, device: torch.device) -> ClipScorer:
    """The built-in CLIP for the built-in model; for others the one that the recipe names."""
    if recipe.model == BUILT_IN:
        return load_built_in_clip(device)
    return load_clip(recipe.evaluate.clip_model, recipe.evaluate.clip_pretrained, device)


def load_clip(name: str, pretrained: str, device: torch.device) -> ClipScorer:
    """An open_clip model by architecture and weights ("ViT-B-32", "openai"), or from a folder in open_clip's layout.

    Raises UcdError if it can't be loaded.
    """
    import open_clip

    if Path(name).is_dir():
        model, transform = _load_folder(Path(name), device)
        tokenize = open_clip.get_tokenizer(f"local-dir:{name}")
        return ClipScorer(f"CLIP {public_path(name)}", THRESHOLD, model, transform, tokenize, device)
    if name not in open_clip.list_models():
        otherwise = "evaluate.clip_model is an open_clip name, or a folder"
        hint = did_you_mean(name, open_clip.list_models(), otherwise=otherwise)
        raise UcdError(f"open_clip has no model {name!r}", hint)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise UcdError(f"open_clip has no weights {pretrained!r} for {name}", f"known: {', '.join(tags)}; or a file")
    # OpenAI's weights need another activation than the architecture's default, and open_clip only warns about it.
    quick_gelu = (open_clip.get_pretrained_cfg(name, pretrained) or {}).get("quick_gelu", False)
    label = f"CLIP {name} ({public_path(pretrained)})"
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device, force_quick_gelu=quick_gelu
        )
    except (OSError, RuntimeError) as error:
        hint = "it is downloaded on first use; evaluate.clip_pretrained may name a local file"
        raise UcdError(f"{label} could not be loaded: {first_line(error)}", hint, exit_code=1) from error
    return ClipScorer(label, THRESHOLD, model.eval(), transform, open_clip.get_tokenizer(name), device)


def load_built_in_clip(device: torch.device, weights: Path = WEIGHTS) -> ClipScorer:
    """The small CLIP that comes with the built-in model; it knows only the words of the built-in corpus.

    Its threshold is the similarity that something in 95% of held-out scenes reaches, and hardly any picture of nothing.
    """
    from transformers import CLIPTokenizer

    model, transform = _load_folder(weights / "clip", device)
    threshold = json.loads((weights / "clip" / CONFIG).read_text())["threshold"]
    tokenizer = CLIPTokenizer.from_pretrained(weights / "tokenizer")  # nosec B615

    def tokenize(captions: list[str]) -> Tensor:
        length = model.context_length
        return tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    return ClipScorer(
        "built-in CLIP", threshold, model, transform, tokenize, device, frozenset(words()), BUILT_IN_CAVEAT
    )


def _words(name: str) -> list[str]:
    """The words of a class name, as the built-in tokenizer cuts it."""
    return name.lower().replace("-", " - ").split()


def _load_folder(folder: Path, device: torch.device) -> tuple[ClipModel, Transform]:
    """A model in open_clip's layout and its transform. Raises UcdError if files are missing or don't fit."""
    import open_clip

    if missing := [name for name in (CONFIG, "open_clip_model.safetensors") if not (folder / name).is_file()]:
        raise UcdError(f"{folder} is not an open_clip model: it has no {' and no '.join(missing)}")
    try:
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", device=device)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise UcdError(f"the CLIP in {folder} could not be loaded: {first_line(error)}") from error
    return model.eval(), transform
