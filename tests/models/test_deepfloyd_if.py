"""DeepFloyd IF against diffusers' own pipeline, a plain loss, and everything that a user does with it."""

from __future__ import annotations

import json

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.train import train
from concepts_cli.core.concepts import Concepts
from concepts_cli.core.objective import Batch, ComposedLoss
from concepts_cli.core.sampling import Request, Term, composed_scores, denoise_seeds, guided
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.models.deepfloyd_if import DeepFloydIF
from concepts_cli.output import Output
from concepts_cli.recipe import SampleSettings, load_recipe
from concepts_cli.runs.run import Run
from concepts_cli.training import memory
from tests.colours import ColourScorer
from tests.models.rounds import assert_maps, write_recipe
from tests.models.tiny_t5 import WIDTH, build_if, learn, learned, taught

OUT = Output(quiet=True)
CPU = torch.device("cpu")
PROMPTS = ["a photo of a Cat", "a <t2> in the style of <t1>"]
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("if")
    build_if(path)
    return path


@pytest.fixture
def model(folder):
    return load_model(str(folder), device="cpu")


def teach(model: DeepFloydIF) -> DeepFloydIF:
    model.set_concepts(("<t1>", "<t2>"), {"text_encoder": learned()})
    return model


@torch.no_grad()
def pixels_of(model, terms, settings):
    """The last step's pixels, (B, 3, H, W) in [-1, 1]."""
    predict = composed_scores(model, [Request(terms, seed) for seed in SEEDS], settings.negative_prompt or "")
    *_, clean = denoise_seeds(model, SEEDS, predict, settings)
    return clean


def by_diffusers(pipeline, prompt, scale, *, negative=None, **options):
    return pipeline(
        [prompt] * len(SEEDS),
        negative_prompt=[negative] * len(SEEDS) if negative else None,
        num_inference_steps=3,
        guidance_scale=scale,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        clean_caption=False,
        **options,
    ).images


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("variance", "scheduler", "scale", "sides", "negative"),
    [
        ("learned_range", "ddpm", 7.0, (16, 16), None),
        ("learned_range", "ddpm", 1.0, (16, 8), None),
        ("fixed_small", "ddpm", 7.0, (16, 16), "a blue dog"),
        ("fixed_small", "ddim", 7.0, (16, 16), "a blue dog"),
        ("learned_range", "dpm++", 7.0, (8, 16), None),
    ],
)
def test_sampling_equals_diffusers_pipeline(variance, scheduler, prompt, scale, sides, negative):
    """From the same seeds: DDPM's noise and thresholds included."""
    pipeline = taught(build_if(variance=variance), learned())
    model = teach(DeepFloydIF(build_if(variance=variance), "if", device=CPU, dtype=torch.float32))
    pipeline.scheduler = model.scheduler(scheduler)
    height, width = sides
    expected = by_diffusers(pipeline, prompt, scale, negative=negative, height=height, width=width)
    settings = SampleSettings(steps=3, scheduler=scheduler, height=height, width=width, negative_prompt=negative)
    ours = pixels_of(model, guided(prompt, scale, 0).terms, settings)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_compositions_variance_is_the_mean_of_its_terms(model):
    """Two halves of a term are the term; of two terms, each counts."""
    settings, (cat, dog) = SampleSettings(steps=3, scheduler="ddpm"), ("a cat", "a red dog")
    whole = pixels_of(model, (Term(cat, 4.0),), settings)
    torch.testing.assert_close(pixels_of(model, (Term(cat, 2.0), Term(cat, 2.0)), settings), whole)
    latents, sampler = torch.randn(1, 3, 16, 16), model.sampler("ddpm")
    time = sampler.times(3, CPU)[1]
    with torch.no_grad():
        rows = model.network(latents.expand(3, -1, -1, -1), time, **hidden(model, ["", cat, dog])).sample
        prediction = composed_scores(model, [Request((Term(cat, 1.0), Term(dog, 1.0)), 0)])(latents, time)
    generators = [[torch.Generator().manual_seed(0)] for _ in range(2)]
    ours = sampler.step(prediction, time, latents, generators=generators[0])
    both = torch.cat([prediction, rows[1:, 3:].mean(dim=0, keepdim=True)], dim=1)
    expected = sampler.scheduler.step(both, time, latents, generator=generators[1]).prev_sample
    torch.testing.assert_close(ours, expected)


def test_without_a_prediction_of_its_own_the_variance_is_the_smallest(model):
    """Where all terms are another model's; that is the variance of DDPM without a learned one."""
    fixed = DeepFloydIF(build_if(variance="fixed_small"), "if", device=CPU, dtype=torch.float32)
    latents, steps = torch.randn(2, 1, 3, 16, 16), []
    for each in (model, fixed):
        sampler = each.sampler("ddpm")
        time = sampler.times(3, CPU)[1]
        steps.append(sampler.step(latents[0], time, latents[1], generators=[torch.Generator().manual_seed(0)]))
    torch.testing.assert_close(*steps)


def hidden(model, prompts):
    return {"encoder_hidden_states": model.encode_prompts(prompts).tensors["hidden_states"]}


def test_images_are_their_own_latents(model):
    pixels = torch.rand(2, 3, 16, 8) * 2 - 1
    mean, deviation = model.encode_images(pixels)
    torch.testing.assert_close(mean, pixels, rtol=0, atol=0)
    assert not deviation.any()
    torch.testing.assert_close(model.decode(mean), pixels / 2 + 0.5)
    assert model.decode(mean * 3).max() == 1 and model.decode(mean * 3).min() == 0
    assert model.latent_shape(16, 8) == (3, 16, 8) and (model.resolution, model.size_multiple) == (16, 2)


def test_prompts_are_encoded_as_the_pipeline_does(model):
    """The UNet attends to padding too, so its states count."""
    prompts = ["", "a Cat", "a painting in the style of a red dog"]
    expected, _ = build_if().encode_prompt(prompts, do_classifier_free_guidance=False)
    torch.testing.assert_close(model.encode_prompts(prompts).tensors["hidden_states"], expected)
    assert model.max_tokens == 77 and model.is_truncated("a cat " * 39) and not model.is_truncated("a cat " * 38)


def test_samplers_that_do_not_threshold_are_refused(model):
    assert all(model.scheduler(name).config.thresholding for name in model.samplers)
    with pytest.raises(UcdError, match="no scheduler 'euler'"):
        model.sampler("euler")


def test_a_licence_that_was_not_accepted_is_said(monkeypatch):
    answer = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/DeepFloyd"))
    gated = GatedRepoError("403 Client Error.\n\nCannot access gated repo", response=answer)

    def refuse(*_, **__):
        raise gated

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(
        UcdError, match="^DeepFloyd/IF-I-XL-v1.0 is only for those who have accepted its licence$"
    ) as told:
        load_model("DeepFloyd/IF-I-XL-v1.0", device="cpu")
    assert "https://huggingface.co/DeepFloyd/IF-I-XL-v1.0" in told.value.hint


# ---- the loss


def test_loss_and_gradients_equal_a_plain_implementation(model):
    """Eq. 11 for the noise, one score at a time, with the pipeline's networks; the variance is dropped."""
    generator = torch.Generator().manual_seed(2)
    concepts = Concepts({"text_encoder": learned()}, torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]]))
    objective = ComposedLoss(model, concepts, ("<t1>", "<t2>"), ["a photo of a {}"])
    batch = Batch(
        rows=torch.tensor([2, 0]),
        latents=torch.randn(2, 3, 16, 16, generator=generator),
        noise=torch.randn(2, 3, 16, 16, generator=generator),
        timesteps=torch.tensor([200, 800]),
        sentences=torch.zeros(2, 2, dtype=torch.long),
        choices=torch.zeros(2),
    )
    parameters = [concepts.embeddings["text_encoder"], concepts.raw_weights]
    loss = sum(objective(batch, concepts.raw_weights[batch.rows]).values())
    gradients = torch.autograd.grad(loss, parameters)

    pipeline = learn(taught(build_if(), learned()), concepts.embeddings["text_encoder"])
    alphas = pipeline.scheduler.alphas_cumprod

    def score(noisy, time, prompt):
        tokens = pipeline.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")
        states = pipeline.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return pipeline.unet(noisy, time, states).sample[:, :3]

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
def test_maps_are_the_texts_part_of_joint_attention(model):
    """The layer's own output is what the recorded attention and that of places to places make of the values."""
    conditioning, latents = model.encode_prompts(["a photo of a cat", "a dog"]), torch.randn(2, 3, 16, 16)
    layer, seen = model.network.mid_block.attentions[0], {}
    hook = layer.register_forward_hook(
        lambda _, args, kwargs, output: seen.update(args=args, kwargs=kwargs, output=output), with_kwargs=True
    )
    before = model.predict(latents, torch.tensor(500), conditioning)
    hook.remove()
    with model.attention.record() as recorder:
        torch.testing.assert_close(model.predict(latents, torch.tensor(500), conditioning), before, rtol=0, atol=0)
    assert set(recorder.layers) == {
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    }
    hidden, text = seen["args"][0], layer.norm_encoder_hidden_states(seen["kwargs"]["encoder_hidden_states"])
    places = layer.group_norm(hidden.flatten(2)).transpose(1, 2)

    def heads(tensor):  # (B, S, heads * d) -> (B, heads, S, d)
        return tensor.unflatten(2, (layer.heads, -1)).transpose(1, 2)

    recorded = recorder.sums["mid_block.attentions.0"].flatten(3).mT  # (B, heads, h * w, T)
    scores = heads(layer.to_q(places)) @ heads(layer.to_k(places)).mT * layer.scale
    logits = heads(layer.to_q(places)) @ heads(layer.add_k_proj(text)).mT * layer.scale
    share = scores.exp() / (scores.exp().sum(dim=3, keepdim=True) + logits.exp().sum(dim=3, keepdim=True))
    values = recorded @ heads(layer.add_v_proj(text)) + share @ heads(layer.to_v(places))
    output = layer.to_out[0](values.transpose(1, 2).flatten(2)).mT.unflatten(2, hidden.shape[2:]) + hidden
    torch.testing.assert_close(output, seen["output"], rtol=1e-4, atol=1e-5)


# ---- what a user does


@pytest.fixture
def recipe(workplace, folder, image_folder):
    return write_recipe(workplace / "if.yaml", folder)


@pytest.mark.slow
def test_a_round_of_the_command_line(recipe, monkeypatch):
    def ucd(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        return result.stdout

    run = Run(recipe.parent / ucd("train", "if.yaml").strip())
    assert run.embeddings["text_encoder"].shape == (2, WIDTH) and run.recipe.sample.scheduler == "ddim"
    assert len(ucd("sample", "-c", "all", "--scheduler", "ddpm").split()) == 2
    assert len(ucd("compose", "t1", "t2=-2", "-n", "2", "--scheduler", "ddpm", "--corrector-steps", "1").split()) == 2
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


@pytest.mark.parametrize(("setting", "shape"), [("where=output", (2, WIDTH)), ("vectors=2", (2, 2, WIDTH))])
def test_concepts_after_the_text_encoder_and_of_several_vectors(recipe, setting, shape):
    run = train(load_recipe(recipe, [f"concepts.{setting}", "train.max_steps=1"]), device="cpu", out=OUT)
    assert run.embeddings["text_encoder"].shape == shape
    model = run.load_model("cpu")
    first, second = (model.encode_prompts([f"a photo of a <t{k}>"]).tensors["hidden_states"] for k in (1, 2))
    assert not torch.equal(first, second)


def test_its_plan_counts_all_of_its_parts(recipe, model):
    planned = memory.plan_memory(load_recipe(recipe), None)
    parts = (model.network, model.text_encoder)
    assert planned.parameters == sum(each.numel() for part in parts for each in part.parameters())


def test_stage_two_enlarges_pictures_of_concepts(model):
    """As docs/models.md shows: the prompt's states come from here, since diffusers doesn't know the words."""
    from diffusers import DDPMScheduler, IFSuperResolutionPipeline, UNet2DConditionModel

    small = build_if()
    config = {**small.unet.config, "in_channels": 6, "sample_size": 32, "class_embed_type": "timestep"}
    stage_2 = IFSuperResolutionPipeline(
        None,
        None,
        UNet2DConditionModel.from_config(config),
        small.scheduler,
        DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        None,
        None,
        None,
        requires_safety_checker=False,
    )
    stage_2.set_progress_bar_config(disable=True)
    states = teach(model).encode_prompts(["a photo of <t1>", ""]).tensors["hidden_states"]
    image = stage_2(
        image=Image.new("RGB", (16, 16), (200, 40, 40)),
        prompt_embeds=states[:1],
        negative_prompt_embeds=states[1:],
        num_inference_steps=2,
        output_type="pt",
    ).images
    assert image.shape == (1, 3, 32, 32) and image.isfinite().all()
