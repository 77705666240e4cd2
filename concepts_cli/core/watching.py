"""Watch a picture appear: what the model expects it to become, from the first denoising step on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from concepts_cli.core.sampling import Request, TaughtModel, checked_models, composed_scores, denoise_seeds
from concepts_cli.data.images import to_image
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.recipe import SampleSettings


@dataclass(frozen=True)
class Frame:
    """A picture after `step` of `steps` predictions: what the model expects it to become, blurred at first.

    The last frame is the finished picture.
    """

    step: int
    steps: int
    picture: Image.Image

    @property
    def is_last(self) -> bool:
        return self.step == self.steps


@torch.no_grad()
def watch(
    model: DiffusionModel | Mapping[str, TaughtModel], request: Request, settings: SampleSettings, *, frames: int
) -> Iterator[Frame]:
    """Yield about `frames` frames of a picture, the first after one step, the last the picture that `generate` makes.

    A frame before the last decodes the clean latents that the prediction implies. Raises what `generate` raises.
    """
    taught = checked_models(model, settings)
    main = taught[""].model
    predict = composed_scores(taught, [request], settings.negative_prompt or "")
    clean = torch.zeros(())

    def watched(latents: Tensor, time: Tensor) -> Tensor:
        nonlocal clean
        prediction = predict(latents, time)
        clean, _ = main.noise.split(prediction, latents, time)
        return prediction

    steps = len(main.sampler(settings.scheduler).times(settings.steps, main.device))
    every = max(1, steps // max(1, frames - 1))
    for step, latents in enumerate(denoise_seeds(main, [request.seed], watched, settings), start=1):
        if step == steps or step == 1 or step % every == 0:
            (picture,) = main.decode(latents if step == steps else clean)
            yield Frame(step, steps, to_image(picture))
