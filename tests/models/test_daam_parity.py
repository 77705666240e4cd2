"""Our maps against those of the package `daam` 0.2.0, on tiny random models with 64x64 latents."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from concepts_cli.commands.train import train
from concepts_cli.commands.visualize import heat_map_settings, visualize
from concepts_cli.core.attention import token_map
from concepts_cli.core.inversion import invert
from concepts_cli.models.daam import daam_map, trace
from concepts_cli.models.interface import Selection
from concepts_cli.models.unet_attention import record_attention
from concepts_cli.output import Output
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.recipe import load_recipe
from tests.conftest import build_tokenizer

STEPS = 2
OUT = Output(quiet=True)
SEQUENCE = 77  # daam records no text of another length
LAYERS = Selection(daam=True)


def text_encoder(tokenizer, width, projected=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    eos = tokenizer.eos_token_id
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=SEQUENCE,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def build(family):
    """A pipeline of a family's shape: heads, projections, depth of the transformers, text encoders."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(0)
    tokenizer = build_tokenizer(SEQUENCE)
    shapes = {
        "v1": {"attention_head_dim": 4, "cross_attention_dim": 16},
        "v2": {"attention_head_dim": (2, 4), "cross_attention_dim": 16, "use_linear_projection": True},
        "xl": {
            "attention_head_dim": (2, 4),
            "cross_attention_dim": 32,
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        "deep": {"attention_head_dim": 4, "cross_attention_dim": 16},  # down to 8x8, which daam leaves out
    }
    levels = 4 if family == "deep" else 2
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(8,) * (levels - 1) + (16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        norm_num_groups=4,
        **shapes[family],
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=512,
    )
    schedule = {"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1}
    parts = {"vae": vae, "unet": unet, "tokenizer": tokenizer, "scheduler": DDIMScheduler(**schedule)}
    if family == "xl":
        encoders = {"text_encoder": text_encoder(tokenizer, 16), "text_encoder_2": text_encoder(tokenizer, 16, True)}
        pipeline = StableDiffusionXLPipeline(**parts, **encoders, tokenizer_2=tokenizer)
    else:
        pipeline = StableDiffusionPipeline(
            **parts,
            text_encoder=text_encoder(tokenizer, 16),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make(pipeline, prompt):
    generator = torch.Generator().manual_seed(3)
    return pipeline(
        prompt,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        generator=generator,
        output_type="np",
        height=512,
        width=512,
    ).images[0]


@pytest.mark.parametrize("family", ["v1", "v2", "xl", "deep"])
@torch.no_grad()
def test_maps_of_words_are_daams(family):
    prompt, pipeline = "a photo of a cat in the zig style of a dog", build(family)
    with trace(pipeline) as theirs:
        picture = make(pipeline, prompt)
        heat = theirs.compute_global_heat_map()
    with record_attention(pipeline.unet, rows=slice(1, None), selection=LAYERS) as recorder:
        again = make(pipeline, prompt)
    np.testing.assert_array_equal(again.shape, picture.shape)
    assert np.array_equal(again, make(pipeline, prompt)), "recording changed the picture"
    ours = recorder.maps()[0]
    pieces = pipeline.tokenizer("zig", add_special_tokens=False).input_ids
    assert len(pieces) > 1
    ids = pipeline.tokenizer(prompt).input_ids
    for word in ("cat", "dog", "zig"):
        parts = pipeline.tokenizer(word, add_special_tokens=False).input_ids
        first = next(i for i in range(len(ids)) if ids[i : i + len(parts)] == parts)
        expected = heat.compute_word_heat_map(word).heatmap / STEPS  # theirs are sums over the steps
        torch.testing.assert_close(token_map(ours, range(first, first + len(parts))), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_the_engine_gives_the_packages_maps_of_a_concept(tmp_path):
    from concepts_cli.core.sampling import generate, guided
    from concepts_cli.models import load_model
    from concepts_cli.recipe import SampleSettings

    build("v1").save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    model.set_concepts(["<t1>"], {"text_encoder": torch.randn(1, 16, generator=torch.Generator().manual_seed(0))})
    prompt, settings = "a photo of a <t1>", SampleSettings(steps=STEPS, negative_prompt="a dog", eta=0.5)
    picture, heat = daam_map(model, prompt, "<t1>", guidance_scale=5.0, seed=0, settings=settings)
    assert picture.size == (512, 512) and heat.shape == (64, 64) and heat.min() >= 0 < heat.max()

    with record_attention(model.unet, rows=slice(1, None, 2), selection=LAYERS) as recorder:
        (ours,) = generate(model, [guided(prompt, 5.0, seed=0)], settings)
    difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(picture, dtype=int))
    assert difference.max() <= 1, "the same seed makes the same picture"
    place = model.positions(prompt, "<t1>")
    torch.testing.assert_close(token_map(recorder.maps()[0], place), heat, rtol=1e-3, atol=1e-5)


# ---- `--map daam`, from the command's function to the array


@pytest.fixture
def run(workplace, image_folder):
    """A run of one step on a tiny model with 64x64 latents, and cross-attention in the middle and at an eighth."""
    build("deep").save_pretrained(workplace / "deep")
    (workplace / "deep.yaml").write_text(
        """model: deep
data: {images: images}
concepts: {count: 1, start: table}
train: {max_steps: 1, batch_size: 1, gradient_accumulation: 1}
"""
    )
    return train(load_recipe(workplace / "deep.yaml"), device="cpu", out=OUT)


def drawn_map(run, kind, *, engine="native", selection=None, **options):
    maps = MapSettings(kind=kind, engine=engine, selection=selection or Selection(), save_maps=True)
    (made,), failed = visualize(
        run, maps=maps, output=run.path / f"{kind}-{engine}", device="cpu", out=OUT, concepts=["t1"], **options
    )
    assert not failed
    return torch.from_numpy(np.load(made.map))


def test_maps_of_generated_pictures_are_the_engines(run):
    settings = replace(run.recipe.sample, num_images=1, steps=STEPS, guidance_scale=5.0, seed=4)
    expected = drawn_map(run, "attention", engine="daam", settings=settings)
    ours = drawn_map(run, "daam", settings=settings)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(drawn_map(run, "attention", settings=settings), expected, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def published_map(model, image, prompt, word, *, guidance_scale, seed):
    """The procedure of the published script for real images, step by step, with diffusers and the package."""
    from diffusers import StableDiffusionPipeline

    scheduler, unet = model.scheduler("ddim"), model.unet
    pipeline = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    square = transforms.Compose([transforms.Resize(512), transforms.CenterCrop(512), transforms.ToTensor()])
    posterior = model.vae.encode(square(image)[None] * 2 - 1).latent_dist
    latents = posterior.sample(torch.Generator().manual_seed(seed)) * model.vae.config.scaling_factor
    conditioning = model.encode_prompts([prompt])
    *_, latents = invert(model, latents, lambda x, time: model.predict(x, time, conditioning), STEPS)
    words = ["", prompt] if guidance_scale > 1 else [prompt]
    hidden = model.encode_prompts(words).tensors["hidden_states"]
    scheduler.set_timesteps(STEPS)
    with trace(pipeline) as tracer:
        for timestep in scheduler.timesteps:
            predicted = unet(latents.expand(len(words), -1, -1, -1), timestep, hidden).sample
            noise = predicted[:1] + guidance_scale * (predicted[-1:] - predicted[:1])
            latents = scheduler.step(noise if guidance_scale > 1 else predicted, timestep, latents).prev_sample
        return tracer.compute_global_heat_map(prompt=prompt).compute_word_heat_map(word).heatmap / STEPS


# Without guidance, the package still takes the first half for the unconditional one: of the heads, as there is nothing
# else to halve.
@pytest.mark.parametrize("guidance_scale, heads", [(5.0, ()), (1.0, (2, 3))])
def test_maps_of_real_images_are_the_published_scripts(run, tmp_path, guidance_scale, heads):
    pixels = np.random.default_rng(1).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((700, 450), Image.Resampling.BICUBIC)
    image.save(tmp_path / "wide.png")
    given = {"steps": STEPS, "guidance_scale": guidance_scale, "seed": 7}
    ours = drawn_map(
        run,
        "daam",
        images=[tmp_path / "wide.png"],
        settings=heat_map_settings(run, given, real=True, kind="daam"),
        selection=Selection(heads=heads),
    )
    model = run.load_model("cpu")
    expected = published_map(model, image, "a photo of a <t1>", "<t1>", guidance_scale=guidance_scale, seed=7)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
