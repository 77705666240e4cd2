"""Our denoising against diffusers' own pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from concepts_cli.core.sampling import Request, Term, generate, guided


def reference(model, folder, prompt, scheduler, seeds, guidance_scale):
    """The picture of diffusers' pipeline from the same generators."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = model.scheduler(scheduler)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(
        [prompt] * len(seeds),
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        generator=generators,
        output_type="np",
    ).images


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "euler", "euler-a", "pndm", "heun", "unipc"])
def test_sampling_equals_diffusers_pipeline(tiny_model, tiny_folder, tiny_v_folder, scheduler):
    folder = tiny_folder if tiny_model.prediction_type == "epsilon" else tiny_v_folder
    ours = generate(
        tiny_model,
        [guided("a photo of a cat", 5.0, seed) for seed in (3, 4)],
        num_inference_steps=6,
        scheduler=scheduler,
    )
    expected = reference(tiny_model, folder, "a photo of a cat", scheduler, (3, 4), 5.0)
    for picture, wanted in zip(ours, expected, strict=True):
        np.testing.assert_allclose(np.asarray(picture) / 255.0, wanted, atol=1.01 / 255)


def test_image_n_is_the_same_at_any_batch_size(tiny_model):
    requests = [guided("a photo of a dog", 7.5, seed) for seed in range(5)]
    alone = [np.asarray(p) for r in requests for p in generate(tiny_model, [r], num_inference_steps=3)]
    together = [np.asarray(p) for p in generate(tiny_model, requests, num_inference_steps=3, batch_size=3)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)
    assert (alone[0] != alone[1]).any()


def test_composition_of_one_term_is_sampling_and_order_and_zero_do_not_matter(tiny_model):
    cat, dog, red = (
        Term(f"a photo of a {word}", weight) for word, weight in (("cat", 5.0), ("dog", 3.0), ("red", 0.0))
    )

    def picture(*terms):
        return np.asarray(next(generate(tiny_model, [Request(terms, seed=7)], num_inference_steps=4))).astype(int)

    np.testing.assert_allclose(picture(cat, dog), picture(dog, cat), atol=1)
    np.testing.assert_allclose(picture(cat, red), picture(cat), atol=1)
    assert np.abs(picture(cat, dog) - picture(cat)).max() > 2
