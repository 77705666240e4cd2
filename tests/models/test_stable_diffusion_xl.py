"""Stable Diffusion XL against diffusers' own pipeline, a plain loss, and everything that a user does with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.train import train
from concepts_cli.core.concepts import Concepts
from concepts_cli.core.objective import Batch, ComposedLoss
from concepts_cli.core.sampling import composed_scores, denoise, guided
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.models.daam import daam_map
from concepts_cli.models.interface import Selection
from concepts_cli.models.stable_diffusion_xl import StableDiffusionXL
from concepts_cli.output import Output
from concepts_cli.recipe import SampleSettings, load_recipe
from concepts_cli.runs.run import Run
from tests.colours import ColourScorer
from tests.models.rounds import write_recipe
from tests.models.tiny_xl import WIDTHS, build_xl

OUT = Output(quiet=True)
CPU = torch.device("cpu")
PROMPTS = ["a photo of a cat", "a <t2> in the style of <t1>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("xl")
    build_xl(path)
    return path


@pytest.fixture
def model(folder):
    return load_model(str(folder), device="cpu")


def learned(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, width, generator=generator) for name, width in WIDTHS.items()}


def teach(pipeline, embeddings):
    """Give a pipeline the words `<t1>` and `<t2>`, by diffusers' own loader."""
    for k in range(2):
        for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
            encoder, tokenizer = (getattr(pipeline, part + suffix) for part in ("text_encoder", "tokenizer"))
            pipeline.load_textual_inversion(
                embeddings[name][k : k + 1], token=f"<t{k + 1}>", text_encoder=encoder, tokenizer=tokenizer
            )


@torch.no_grad()
def latents_of(model, prompt, scale, noise, *, scheduler="ddim", negative=""):
    scores = composed_scores(model, [guided(prompt, scale, 0)] * len(noise), negative)
    *_, clean = denoise(model.sampler(scheduler), noise, scores, 3)
    return clean


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("zeros", "scale", "scheduler", "sides", "negative"),
    [
        (True, 5.0, "ddim", (16, 16), ""),
        (False, 5.0, "ddim", (16, 16), ""),
        (True, 5.0, "euler", (24, 12), "a blue dog"),
        (True, 1.0, "dpm++", (16, 16), ""),
    ],
)
def test_sampling_equals_diffusers_pipeline(prompt, zeros, scale, scheduler, sides, negative):
    pipeline, embeddings = build_xl(zeros=zeros, end=None), learned()
    teach(pipeline, embeddings)
    model = StableDiffusionXL(build_xl(zeros=zeros), "xl", device=CPU, dtype=torch.float32)
    model.set_concepts(("<t1>", "<t2>"), embeddings)
    noise = torch.randn(2, 4, *sides, generator=torch.Generator().manual_seed(1))
    pipeline.scheduler = model.scheduler(scheduler)
    expected = pipeline(
        [prompt] * 2,
        negative_prompt=[negative] * 2 if negative else None,
        num_inference_steps=3,
        guidance_scale=scale,
        latents=noise.clone(),
        height=sides[0] * 2,
        width=sides[1] * 2,
        output_type="latent",
    ).images
    ours = latents_of(model, prompt, scale, noise, scheduler=scheduler, negative=negative)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_decoding_and_encoding_are_diffusers(model):
    pipeline, latents = build_xl(), torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        posterior = pipeline.vae.encode(pixels).latent_dist
    torch.testing.assert_close(model.decode(latents), (pixels / 2 + 0.5).clamp(0, 1))
    torch.testing.assert_close(model.encode_images(pixels)[0], posterior.mean * pipeline.vae.config.scaling_factor)


def test_the_unconditional_is_what_the_pipeline_says(model):
    empty = model.encode_prompts(["", "a cat"]).tensors
    assert not empty["hidden_states"][0].any() and not empty["pooled"][0].any() and empty["pooled"][1].any()
    other = StableDiffusionXL(build_xl(zeros=False), "xl", device=CPU, dtype=torch.float32)
    encoded = other.encode_prompts(["", "a cat"]).tensors
    assert encoded["hidden_states"][0].any() and encoded["pooled"][0].any()
    torch.testing.assert_close(encoded["pooled"][1], empty["pooled"][1])


def test_a_texts_end_is_pooled_and_not_a_learned_word(model):
    """transformers pools the largest id where the configuration has the published end token, 2."""
    embeddings = learned()
    model.set_concepts(("<t1>", "<t2>"), embeddings)
    pipeline = build_xl(end=None)
    teach(pipeline, embeddings)
    _, _, pooled, _ = pipeline.encode_prompt(PROMPTS[1], do_classifier_free_guidance=False)
    torch.testing.assert_close(model.encode_prompts(PROMPTS[1:]).tensors["pooled"], pooled)


def test_the_image_encoder_does_not_overflow_in_half_precision(folder):
    half = load_model(str(folder), device="cpu", dtype=torch.float16)
    assert half.unet.dtype == half.text_encoder.dtype == torch.float16 and half.vae.dtype == torch.float32
    assert half.encode_images(torch.zeros(1, 3, 32, 32))[0].dtype == torch.float32
    pipeline = build_xl().to(dtype=torch.float16)
    pipeline.vae.register_to_config(force_upcast=False)  # as mended image encoders say
    assert StableDiffusionXL(pipeline, "xl", device=CPU, dtype=torch.float16).vae.dtype == torch.float16


def test_a_pipeline_without_a_text_encoder_is_refused():
    pipeline = build_xl()
    pipeline.text_encoder_2 = None
    with pytest.raises(UcdError, match="xl has no text encoder"):
        StableDiffusionXL(pipeline, "xl", device=CPU, dtype=torch.float32)


# ---- the loss


def plain_loss(pipeline, rows, weights, batch):
    """Eq. 10 and 11 with the pipeline's own networks, one score at a time; `rows` are the words in its two tables."""

    def score(noisy, time, prompt):
        if prompt:
            hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        else:
            _, hidden, _, pooled = pipeline.encode_prompt("a", negative_prompt=None)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]])}
        return pipeline.unet(noisy, time, hidden, added_cond_kwargs=added).sample

    alphas = pipeline.scheduler.alphas_cumprod
    for suffix, table in rows.items():
        own = getattr(pipeline, f"text_encoder{suffix}").get_input_embeddings()
        own.weight = torch.nn.Parameter(own.weight.detach(), requires_grad=False)
        ids = getattr(pipeline, f"tokenizer{suffix}").convert_tokens_to_ids(["<t1>", "<t2>"])
        own.register_forward_hook(
            lambda _, args, output, ids=ids, table=table: sum(
                ((args[0] == each)[..., None] * (row - output.detach()) for each, row in zip(ids, table, strict=True)),
                start=output,
            )
        )
    losses = []
    for b, row in enumerate(batch.rows.tolist()):
        clean, noise, time = batch.latents[b : b + 1], batch.noise[b : b + 1], batch.timesteps[b]
        noisy = alphas[time].sqrt() * clean + (1 - alphas[time]).sqrt() * noise
        uncond = score(noisy, time, "").detach()
        differences = (score(noisy, time, f"a photo of a <t{k + 1}>") - uncond for k in range(2))
        composed = uncond + sum(weights[row, k] * difference for k, difference in enumerate(differences))
        losses.append(F.mse_loss(composed, noise))
    return torch.stack(losses).mean()


def test_loss_and_gradients_equal_a_plain_implementation(model):
    embeddings, generator = learned(), torch.Generator().manual_seed(2)
    concepts = Concepts(embeddings, torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]]))
    objective = ComposedLoss(model, concepts, ("<t1>", "<t2>"), ["a photo of a {}"])
    batch = Batch(
        rows=torch.tensor([2, 0]),
        latents=torch.randn(2, 4, 16, 16, generator=generator),
        noise=torch.randn(2, 4, 16, 16, generator=generator),
        timesteps=torch.tensor([200, 800]),
        sentences=torch.zeros(2, 2, dtype=torch.long),
        choices=torch.zeros(2),
    )
    parameters = [*concepts.embeddings.values(), concepts.raw_weights]
    loss = sum(objective(batch, concepts.raw_weights[batch.rows]).values())
    gradients = torch.autograd.grad(loss, parameters)

    pipeline = build_xl(end=None)
    teach(pipeline, embeddings)
    rows = {suffix: concepts.embeddings[name] for name, suffix in (("clip_l", ""), ("clip_g", "_2"))}
    expected = plain_loss(pipeline, rows, concepts.raw_weights, batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters), rtol=1e-4, atol=1e-7)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients), "both text encoders learn"


# ---- what a user does


@pytest.fixture
def recipe(workplace, folder, image_folder):
    return write_recipe(workplace / "xl.yaml", folder)


def test_a_round_of_the_command_line(recipe, monkeypatch):
    def ucd(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        return result.stdout

    run = Run(recipe.parent / ucd("train", "xl.yaml").strip())
    assert {name: table.shape for name, table in run.embeddings.items()} == {"clip_l": (2, 16), "clip_g": (2, 24)}
    assert run.recipe.sample.scheduler == "ddim"
    assert len(ucd("sample", "-c", "all").split()) == 2
    assert len(ucd("compose", "t1", "t2=-2", "-n", "2").split()) == 2
    assert len(ucd("visualize", "-c", "t1", "-n", "1", "--map", "attention").split()) == 1
    assert len(ucd("visualize", "images/0.png", "--map", "contrast").split()) == 2
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


def test_its_embedding_files_make_the_same_picture_in_diffusers(recipe, folder):
    from diffusers import StableDiffusionXLPipeline

    run = train(load_recipe(recipe), device="cpu", out=OUT)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id  # as docs/models.md says
    files = [load_file(run.path / "embeddings" / f"t{k}.safetensors") for k in (1, 2)]
    assert {name: tensor.shape for name, tensor in files[0].items()} == {"clip_l": (1, 16), "clip_g": (1, 24)}
    teach(pipeline, {name: torch.cat([file[name] for file in files]) for name in WIDTHS})
    model, noise = run.load_model("cpu"), torch.randn(1, 4, 16, 16)
    pipeline.scheduler = model.scheduler("ddim")
    theirs = pipeline(
        PROMPTS[1], num_inference_steps=3, guidance_scale=5.0, latents=noise.clone(), output_type="latent"
    ).images
    torch.testing.assert_close(latents_of(model, PROMPTS[1], 5.0, noise), theirs, rtol=1e-5, atol=1e-5)


def test_a_run_of_another_width_is_refused_in_a_line(recipe, tiny_folder):
    run = train(load_recipe(recipe, ["train.max_steps=1"]), device="cpu", out=OUT)
    with pytest.raises(UcdError, match="have 24 and 16 dimensions, .* has 32"):
        run.teach(load_model(str(tiny_folder), device="cpu"))


# ---- heat maps


@pytest.mark.parametrize("side", [64, pytest.param(128, marks=pytest.mark.slow)])
@torch.no_grad()
def test_maps_are_those_of_the_package_daam(side):
    from concepts_cli.core.attention import token_map
    from concepts_cli.core.sampling import generate

    pipeline = build_xl(tokens=77, side=side, levels=4)
    model = StableDiffusionXL(pipeline, "xl", device=CPU, dtype=torch.float32)
    model.set_concepts(("<t1>", "<t2>"), learned())
    settings = SampleSettings(steps=2, negative_prompt="a dog", eta=0.5)
    prompt = "a photo of a <t2>"
    picture, heat = daam_map(model, prompt, "<t2>", guidance_scale=5.0, seed=0, settings=settings)
    assert picture.size == (8 * side,) * 2 and heat.shape == (64, 64) and heat.min() >= 0 < heat.max()
    with model.attention.record(rows=slice(1, None, 2), selection=Selection(daam=True)) as recorder:
        (ours,) = generate(model, [guided(prompt, 5.0, seed=0)], settings)
    differences = torch.tensor(list(ours.tobytes())).int() - torch.tensor(list(picture.tobytes())).int()
    assert differences.abs().max() <= 1, "the same seed makes the same picture"
    mine = token_map(recorder.maps((64, 64))[0], model.positions(prompt, "<t2>"))
    torch.testing.assert_close(mine, heat, rtol=1e-3, atol=1e-5)


def test_daam_refuses_other_sizes():
    model = StableDiffusionXL(build_xl(), "xl", device=CPU, dtype=torch.float32)
    settings = replace(SampleSettings(), width=768)
    with pytest.raises(UcdError, match="512 or 1024 px and 77 tokens; xl has 32 x 768 px and 16 tokens"):
        daam_map(model, "a cat", "cat", guidance_scale=5.0, seed=0, settings=settings)
