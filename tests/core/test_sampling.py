"""Our denoising against diffusers' own pipeline, and what a composition is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from concepts_cli.core.sampling import Request, TaughtModel, Term, composed_scores, composition, generate, guided
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.models.samplers import scheduled_noise
from concepts_cli.recipe import SampleSettings

CAT, DOG, RED = "a photo of a cat", "a photo of a dog", "red"


@pytest.fixture
def folder(tiny_model, tiny_folder, tiny_v_folder):
    return tiny_folder if tiny_model.noise.prediction == "epsilon" else tiny_v_folder


def pictures(model, requests, steps=4, **options) -> np.ndarray:
    settings = SampleSettings(steps=steps, **options)
    made = [np.asarray(picture) for picture in generate(model, requests, settings)]
    return np.stack(made).astype(int)


def reference(model, folder, prompt, scheduler, seeds, guidance_scale, **options):
    """The pictures of diffusers' pipeline from the same generators, in 0 to 255."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = model.scheduler(scheduler)
    images = pipeline(
        [prompt] * len(seeds),
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
        **options,
    ).images
    return images * 255.0


@pytest.mark.parametrize(
    "scheduler",
    [
        "ddim",
        "ddpm",
        "dpm++",
        "dpm++karras",
        "dpm++sde",
        "deis",
        "euler",
        "euler-a",
        "pndm",
        "heun",
        "unipc",
        "kdpm2-a",
    ],
)
def test_sampling_equals_diffusers_pipeline(tiny_model, folder, scheduler):
    ours = pictures(tiny_model, [guided(CAT, 5.0, seed) for seed in (3, 4)], steps=6, scheduler=scheduler)
    np.testing.assert_allclose(ours, reference(tiny_model, folder, CAT, scheduler, (3, 4), 5.0), atol=1.01)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"eta": 0.7}, {"eta": 0.7}),
        ({"height": 48, "width": 24}, {"height": 48, "width": 24}),
        ({"negative_prompt": "a blue dog"}, {"negative_prompt": ["a blue dog", "a blue dog"]}),
    ],
)
def test_options_equal_diffusers_pipeline(tiny_model, folder, ours, theirs):
    made = pictures(tiny_model, [guided(CAT, 7.5, seed) for seed in (1, 2)], steps=6, **ours)
    np.testing.assert_allclose(made, reference(tiny_model, folder, CAT, "ddim", (1, 2), 7.5, **theirs), atol=1.01)
    plain = pictures(tiny_model, [guided(CAT, 7.5, seed) for seed in (1, 2)], steps=6)
    assert made.shape != plain.shape or np.abs(made - plain).max() > 2


@pytest.mark.parametrize("options", [{}, {"scheduler": "euler-a"}, {"eta": 1.0}])
def test_image_n_is_the_same_at_any_batch_size(tiny_model, options):
    requests = [guided(DOG, 7.5, seed) for seed in range(5)]
    alone = [pictures(tiny_model, [request], **options)[0] for request in requests]
    together = pictures(tiny_model, requests, batch_size=3, **options)
    np.testing.assert_allclose(alone, together, atol=1)
    assert (alone[0] != alone[1]).any()


def test_a_composition_is_the_sum_of_weighted_differences(tiny_model):
    """Eq. 11 written out: a call for every score, against the one stacked call."""
    requests = [composition([Term(CAT, 5.0), Term(DOG, -2.0)], seed) for seed in range(2)]
    latents, timestep = torch.randn(2, *tiny_model.latent_shape()), torch.tensor(500)
    with torch.no_grad():
        score = {
            prompt: tiny_model.predict(latents, timestep, tiny_model.encode_prompts([prompt] * 2))
            for prompt in (CAT, DOG, "blue")
        }
        found = composed_scores(tiny_model, requests, "blue")(latents, timestep)
    expected = score["blue"] + 5.0 * (score[CAT] - score["blue"]) - 2.0 * (score[DOG] - score["blue"])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_order_does_not_matter_and_one_term_is_sampling(tiny_model):
    cat, dog = Term(CAT, 5.0), Term(DOG, 3.0)
    both, turned = (pictures(tiny_model, [composition(terms, 7)]) for terms in ([cat, dog], [dog, cat]))
    alone = pictures(tiny_model, [composition([cat], 7)])
    np.testing.assert_allclose(both, turned, atol=1)
    np.testing.assert_array_equal(alone, pictures(tiny_model, [guided(CAT, 5.0, 7)]))
    assert np.abs(both - alone).max() > 2


def test_a_weight_of_zero_is_the_term_left_out_and_costs_no_row(tiny_model, monkeypatch):
    rows = []
    predict = tiny_model.predict
    monkeypatch.setattr(tiny_model, "predict", lambda x, t, hidden: rows.append(len(x)) or predict(x, t, hidden))
    without = pictures(tiny_model, [composition([Term(CAT, 5.0), Term(RED, 0.0)], 7)])
    assert rows == [2] * 4
    np.testing.assert_array_equal(without, pictures(tiny_model, [composition([Term(CAT, 5.0)], 7)]))
    named = Request((Term(CAT, 5.0), Term(RED, 0.0)), seed=7)
    np.testing.assert_allclose(without, pictures(tiny_model, [named]), atol=1)
    nothing = pictures(tiny_model, [composition([Term(RED, 0.0)], 7)])
    np.testing.assert_allclose(nothing, pictures(tiny_model, [guided("", 1.0, 7)]), atol=1)


def test_texts_are_encoded_once_and_pictures_decoded_once(tiny_model, monkeypatch):
    calls = {"encode_prompts": [], "decode": []}
    for name, seen in calls.items():
        method = getattr(tiny_model, name)
        monkeypatch.setattr(tiny_model, name, lambda x, method=method, seen=seen: seen.append(len(x)) or method(x))
    requests = [composition([Term(CAT, 5.0), Term(DOG, 2.0)], seed) for seed in range(5)]
    assert len(pictures(tiny_model, requests, batch_size=2)) == 5
    assert calls == {"encode_prompts": [3], "decode": [2, 2, 1]}


def test_runs_that_share_a_model_read_their_own_words(tiny_model):
    one, two = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0))
    taught = {
        name: TaughtModel(tiny_model, lambda model, rows=rows: model.set_concepts(["<t1>"], {"text_encoder": rows}))
        for name, rows in (("", one), ("other", two))
    }
    made = pictures(taught, [composition([Term("<t1>", 4.0), Term("<t1>", 2.0, "other")], 5)])
    tiny_model.set_concepts(["<t1>", "<t2>"], {"text_encoder": torch.cat([one, two])})
    np.testing.assert_allclose(
        made, pictures(tiny_model, [composition([Term("<t1>", 4.0), Term("<t2>", 2.0)], 5)]), atol=1
    )


def test_two_models_of_one_latent_space_compose(tiny_model, folder):
    """A copy of the model gives what one alone gives; another UNet the mean of both unconditional scores."""
    twin = load_model(str(folder), device="cpu")
    taught = {"": TaughtModel(tiny_model), "other": TaughtModel(twin)}
    terms = [Term(CAT, 4.0), Term(DOG, 2.0, "other")]
    made = pictures(taught, [composition(terms, 5)])
    alone = pictures(tiny_model, [composition([Term(CAT, 4.0), Term(DOG, 2.0)], 5)])
    np.testing.assert_allclose(made, alone, atol=1)

    with torch.no_grad():
        for parameter in twin.unet.parameters():
            parameter.mul_(1.1)
        latents, timestep = torch.randn(1, *twin.latent_shape()), torch.tensor(300)
        found = composed_scores(taught, [composition(terms, 5)])(latents, timestep)
        texts = tiny_model.encode_prompts(["", CAT, DOG])
        mine, theirs = (
            [model.predict(latents, timestep, texts[row : row + 1]) for row in range(3)] for model in (tiny_model, twin)
        )
    expected = (mine[0] + theirs[0]) / 2 + 4 * (mine[1] - mine[0]) + 2 * (theirs[2] - theirs[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_models_that_do_not_go_together_say_why(tiny_folder, tiny_v_folder):
    noise, velocity, other = (load_model(str(path), device="cpu") for path in (tiny_folder, tiny_v_folder, tiny_folder))

    def refused(model, reason):
        taught = {"": TaughtModel(noise), "other": TaughtModel(model)}
        with pytest.raises(UcdError, match=reason):
            pictures(taught, [composition([Term(CAT, 4.0), Term(DOG, 2.0, "other")], 5)])

    refused(velocity, "one predicts epsilon, the other v_prediction")
    other.noise = scheduled_noise({**other.scheduler_config, "beta_end": 0.02}, torch.device("cpu"))
    refused(other, "noise schedules")
    other.noise = noise.noise
    with torch.no_grad():
        next(other.vae.encoder.parameters()).add_(1)
    refused(other, "latent spaces")


@pytest.mark.parametrize(
    "options", [{"eta": 0.5, "scheduler": "dpm++"}, {"height": 33}, {"steps": 1001}, {"scheduler": "dddim"}]
)
def test_what_the_model_or_scheduler_cannot_do_is_refused(tiny_model, options):
    with pytest.raises(UcdError):
        pictures(tiny_model, [guided(CAT, 5.0, 0)], **options)


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_its_pictures_stay_the_same(tiny_model, monkeypatch):
    requests = [guided(CAT, 5.0, seed) for seed in range(5)]
    expected, predict, sizes = pictures(tiny_model, requests, batch_size=1), tiny_model.predict, []

    def limited(latents, time, conditioning):
        sizes.append(len(latents) // 2)
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return predict(latents, time, conditioning)

    monkeypatch.setattr(tiny_model, "predict", limited)
    np.testing.assert_allclose(pictures(tiny_model, requests, batch_size=5), expected, atol=1)
    assert sizes == [5, *[2] * 8, *[1] * 4]
    with pytest.raises(torch.OutOfMemoryError):
        list(generate(tiny_model, requests, SampleSettings(steps=4, batch_size=5), halve=False))


def test_a_picture_that_does_not_fit_alone_is_an_error(tiny_model, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(tiny_model, "predict", full)
    with pytest.raises(torch.OutOfMemoryError):
        pictures(tiny_model, [guided(CAT, 5.0, 0)] * 3)
