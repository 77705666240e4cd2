"""How strongly a ResNet sees each class in images, by its logits."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from concepts_cli.errors import UcdError, did_you_mean, first_line
from concepts_cli.mini import WEIGHTS
from concepts_cli.scorers.loading import BUILT_IN_CAVEAT, Transform, batches

if TYPE_CHECKING:
    from timm.data import ImageNetInfo

THRESHOLD = 10.0  # as published, a logit of torchvision's first ImageNet weights


class Classifier(Protocol):
    """The interface of timm's classifiers."""

    def forward_features(self, x: Tensor) -> Tensor: ...  # (B, 3, H, W) -> maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...  # maps -> (B, E), before the last layer

    def get_classifier(self) -> nn.Module: ...  # (B, E) -> (B, labels)


@dataclass(frozen=True)
class ResNetScorer:
    """A classifier with names for its outputs."""

    name: str
    threshold: float  # the logit that counts as "shows the class"
    model: Classifier
    transform: Transform
    find_labels: Callable[[Sequence[str]], list[int]]  # class names -> indices of the logits; raises UcdError
    device: torch.device
    caveat: str | None = None  # what readers of its scores should know

    smoothing = 1e-8  # of the class counts in KL, as published

    def check(self, names: Sequence[str]) -> None:
        """Raise UcdError for names that fit no class of the model, or several."""
        self.find_labels(names)

    @torch.no_grad()
    def features(self, paths: Sequence[Path]) -> np.ndarray:
        """What the last layer sees of N images: (N, E)."""
        outputs = []
        for pixels in batches(paths, self.transform):
            maps = self.model.forward_features(pixels.to(self.device))
            outputs.append(self.model.forward_head(maps, pre_logits=True))
        return torch.cat(outputs).float().cpu().numpy()

    @torch.no_grad()
    def score(self, features: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """Logits of N images, by their features (N, E), for these C classes only: (N, C)."""
        logits = self.model.get_classifier()(torch.from_numpy(features).to(self.device))
        return logits[:, self.find_labels(class_names)].float().cpu().numpy()


def load_resnet(name: str, device: torch.device) -> ResNetScorer:
    """An ImageNet-1k classifier by timm's name. Raises UcdError if it can't be loaded."""
    import timm

    known = timm.list_pretrained()
    if name not in known:
        hint = did_you_mean(name, known, otherwise="evaluate.resnet_model is a timm name")
        raise UcdError(f"timm has no pretrained model {name!r}", hint)
    config = timm.get_pretrained_cfg(name)
    if config.num_classes != 1000:
        raise UcdError(f"{name} has {config.num_classes} classes", "use one of ImageNet-1k, such as resnet50.tv_in1k")
    try:
        model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        hint = "it is downloaded on first use, from the Hugging Face hub"
        raise UcdError(f"{name} could not be loaded: {first_line(error)}", hint, exit_code=1) from error
    transform = _transform(config.input_size, config.mean, config.std)
    return ResNetScorer(name, THRESHOLD, model.to(device).eval(), transform, imagenet_labels, device)


def load_built_in_resnet(device: torch.device, weights: Path = WEIGHTS) -> ResNetScorer:
    """The reader of scenes that comes with the built-in model: a small ResNet that answers yes or no for each object,
    drawing style, background, filter and time of day of its world.

    Its threshold is the logit that something in 95% of held-out scenes reaches, and hardly any picture of nothing.
    """
    import timm
    from safetensors.torch import load_file

    folder = weights / "resnet"
    config = json.loads((folder / "config.json").read_text())
    names: list[str] = config["label_names"]
    model = timm.create_model(config["architecture"], **config["model_args"])
    model.load_state_dict(load_file(folder / "model.safetensors"))

    def find_labels(class_names: Sequence[str]) -> list[int]:
        if unknown := [name for name in class_names if name.lower() not in names]:
            raise UcdError(f"the built-in ResNet has no class {', '.join(unknown)}", f"its classes: {', '.join(names)}")
        return [names.index(name.lower()) for name in class_names]

    transform = _transform(config["input_size"], config["mean"], config["std"])
    return ResNetScorer(
        "built-in ResNet",
        config["threshold"],
        model.float().to(device).eval(),
        transform,
        find_labels,
        device,
        BUILT_IN_CAVEAT,
    )


def imagenet_labels(class_names: Sequence[str]) -> list[int]:
    """The ImageNet-1k labels of class names: any of a label's names ("polar bear"), words of one, or its WordNet id.

    A full name wins over words inside longer ones: "tiger" is the cat, not "tiger shark". Raises one UcdError for all
    names that are unknown or fit several labels.
    """
    names = _imagenet_names()
    indices, problems = [], []
    for class_name in class_names:
        fitting = sorted(names.get(class_name.casefold(), ()))
        if not fitting:
            inside = f" {class_name.casefold()} "
            fitting = sorted({index for name, indexed in names.items() if inside in f" {name} " for index in indexed})
        indices.append(fitting[0] if fitting else -1)
        if len(fitting) > 1:
            shown = ", ".join(_describe(index) for index in fitting[:4]) + (", ..." if len(fitting) > 4 else "")
            problems.append(f"{class_name!r} fits {len(fitting)} ({shown})")
        elif not fitting:
            hint = did_you_mean(class_name.casefold(), list(names), otherwise="")
            problems.append(f"{class_name!r} fits none" + (f" ({hint})" if hint else ""))
    if problems:
        hint = "give a label's full name or its WordNet id, such as 'African elephant' or n02504458"
        raise UcdError(f"class names among ImageNet's labels: {'; '.join(problems)}", hint)
    return indices


@cache
def _imagenet() -> ImageNetInfo:
    from timm.data import ImageNetInfo

    return ImageNetInfo()


@cache
def _imagenet_names() -> dict[str, frozenset[int]]:
    """Every name of a label, and its WordNet id, in lower case -> the labels that have it."""
    info = _imagenet()
    names: dict[str, set[int]] = defaultdict(set)
    for index in range(info.num_classes()):
        for name in (info.index_to_label_name(index), *info.index_to_description(index).split(", ")):
            names[name.casefold()].add(index)
    return {name: frozenset(labels) for name, labels in names.items()}


def _describe(index: int) -> str:
    info = _imagenet()
    return f"{info.index_to_description(index).split(', ')[0]} {info.index_to_label_name(index)}"


def _transform(input_size: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Crop the centre of an image at its own scale, as published; smaller images are enlarged to fill it."""
    _, height, width = input_size
    middle, spread = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)

    def transform(image: Image.Image) -> Tensor:
        if image.width < width or image.height < height:
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
        return (pixels - middle) / spread

    return transform
