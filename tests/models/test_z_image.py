"""Z-Image against diffusers' own pipeline, a plain loss, and everything that a user does with it."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.train import train
from concepts_cli.core.concepts import Concepts
from concepts_cli.core.inversion import invert
from concepts_cli.core.objective import Batch, ComposedLoss
from concepts_cli.core.sampling import composed_scores, denoise, guided
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.models.z_image import ZImage
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.recipe.schema import TrainSettings
from concepts_cli.runs.run import Run
from concepts_cli.training.setup import load_training_model
from tests.colours import ColourScorer
from tests.models.rounds import assert_maps, write_recipe
from tests.models.tiny_z_image import WIDTH, build_z_image

OUT = Output(quiet=True)
CPU = torch.device("cpu")
PROMPTS = ["a photo of a cat", "a <t2> in the style of <t1>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("z-image")
    build_z_image(path)
    return path


@pytest.fixture
def model(folder):
    return load_model(str(folder), device="cpu")


def learned() -> torch.Tensor:
    return torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))


def taught_pipeline(embeddings):
    """The pipeline with the words `<t1>` and `<t2>` in its own table."""
    pipeline = build_z_image()
    pipeline.tokenizer.add_tokens(["<t1>", "<t2>"])
    rows = pipeline.tokenizer.convert_tokens_to_ids(["<t1>", "<t2>"])
    pipeline.text_encoder.get_input_embeddings().weight.data[rows] = embeddings
    return pipeline


@torch.no_grad()
def latents_of(model, prompt, scale, noise, negative=""):
    scores = composed_scores(model, [guided(prompt, scale, 0)] * len(noise), negative)
    *_, clean = denoise(model.sampler(), noise, scores, 3)
    return clean


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("scale", "sides", "negative"), [(2.0, (16, 16), ""), (1.5, (16, 8), "a blue dog in the red"), (1.0, (16, 16), "")]
)
def test_sampling_equals_diffusers_pipeline(model, prompt, scale, sides, negative):
    """Its scale is ours less 1, and 0 is no guidance."""
    model.set_concepts(("<t1>", "<t2>"), {"text_encoder": learned()})
    noise = torch.randn(2, 4, *sides, generator=torch.Generator().manual_seed(1))
    expected = taught_pipeline(learned())(
        [prompt] * 2,
        negative_prompt=[negative] * 2,
        num_inference_steps=3,
        guidance_scale=scale - 1,
        latents=noise.clone(),
        height=sides[0] * 2,
        width=sides[1] * 2,
        output_type="latent",
    ).images
    torch.testing.assert_close(latents_of(model, prompt, scale, noise, negative), expected, rtol=1e-5, atol=1e-5)


def test_decoding_and_encoding_are_diffusers(model):
    vae, latents = build_z_image().vae, torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        pixels = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
        mean = vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(model.decode(latents), (pixels / 2 + 0.5).clamp(0, 1))
    expected = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(model.encode_images(pixels)[0], expected)
    assert model.latent_shape(64, 32) == (4, 32, 16) and (model.resolution, model.size_multiple) == (32, 4)


def test_prompts_of_all_lengths_are_encoded_as_alone(model):
    """Padding is left out of the encoder's work, which changes nothing."""
    prompts = ["", "a cat", "a painting in the style of a red dog " * 3]
    together = model.encode_prompts(prompts).tensors
    assert together["hidden_states"].shape == (3, 512, WIDTH)
    expected, _ = build_z_image().encode_prompt(prompts.copy(), do_classifier_free_guidance=False)
    for row, states in enumerate(expected):
        torch.testing.assert_close(together["hidden_states"][row][together["mask"][row]], states)
    assert not model.is_truncated(prompts[2]) and model.is_truncated("a cat " * 300)


def test_a_round_trip_of_the_inversion(model):
    start = torch.randn(1, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    conditioning = model.encode_prompts(["a cat"])
    with torch.no_grad():
        *_, noise = invert(model, start, lambda x, time: model.predict(x, time, conditioning), 6, corrections=20)
        *_, again = denoise(model.sampler(), noise, lambda x, time: model.predict(x, time, conditioning), 6)
    torch.testing.assert_close(again, start, rtol=1e-3, atol=1e-3)


def test_what_it_can_not_do_is_refused_in_a_line(folder, tmp_path):
    with pytest.raises(UcdError, match="Z-Image-Turbo is distilled: it has no unconditional score"):
        ZImage.load("", name="Tongyi-MAI/Z-Image-Turbo", revision=None, device=CPU, dtype=torch.float32)
    pipeline = build_z_image()
    pipeline.scheduler.register_to_config(use_dynamic_shifting=True)
    with pytest.raises(UcdError, match="the schedule of z depends on the picture's size"):
        ZImage(pipeline, "z", device=CPU, dtype=torch.float32)
    with pytest.raises(UcdError, match="no scheduler 'ddim'"):
        load_model(str(folder), device="cpu").sampler("ddim")
    assert load_model(str(folder), device="cpu", dtype=torch.float16).dtype == torch.bfloat16


def test_training_in_float16_is_refused(folder, monkeypatch):
    monkeypatch.setenv("UCD_DATA", "data")
    recipe = replace(load_recipe("zimage-imagenet", [f"model={folder}"]), train=TrainSettings(mixed_precision="fp16"))
    with pytest.raises(UcdError, match="runs in bfloat16 instead of fp16") as caught:
        load_training_model(recipe, SimpleNamespace(device=CPU), OUT)
    assert caught.value.hint == "--set train.mixed_precision=bf16"


# ---- the loss


def test_loss_and_gradients_equal_a_plain_implementation(model):
    """Eq. 11 in velocities, one score at a time, with the pipeline's networks."""
    generator = torch.Generator().manual_seed(2)
    concepts = Concepts({"text_encoder": learned()}, torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]]))
    objective = ComposedLoss(model, concepts, ("<t1>", "<t2>"), ["a photo of a {}"])
    batch = Batch(
        rows=torch.tensor([2, 0]),
        latents=torch.randn(2, 4, 16, 16, generator=generator),
        noise=torch.randn(2, 4, 16, 16, generator=generator),
        timesteps=torch.tensor([200.0, 800.0]),
        sentences=torch.zeros(2, 2, dtype=torch.long),
        choices=torch.zeros(2),
    )
    parameters = [concepts.embeddings["text_encoder"], concepts.raw_weights]
    loss = sum(objective(batch, concepts.raw_weights[batch.rows]).values())
    gradients = torch.autograd.grad(loss, parameters)

    pipeline, table = taught_pipeline(learned()), concepts.embeddings["text_encoder"]
    for part in (pipeline.text_encoder, pipeline.transformer):
        part.requires_grad_(False)
    rows = pipeline.tokenizer.convert_tokens_to_ids(["<t1>", "<t2>"])
    pipeline.text_encoder.get_input_embeddings().register_forward_hook(
        lambda _, args, output: sum(
            ((args[0] == each)[..., None] * (row - output) for each, row in zip(rows, table, strict=True)), start=output
        )
    )

    def velocity(noisy, share, prompt):
        captions, _ = pipeline.encode_prompt([prompt], do_classifier_free_guidance=False)
        (towards_image,), *_ = pipeline.transformer([noisy[:, None]], (1 - share)[None], captions, return_dict=False)
        return -towards_image[:, 0]

    losses = []
    for b, row in enumerate(batch.rows.tolist()):
        share = batch.timesteps[b] / 1000
        noisy = (1 - share) * batch.latents[b] + share * batch.noise[b]
        uncond = velocity(noisy, share, "").detach()
        composed = uncond
        for k in range(2):
            composed = composed + concepts.raw_weights[row, k] * (
                velocity(noisy, share, f"a photo of a <t{k + 1}>") - uncond
            )
        losses.append(F.mse_loss(composed, batch.noise[b] - batch.latents[b]))
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters), rtol=1e-4, atol=1e-7)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


# ---- what a user does


@pytest.fixture
def recipe(workplace, folder, image_folder):
    return write_recipe(workplace / "z.yaml", folder)


def test_a_round_of_the_command_line(recipe, monkeypatch):
    def ucd(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        return result.stdout

    run = Run(recipe.parent / ucd("train", "z.yaml").strip())
    assert run.embeddings["text_encoder"].shape == (2, WIDTH) and run.recipe.sample.scheduler == "flow-euler"
    assert len(ucd("sample", "-c", "all").split()) == 2
    assert len(ucd("compose", "t1", "t2=-2", "-n", "2", "--corrector-steps", "1").split()) == 2
    assert_maps(ucd, run)
    refusal = CliRunner().invoke(app, ["visualize", "images/0.png", "--map", "daam", "--device", "cpu"])
    assert refusal.exit_code == 2 and "use --map attention" in refusal.stderr and refusal.stderr.count("\n") <= 2
    assert len(json.loads(ucd("encode", "images/1.png", "--json"))["images"]) == 1
    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda *_: ColourScorer("CLIP", 0.3, 0.0))
    wanted = ("assignment", "clip", "composition")
    metrics = json.loads(ucd("evaluate", *(f"--metric={name}" for name in wanted), "--json"))["metrics"]
    assert set(metrics) == set(wanted)


def test_it_resumes_to_the_same_bits_and_saving_memory_changes_nothing(recipe):
    def trained(name: str, *settings: str, resume: bool = False):
        output = recipe.parent / name
        return train(load_recipe(recipe, settings), output=output, resume=resume, device="cpu", out=OUT).path

    whole = Run(trained("whole")).embeddings
    trained("part", "train.max_steps=1")
    torch.testing.assert_close(whole, Run(trained("part", resume=True)).embeddings, rtol=0, atol=0)
    for saving in ("train.gradient_checkpointing=true", "train.concept_checkpointing=true"):
        torch.testing.assert_close(whole, Run(trained(saving[6:9], saving)).embeddings, rtol=1e-4, atol=1e-5)
