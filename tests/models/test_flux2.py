"""FLUX.2-klein against diffusers' own pipeline, a plain loss, and everything that a user does with it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
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
from concepts_cli.models.flux2 import Flux2Klein
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run
from tests.colours import ColourScorer
from tests.models.rounds import assert_maps, write_recipe
from tests.models.tiny_flux2 import TOKENS, WIDTH, build_flux2

OUT = Output(quiet=True)
CPU = torch.device("cpu")
PROMPTS = ["a photo of a cat", "a <t2> in the style of <t1>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux2")
    build_flux2(path)
    return path


@pytest.fixture
def model(folder):
    return load_model(str(folder), device="cpu")


def learned() -> torch.Tensor:
    return torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))


def taught_pipeline(embeddings):
    """The pipeline with the words `<t1>` and `<t2>` in its own table."""
    pipeline = build_flux2()
    pipeline.tokenizer.add_tokens(["<t1>", "<t2>"])
    rows = pipeline.tokenizer.convert_tokens_to_ids(["<t1>", "<t2>"])
    pipeline.text_encoder.get_input_embeddings().weight.data[rows] = embeddings
    return pipeline


@torch.no_grad()
def latents_of(model, prompt, scale, noise, steps):
    scores = composed_scores(model, [guided(prompt, scale, 0)] * len(noise))
    *_, clean = denoise(model.sampler(size=tuple(noise.shape[-2:])), noise, scores, steps)
    return clean


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(("scale", "sides", "steps"), [(4.0, (8, 8), 3), (2.5, (8, 4), 5), (1.0, (8, 8), 2)])
def test_sampling_equals_diffusers_pipeline(model, prompt, scale, sides, steps):
    """Its schedule depends on the size and the number of steps; its latents are those of the image encoder."""
    model.set_concepts(("<t1>", "<t2>"), {"text_encoder": learned()})
    noise = torch.randn(2, 16, *sides, generator=torch.Generator().manual_seed(1))
    pipeline = taught_pipeline(learned())
    height, width = (side * 4 for side in sides)
    settings = {
        "num_inference_steps": steps,
        "guidance_scale": scale,
        "latents": noise.clone(),
        "height": height,
        "width": width,
        "max_sequence_length": TOKENS,
    }
    expected = pipeline(prompt=[prompt] * 2, **settings, output_type="latent").images
    ours = latents_of(model, prompt, scale, noise, steps)
    center, spread = model._statistics()
    unpacked = F.pixel_shuffle(ours * spread + center, 2)
    torch.testing.assert_close(unpacked, expected, rtol=1e-5, atol=1e-5)
    pixels = torch.from_numpy(pipeline(prompt=[prompt] * 2, **settings, output_type="np").images).movedim(-1, 1)
    torch.testing.assert_close(model.decode(ours), pixels, rtol=1e-4, atol=1e-4)


def test_encoding_is_diffusers_and_the_statistics_are_in_the_fingerprint(model, folder):
    pipeline, pixels = build_flux2(), torch.rand(2, 3, 32, 16) * 2 - 1
    with torch.no_grad():
        expected = pipeline._encode_vae_image(pixels, torch.Generator())
    mean, deviation = model.encode_images(pixels)
    torch.testing.assert_close(mean, expected)
    assert mean.shape == deviation.shape == (2, *model.latent_shape(32, 16)) == (2, 16, 8, 4)
    # A latent that is a deviation from its mean in the encoder's space is so in the network's, too.
    posterior = pipeline.vae.encode(pixels).latent_dist
    patches = pipeline._patchify_latents(posterior.mean + posterior.std)
    spread = (pipeline.vae.bn.running_var + pipeline.vae.config.batch_norm_eps).sqrt()
    moved = (patches - pipeline.vae.bn.running_mean[:, None, None]) / spread[:, None, None]
    torch.testing.assert_close(mean + deviation, moved)
    assert (model.resolution, model.size_multiple, model.image_scale) == (32, 4, 4)
    before = model.fingerprint
    assert before == load_model(str(folder), device="cpu").fingerprint
    model.vae.bn.running_mean += 1
    assert model.fingerprint != before


def test_all_512_tokens_of_a_prompt_are_encoded_as_in_diffusers():
    pipeline = build_flux2(tokens=4096)
    prompts = ["", "a cat", "a painting in the style of a red dog " * 3]
    expected, positions = pipeline.encode_prompt(prompts)
    model = Flux2Klein(pipeline, "f", device=CPU, dtype=torch.float32)
    together = model.encode_prompts(prompts).tensors
    assert together["hidden_states"].shape == (3, 512, 3 * WIDTH) and positions.shape == (3, 512, 4)
    torch.testing.assert_close(together["hidden_states"], expected)
    assert not model.is_truncated(prompts[2]) and model.is_truncated("a cat " * 300)
    assert len(model.text_encoder.layers) == 27  # the others are not kept


def test_a_round_trip_of_the_inversion(model):
    start = torch.randn(1, *model.latent_shape(32, 16), generator=torch.Generator().manual_seed(0))
    conditioning = model.encode_prompts(["a cat"])
    with torch.no_grad():
        *_, noise = invert(model, start, lambda x, time: model.predict(x, time, conditioning), 6, corrections=20)
        sampler = model.sampler(size=(8, 4))
        *_, again = denoise(sampler, noise, lambda x, time: model.predict(x, time, conditioning), 6)
    torch.testing.assert_close(again, start, rtol=1e-3, atol=1e-3)


def test_what_it_can_not_do_is_refused_in_a_line(folder, tmp_path):
    build_flux2(tmp_path / "fast", is_distilled=True)
    shutil.rmtree(tmp_path / "fast/transformer")  # the index tells, before weights are downloaded
    with pytest.raises(UcdError, match="fast is distilled: it has no unconditional score") as caught:
        load_model(str(tmp_path / "fast"), device="cpu")
    assert caught.value.hint == "use the base model: black-forest-labs/FLUX.2-klein-base-4B"
    pipeline = build_flux2(guidance_embeds=True)
    with pytest.raises(UcdError, match="f is distilled"):
        Flux2Klein(pipeline, "f", device=CPU, dtype=torch.float32)
    pipeline = build_flux2()
    pipeline.scheduler.register_to_config(time_shift_type="linear")
    with pytest.raises(UcdError, match="the schedule of f is shifted in an unknown way"):
        Flux2Klein(pipeline, "f", device=CPU, dtype=torch.float32)
    with pytest.raises(UcdError, match="no scheduler 'ddim'"):
        load_model(str(folder), device="cpu").sampler("ddim")
    assert load_model(str(folder), device="cpu", dtype=torch.float16).dtype == torch.bfloat16


# ---- the loss


def test_loss_and_gradients_equal_a_plain_implementation(model):
    """Eq. 11 in velocities, one score at a time, with the pipeline's networks."""
    generator = torch.Generator().manual_seed(2)
    concepts = Concepts({"text_encoder": learned()}, torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]]))
    objective = ComposedLoss(model, concepts, ("<t1>", "<t2>"), ["a photo of a {}"])
    batch = Batch(
        rows=torch.tensor([2, 0]),
        latents=torch.randn(2, 16, 8, 8, generator=generator),
        noise=torch.randn(2, 16, 8, 8, generator=generator),
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
        states, text_ids = pipeline.encode_prompt(prompt, max_sequence_length=TOKENS)
        image_ids = pipeline._prepare_latent_ids(noisy[None])
        arguments = {"timestep": share[None], "img_ids": image_ids, "txt_ids": text_ids, "return_dict": False}
        (packed,) = pipeline.transformer(pipeline._pack_latents(noisy[None]), states, **arguments)
        return pipeline._unpack_latents_with_ids(packed, image_ids)[0]

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
    return write_recipe(workplace / "f.yaml", folder)


def test_a_round_of_the_command_line(recipe, monkeypatch):
    def ucd(*arguments: str, device: bool = True) -> str:
        result = CliRunner().invoke(app, [*arguments, *(["--device", "cpu"] if device else [])])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert json.loads(ucd("train", "f.yaml", "--dry-run", "--json"))["memory"]["parameters"] > 10_000
    run = Run(recipe.parent / ucd("train", "f.yaml").strip())
    assert run.embeddings["text_encoder"].shape == (2, WIDTH) and run.recipe.sample.scheduler == "flow-euler"
    assert len(ucd("sample", "-c", "all").split()) == 2
    assert len(ucd("compose", "t1", "t2=-2", "-n", "2", "--corrector-steps", "1").split()) == 2
    assert_maps(ucd, run)
    assert len(json.loads(ucd("encode", "images/1.png", "--json"))["images"]) == 1
    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda *_: ColourScorer("CLIP", 0.3, 0.0))
    wanted = ("assignment", "clip", "composition")
    metrics = json.loads(ucd("evaluate", *(f"--metric={name}" for name in wanted), "--json"))["metrics"]
    assert set(metrics) == set(wanted)
    files = ucd("export", "--for", "comfyui", device=False).split()
    torch.testing.assert_close(load_file(files[0])["qwen3_4b"], run.embeddings["text_encoder"][:1])
    again = Run(recipe.parent / ucd("import", *files, "--model", run.recipe.model, device=False).strip())
    torch.testing.assert_close(again.embeddings, run.embeddings)


def embeddings_of(recipe, name: str, *settings: str, resume: bool = False):
    output = recipe.parent / name
    return train(load_recipe(recipe, settings), output=output, resume=resume, device="cpu", out=OUT).embeddings


def test_it_resumes_to_the_same_bits(recipe):
    whole = embeddings_of(recipe, "whole")
    embeddings_of(recipe, "part", "train.max_steps=1")
    torch.testing.assert_close(whole, embeddings_of(recipe, "part", resume=True), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("saving", ["train.gradient_checkpointing=true", "train.concept_checkpointing=true"])
def test_saving_memory_changes_nothing(recipe, saving):
    whole = embeddings_of(recipe, "whole")
    torch.testing.assert_close(whole, embeddings_of(recipe, "saving", saving), rtol=1e-4, atol=1e-5)


def test_concepts_after_the_text_encoder_are_refused(recipe):
    with pytest.raises(UcdError, match="takes no concepts at the output of its text encoder"):
        train(load_recipe(recipe, ["concepts.where=output"]), device="cpu", out=OUT)
