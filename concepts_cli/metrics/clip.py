"""How well images fit the caption of each class, by an open_clip model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concepts_cli.errors import UcdError, closest
from concepts_cli.metrics.loading import batches, first_line
from concepts_cli.mini import WEIGHTS

CAPTION = "a photo of {}"  # as published
THRESHOLD = 0.3  # as published, for OpenAI's ViT-B/32
CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class ClipScorer:
    """An open_clip model that scores images against class names."""

    name: str
    threshold: float  # the similarity that counts as "shows the class"
    model: nn.Module
    transform: Callable  # PIL image -> (3, H, W)
    tokenize: Callable[[list[str]], Tensor]  # captions -> (C, T)
    device: torch.device

    smoothing = 0.0  # of the class counts in KL, as published

    @torch.no_grad()
    def score(self, paths: Sequence[Path], class_names: Sequence[str]) -> np.ndarray:
        """Cosine similarities of N images with the captions of C classes, (N, C) in [-1, 1]."""
        captions = self.tokenize([CAPTION.format(name) for name in class_names]).to(self.device)
        text = F.normalize(self.model.encode_text(captions).float(), dim=-1)  # (C, E)
        scores = []
        for pixels in batches(paths, self.transform):
            image = F.normalize(self.model.encode_image(pixels.to(self.device)).float(), dim=-1)  # (B, E)
            scores.append((image @ text.T).cpu().numpy())
        return np.concatenate(scores)


def load_clip(name: str, pretrained: str, device: torch.device) -> ClipScorer:
    """An open_clip model by architecture and weights ("ViT-B-32", "openai"), or from a folder in open_clip's layout.

    Raises UcdError when it can't be had.
    """
    import open_clip

    if Path(name).is_dir():
        model, transform = _load_folder(Path(name), device)
        tokenize = open_clip.get_tokenizer(f"local-dir:{name}")
        return ClipScorer(f"CLIP {name}", THRESHOLD, model, transform, tokenize, device)
    if name not in open_clip.list_models():
        near = closest(name, open_clip.list_models())
        meant = f"did you mean {near}?" if near else "evaluate.clip_model is a name of open_clip's, or a folder"
        raise UcdError(f"open_clip has no model {name!r}", meant)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise UcdError(f"open_clip has no weights {pretrained!r} of {name}", f"known: {', '.join(tags)}; or a file")
    # OpenAI's weights want another activation than the architecture's default, and open_clip only warns of it.
    quick_gelu = (open_clip.get_pretrained_cfg(name, pretrained) or {}).get("quick_gelu", False)
    label = f"CLIP {name} ({pretrained})"
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device, force_quick_gelu=quick_gelu
        )
    except (OSError, RuntimeError) as error:
        hint = "it is downloaded on first use; evaluate.clip_pretrained may name a local file"
        raise UcdError(f"{label} could not be loaded: {first_line(error)}", hint, exit_code=1) from error
    return ClipScorer(label, THRESHOLD, model.eval(), transform, open_clip.get_tokenizer(name), device)


def load_built_in_clip(class_names: Sequence[str], device: torch.device, weights: Path = WEIGHTS) -> ClipScorer:
    """The small CLIP that comes with the built-in model; it knows the words of the built-in corpus and no others.

    Its threshold is the similarity that 95% of held-out scenes reach with their own class. Raises UcdError for a class
    name with a word that it never saw.
    """
    from transformers import CLIPTokenizer

    from concepts_cli.mini.corpus import CLASSES, words

    known = set(words())
    if strange := [name for name in class_names if not known.issuperset(name.lower().replace("-", " - ").split())]:
        raise UcdError(f"the built-in CLIP never saw {', '.join(strange)}", f"its classes: {', '.join(CLASSES)}")
    model, transform = _load_folder(weights / "clip", device)
    threshold = json.loads((weights / "clip" / CONFIG).read_text())["threshold"]
    tokenizer = CLIPTokenizer.from_pretrained(weights / "tokenizer")

    def tokenize(captions: list[str]) -> Tensor:
        length = model.context_length
        return tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    return ClipScorer("built-in CLIP", threshold, model, transform, tokenize, device)


def _load_folder(folder: Path, device: torch.device) -> tuple[nn.Module, Callable]:
    """A model in open_clip's layout and its transform. Raises UcdError for what is missing or does not fit."""
    import open_clip

    if missing := [name for name in (CONFIG, "open_clip_model.safetensors") if not (folder / name).is_file()]:
        raise UcdError(f"{folder} is no CLIP of open_clip's: it has no {' and no '.join(missing)}")
    try:
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", device=device)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise UcdError(f"the CLIP in {folder} could not be loaded: {first_line(error)}") from error
    return model.eval(), transform
