"""The built-in model: a small text-to-image diffusion model of drawn scenes, with its data and its training.

`WEIGHTS` is an ordinary `StableDiffusionPipeline` folder, with a small CLIP in `clip/` and a small ResNet in `resnet/`
that judge its images. `MODEL_CARD.md` says what they were trained on and how well they do.
May import recipe, data, drawing, processes and below.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
