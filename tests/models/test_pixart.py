"""PixArt against diffusers' own pipelines, a plain loss, and everything that a user does with it."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.train import train
from concepts_cli.core.attention import token_map
from concepts_cli.core.concepts import Concepts
from concepts_cli.core.heat_maps import Subject, tokens_of
from concepts_cli.core.objective import Batch, ComposedLoss
from concepts_cli.core.sampling import composed_scores, denoise, guided
from concepts_cli.models import load_model
from concepts_cli.models.pixart import PixArtAlpha, PixArtSigma
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run
from concepts_cli.training import memory
from concepts_cli.training.accounting import bytes_of
from tests.colours import ColourScorer
from tests.models.rounds import assert_maps, write_recipe
from tests.models.tiny_t5 import WIDTH, build_pixart, learn, learned, taught

OUT = Output(quiet=True)
CPU = torch.device("cpu")
PROMPTS = ["a photo of a Cat", "a <t2> in the style of <t1>"]
KINDS = {"Sigma": PixArtSigma, "Alpha": PixArtAlpha}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pixart")
    build_pixart(path)
    return path


@pytest.fixture
def model(folder):
    return load_model(str(folder), device="cpu")


@torch.no_grad()
def latents_of(model, prompt, scale, noise, *, scheduler=None, negative=""):
    scores = composed_scores(model, [guided(prompt, scale, 0)] * len(noise), negative)
    *_, clean = denoise(model.sampler(scheduler), noise, scores, 3)
    return clean


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("kind", "network", "scale", "scheduler", "sides", "negative"),
    [
        ("Sigma", {}, 4.5, "dpm++", (16, 16), ""),
        ("Sigma", {}, 4.5, "ddim", (16, 8), "a blue dog in the red"),
        ("Sigma", {"out_channels": 4}, 1.0, "dpm++", (16, 16), ""),
        ("Alpha", {}, 4.5, "dpm++", (16, 16), ""),
        # Pictures of 1024 px, by their size: the network is told of sizes.
        ("Alpha", {"sample_size": 128, "use_additional_conditions": None}, 4.5, "dpm++", (16, 8), ""),
    ],
)
def test_sampling_equals_diffusers_pipeline(kind, network, prompt, scale, scheduler, sides, negative):
    pipeline = taught(build_pixart(kind=kind, **network), learned())
    model = KINDS[kind](build_pixart(kind=kind, **network), "pixart", device=CPU, dtype=torch.float32)
    model.set_concepts(("<t1>", "<t2>"), {"text_encoder": learned()})
    noise = torch.randn(2, 4, *sides, generator=torch.Generator().manual_seed(1))
    pipeline.scheduler = model.scheduler(scheduler)
    expected = pipeline(
        [prompt] * 2,
        negative_prompt=[negative] * 2,
        num_inference_steps=3,
        guidance_scale=scale,
        latents=noise.clone(),
        height=sides[0] * 2,
        width=sides[1] * 2,
        output_type="latent",
        clean_caption=False,
        use_resolution_binning=False,
    ).images
    ours = latents_of(model, prompt, scale, noise, scheduler=scheduler, negative=negative)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_decoding_and_encoding_are_diffusers(model):
    vae, latents = build_pixart().vae, torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        pixels = vae.decode(latents / vae.config.scaling_factor).sample
        mean = vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(model.decode(latents), (pixels / 2 + 0.5).clamp(0, 1))
    torch.testing.assert_close(model.encode_images(pixels)[0], mean * vae.config.scaling_factor)
    assert model.latent_shape(64, 32) == (4, 32, 16) and (model.resolution, model.size_multiple) == (32, 4)


def test_prompts_of_all_lengths_are_encoded_as_alone(model):
    """Padding is left out of T5's work, which changes nothing that the network reads."""
    prompts = ["", "a cat", "a painting in the style of a red dog " * 3]
    together = model.encode_prompts(prompts).tensors
    assert together["hidden_states"].shape == (3, 300, WIDTH)
    expected, mask, *_ = build_pixart().encode_prompt(prompts, do_classifier_free_guidance=False)
    torch.testing.assert_close(together["mask"], mask)
    kept = mask.bool()
    torch.testing.assert_close(together["hidden_states"][kept], expected[kept])
    assert not model.is_truncated(prompts[2]) and model.is_truncated("a cat " * 150)


def test_words_are_in_lower_case_and_concepts_as_they_are(model):
    model.set_concepts(("<t1>", "<Dog>"), {"text_encoder": learned()})
    ids = model.tokenize(["A Photo of <Dog>", "a photo of <Dog>", "a photo of <dog>"]).tensors["text_encoder"]
    assert torch.equal(ids[0], ids[1]) and not torch.equal(ids[1], ids[2])
    assert model.positions("A Photo of <Dog>", "<Dog>") == [3] and model.positions("a Cat", "cat") == [1]
    assert model.whole_words()["cat"] == model.pieces("Cat")["text_encoder"][0]


def test_it_loads_as_it_was_published(tmp_path):
    """The published files call the network by its earlier name."""
    build_pixart(tmp_path)
    for name in ("model_index.json", "transformer/config.json"):
        file = tmp_path / name
        file.write_text(file.read_text().replace("PixArtTransformer2DModel", "Transformer2DModel"))
    model = load_model(str(tmp_path), device="cpu")
    skeleton = PixArtSigma.skeleton(str(tmp_path), name=str(tmp_path), revision=None, dtype=torch.float32)
    shapes = {name: each.shape for name, each in model.network.named_parameters()}
    assert shapes == {name: each.shape for name, each in skeleton.network.named_parameters()}


def test_what_overflows_in_half_precision_stays_in_single(folder):
    """Parts of T5 and the image encoder; the plan knows."""
    half = load_model(str(folder), device="cpu", dtype=torch.float16)
    assert half.network.dtype == torch.float16 and half.vae.dtype == torch.float32
    assert half.encode_prompts(["a cat"]).tensors["hidden_states"].dtype == torch.float16
    skeleton = PixArtSigma.skeleton(str(folder), name=str(folder), revision=None, dtype=torch.float16)
    for part in ("text", "images"):
        assert bytes_of(skeleton.parts()[part]) == bytes_of(half.parts()[part])


# ---- the loss


def test_loss_and_gradients_equal_a_plain_implementation(model):
    """Eq. 11, one score at a time, with the pipeline's networks."""
    generator = torch.Generator().manual_seed(2)
    concepts = Concepts({"text_encoder": learned()}, torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]]))
    objective = ComposedLoss(model, concepts, ("<t1>", "<t2>"), ["a photo of a {}"])
    batch = Batch(
        rows=torch.tensor([2, 0]),
        latents=torch.randn(2, 4, 16, 16, generator=generator),
        noise=torch.randn(2, 4, 16, 16, generator=generator),
        timesteps=torch.tensor([200, 800]),
        sentences=torch.zeros(2, 2, dtype=torch.long),
        choices=torch.zeros(2),
    )
    parameters = [concepts.embeddings["text_encoder"], concepts.raw_weights]
    loss = sum(objective(batch, concepts.raw_weights[batch.rows]).values())
    gradients = torch.autograd.grad(loss, parameters)

    pipeline = learn(taught(build_pixart(), learned()), concepts.embeddings["text_encoder"])
    alphas = pipeline.scheduler.alphas_cumprod

    def score(noisy, time, prompt):
        states, mask, *_ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        sizes = {"resolution": None, "aspect_ratio": None}
        output = pipeline.transformer(
            noisy, states, time[None], added_cond_kwargs=sizes, encoder_attention_mask=mask, return_dict=False
        )[0]
        return output[:, :4]

    losses = []
    for b, row in enumerate(batch.rows.tolist()):
        clean, noise, time = batch.latents[b : b + 1], batch.noise[b : b + 1], batch.timesteps[b]
        noisy = alphas[time].sqrt() * clean + (1 - alphas[time]).sqrt() * noise
        uncond = score(noisy, time, "").detach()
        scores = [score(noisy, time, f"a photo of a <t{k + 1}>") for k in range(2)]
        composed = uncond + sum(concepts.raw_weights[row, k] * (scores[k] - uncond) for k in range(2))
        losses.append(F.mse_loss(composed, noise))
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters), rtol=1e-4, atol=1e-7)
    assert all(gradient.abs().max() > 1e-7 for gradient in gradients)


# ---- heat maps


@torch.no_grad()
def test_maps_are_the_attention_of_the_cross_attention_blocks(model):
    """By hand: softmax(Q K^T / sqrt(d)) of each block's attn2, over tokens that are not padding."""
    conditioning, latents = model.encode_prompts(["a photo of a cat", "a dog"]), torch.randn(2, 4, 16, 8)
    seen = {}
    hooks = [
        block.attn2.register_forward_pre_hook(
            lambda layer, args, kwargs: seen.update({layer: (args[0], kwargs["encoder_hidden_states"])}),
            with_kwargs=True,
        )
        for block in model.network.transformer_blocks
    ]
    before = model.predict(latents, torch.tensor(500), conditioning)
    for hook in hooks:
        hook.remove()
    with model.attention.record() as recorder:
        torch.testing.assert_close(model.predict(latents, torch.tensor(500), conditioning), before, rtol=0, atol=0)
    maps = []
    for layer, (places, text) in seen.items():
        query = layer.to_q(places).unflatten(2, (2, 12)).transpose(1, 2)
        key = layer.to_k(text).unflatten(2, (2, 12)).transpose(1, 2)
        scores = query @ key.mT / 12**0.5
        scores = scores.masked_fill(conditioning.tensors["mask"][:, None, None] == 0, -torch.inf)
        maps.append(scores.softmax(dim=-1).mT.unflatten(3, (8, 4)).flatten(0, 1))
    enlarged = F.interpolate(torch.cat(maps), (16, 8), mode="bicubic").clamp(min=0)
    expected = enlarged.unflatten(0, (2, 2, 2)).mean(dim=(0, 2))  # of blocks and heads
    torch.testing.assert_close(recorder.maps(), expected, rtol=1e-4, atol=1e-6)
    words = tokens_of(model, "a photo of a cat", Subject("cat", "a photo of a cat"))
    assert words == [4], "other tokens read the word no more than it reads them"
    assert token_map(recorder.maps()[0], words).max() > 0


# ---- what a user does


@pytest.fixture
def recipe(workplace, folder, image_folder):
    return write_recipe(workplace / "pixart.yaml", folder)


@pytest.mark.slow
def test_a_round_of_the_command_line(recipe, monkeypatch):
    def ucd(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        return result.stdout

    run = Run(recipe.parent / ucd("train", "pixart.yaml").strip())
    assert run.embeddings["text_encoder"].shape == (2, WIDTH) and run.recipe.sample.scheduler == "ddim"
    assert len(ucd("sample", "-c", "all", "--scheduler", "dpm++").split()) == 2
    assert len(ucd("compose", "t1", "t2=-2", "-n", "2", "--corrector-steps", "1").split()) == 2
    assert_maps(ucd, run)
    assert len(json.loads(ucd("encode", "images/1.png", "--json"))["images"]) == 1
    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda *_: ColourScorer("CLIP", 0.3, 0.0))
    wanted = ("assignment", "clip", "composition")
    metrics = json.loads(ucd("evaluate", *(f"--metric={name}" for name in wanted), "--json"))["metrics"]
    assert set(metrics) == set(wanted)


@pytest.mark.slow
def test_it_resumes_to_the_same_bits_and_saving_memory_changes_nothing(recipe):
    def trained(name: str, *settings: str, resume: bool = False):
        output = recipe.parent / name
        return train(load_recipe(recipe, settings), output=output, resume=resume, device="cpu", out=OUT).path

    whole = Run(trained("whole")).embeddings
    trained("part", "train.max_steps=1")
    torch.testing.assert_close(whole, Run(trained("part", resume=True)).embeddings, rtol=0, atol=0)
    for saving in ("train.gradient_checkpointing=true", "train.concept_checkpointing=true"):
        torch.testing.assert_close(whole, Run(trained(saving[6:9], saving)).embeddings, rtol=1e-4, atol=1e-5)


def test_its_plan_counts_all_of_its_parts(recipe, model):
    planned = memory.plan_memory(load_recipe(recipe), None)
    parts = (model.network, model.vae, model.text_encoder)
    assert planned.parameters == sum(each.numel() for part in parts for each in part.parameters())
