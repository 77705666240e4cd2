"""`train` on a tiny model: the run folder, resuming, refusing."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from concepts_cli.commands.train import plan, train
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run

QUIET = Output(quiet=True)


def run_recipe(recipe_file, *overrides, **options):
    return train(load_recipe(recipe_file, overrides), device="cpu", out=QUIET, **options)


def test_the_run_folder_holds_what_the_later_commands_need(tiny_run, recipe_file):
    path = tiny_run.path
    names = {p.relative_to(path).as_posix() for p in path.rglob("[!.]*") if p.is_file()}
    assert names == {
        "recipe.yaml",
        "concepts.safetensors",
        "weights.safetensors",
        "images.jsonl",
        "metrics.jsonl",
        "embeddings/t1.safetensors",
        "embeddings/t2.safetensors",
        "checkpoints/step-000003/state.safetensors",
    }
    sampler = "sample.scheduler=ddim"  # the model's own, by name
    assert load_recipe(path / "recipe.yaml") == load_recipe(recipe_file, [sampler])
    assert tiny_run.tokens == ("<t1>", "<t2>")
    assert tiny_run.embeddings["text_encoder"].shape == (2, 32) and tiny_run.weights.shape == (6, 2)
    assert [record.path.rsplit("/", 1)[1] for record in tiny_run.images] == [f"{n}.png" for n in range(6)]
    assert (tiny_run.images[0].width, tiny_run.images[0].height) == (48, 40)
    with safe_open(path / "concepts.safetensors", "pt") as file:
        assert {"tokens", "model", "ucd", "torch", "diffusers"} <= set(file.metadata())
    steps = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [step["number"] for step in steps] == [1, 2, 3]
    assert not torch.equal(tiny_run.weights, torch.ones(6, 2))


def test_the_first_and_the_last_step_are_logged(workplace, recipe_file):
    run = run_recipe(recipe_file, "train.log_every=2")
    assert [json.loads(line)["number"] for line in (run.path / "metrics.jsonl").open()] == [1, 2, 3]


def test_each_embedding_file_loads_in_diffusers(tiny_run, tiny_folder):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    pipeline.load_textual_inversion(tiny_run.path / "embeddings" / "t2.safetensors")
    token_id = pipeline.tokenizer.convert_tokens_to_ids("<t2>")
    loaded = pipeline.text_encoder.get_input_embeddings().weight[token_id]
    torch.testing.assert_close(loaded.detach(), tiny_run.embeddings["text_encoder"][1])


def test_the_same_seed_gives_the_same_run_and_another_seed_another(workplace, recipe_file):
    first, again = run_recipe(recipe_file), run_recipe(recipe_file)
    other = run_recipe(recipe_file, "train.seed=1")
    assert (first.path.name, again.path.name) == ("tiny", "tiny-2")
    torch.testing.assert_close(first.embeddings, again.embeddings, rtol=0, atol=0)
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.embeddings["text_encoder"], other.embeddings["text_encoder"])


def test_a_resumed_run_ends_bit_identical_to_one_that_never_stopped(workplace, recipe_file):
    whole = run_recipe(recipe_file, "train.max_steps=5")
    part = run_recipe(recipe_file, "train.max_steps=2", output=workplace / "part")
    resumed = run_recipe(recipe_file, "train.max_steps=5", output=part.path, resume=True)
    torch.testing.assert_close(whole.embeddings, resumed.embeddings, rtol=0, atol=0)
    assert torch.equal(whole.weights, resumed.weights)
    assert (whole.path / "metrics.jsonl").read_text() == (resumed.path / "metrics.jsonl").read_text()
    assert [p.name for p in resumed.checkpoints()] == ["step-000005"]
    states = [load_file(run.path / "checkpoints/step-000005/state.safetensors") for run in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_interrupt_finishes_the_step_writes_a_checkpoint_and_can_be_resumed(workplace, recipe_file):
    import os
    import signal

    class Interrupting(Output):
        def track(self, steps, **options):
            for step in steps:
                if options["label"] == "discovering" and step.number == 2:  # after the step: the next is the last
                    os.kill(os.getpid(), signal.SIGINT)
                yield step

    recipe = load_recipe(recipe_file, ["train.max_steps=5"])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, output=workplace / "cut", device="cpu", out=Interrupting(quiet=True))
    assert [p.name for p in (workplace / "cut" / "checkpoints").iterdir()] == ["step-000003"]
    assert not (workplace / "cut" / "concepts.safetensors").exists()
    resumed = train(recipe, output=workplace / "cut", resume=True, device="cpu", out=QUIET)
    whole = train(recipe, device="cpu", out=QUIET)
    assert torch.equal(whole.embeddings["text_encoder"], resumed.embeddings["text_encoder"])


def test_labels_and_photographs_that_do_not_suit_are_warned_of_before_the_work(
    workplace, recipe_file, image_folder, capsys
):
    assert plan(load_recipe(recipe_file), device="cpu", out=Output()).images == 6
    assert capsys.readouterr().err == ""
    (image_folder / "0.png").rename(image_folder / "new.png")
    plan(load_recipe(recipe_file, ["model=mini"]), device="cpu", out=Output())
    photographs, labels = capsys.readouterr().err.splitlines()
    assert photographs.startswith("warning: these look like photographs, and the built-in model only knows drawings of")
    assert "no classes for 1 of 6 images: new.png: `ucd evaluate` can't use these labels" in labels


def test_a_checkpoint_is_due_after_a_while_whatever_the_steps(workplace, recipe_file, monkeypatch):
    saved = []
    monkeypatch.setattr("concepts_cli.commands.train.SAVE_SECONDS", 0)
    monkeypatch.setattr(Run, "save_checkpoint", lambda self, step, state, keep: saved.append(step))
    run_recipe(recipe_file)
    assert saved == [1, 2, 3]


def test_a_resume_with_other_images_is_refused_by_name(workplace, recipe_file, image_folder):
    run = run_recipe(recipe_file)
    (image_folder / "3.png").write_bytes((image_folder / "4.png").read_bytes())
    with pytest.raises(UcdError, match=r"3\.png"):
        run_recipe(recipe_file, output=run.path, resume=True)
    (image_folder / "3.png").unlink()
    with pytest.raises(UcdError, match=r"3\.png"):
        run_recipe(recipe_file, output=run.path, resume=True)


def test_a_resume_knows_its_images_when_they_were_moved_and_renamed(workplace, recipe_file, image_folder):
    whole = run_recipe(recipe_file, "train.max_steps=5")
    part = run_recipe(recipe_file, "train.max_steps=2", output=workplace / "part")
    for n in range(6):
        (image_folder / f"{n}.png").rename(image_folder / f"new-{5 - n}.png")
    moved = image_folder.rename(workplace / "elsewhere")
    changes = ("train.max_steps=5", f"data.images={moved}")
    resumed = run_recipe(recipe_file, *changes, output=part.path, resume=True)
    torch.testing.assert_close(whole.embeddings, resumed.embeddings, rtol=0, atol=0)
    assert torch.equal(whole.weights, resumed.weights)
    assert [record.path.rsplit("/", 1)[1] for record in resumed.images] == [f"new-{n}.png" for n in (5, 4, 3, 2, 1, 0)]


def test_a_folder_that_holds_something_is_not_written_to(workplace, recipe_file):
    (workplace / "mine").mkdir()
    (workplace / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UcdError, match="not empty"):
        run_recipe(recipe_file, output=workplace / "mine")
    with pytest.raises(UcdError, match="is not a folder"):
        run_recipe(recipe_file, output=workplace / "mine" / "thesis.txt")


def test_plan_counts_steps_as_images_times_iterations(workplace, recipe_file):
    recipe = load_recipe(recipe_file)
    recipe = dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, max_steps=None, iterations_per_image=7)
    )
    planned = plan(recipe)
    assert (planned.images, planned.concepts, planned.steps, planned.images_per_step) == (6, 2, 42, 4)
    assert not (workplace / "runs").exists()


def test_fp16_on_a_cpu_is_refused_and_so_is_its_dry_run(workplace, recipe_file):
    recipe = load_recipe(recipe_file, ["train.mixed_precision=fp16"])
    for refuse in (lambda: plan(recipe, device="cpu"), lambda: train(recipe, device="cpu", out=QUIET)):
        with pytest.raises(UcdError, match="fp16 needs a GPU"):
            refuse()
    assert not (workplace / "runs").exists()


def test_weights_that_are_not_trained_stay_and_softmax_weights_sum_to_one(workplace, recipe_file):
    frozen = run_recipe(recipe_file, "weights.trained=false", "weights.initial=0.2")
    torch.testing.assert_close(frozen.weights, torch.full((6, 2), 0.2))
    softmax = run_recipe(recipe_file, "weights.constraint=softmax")
    torch.testing.assert_close(softmax.weights.sum(1), torch.ones(6))


def test_all_images_may_share_their_weights(workplace, recipe_file):
    run = run_recipe(recipe_file, "weights.per_image=false")
    assert run.weights.shape == (6, 2) and (run.weights == run.weights[0]).all() and (run.weights != 1).all()


@pytest.mark.parametrize("method", ["textual-inversion", "ti-kmeans", "ti-clip-kmeans"])
def test_a_baseline_makes_a_run_like_any_other(workplace, recipe_file, image_folder, method, monkeypatch):
    """Three pictures are red and three blue, which any clustering tells apart."""
    from concepts_cli.scorers.clip import load_built_in_clip

    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda *given: load_built_in_clip(given[-1]))
    for n in range(6):
        Image.new("RGB", (40, 40), (200 + n, 0, 0) if n % 2 else (0, 0, 200 + n)).save(image_folder / f"{n}.png")
    run = run_recipe(recipe_file, f"train.method={method}", "train.max_steps=2")
    assert run.tokens == ("<t1>", "<t2>") and run.embeddings["text_encoder"].isfinite().all()
    if method == "textual-inversion":
        torch.testing.assert_close(run.weights, torch.full((6, 2), 0.5))
    else:
        assert (run.weights[0::2] == run.weights[0]).all() and (run.weights[1::2] == 1 - run.weights[0]).all()
        assert sorted(run.weights[0].tolist()) == [0, 1]


def test_more_clusters_than_images_are_refused(workplace, recipe_file):
    with pytest.raises(UcdError, match="6 images can't make 7 clusters"):
        run_recipe(recipe_file, "train.method=ti-kmeans", "concepts.count=7")
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    "change",
    [
        "regularizers.score_similarity=0.1",
        "regularizers.token_repulsion=0.1",
        "train.gradient_checkpointing=true",
        "train.concept_checkpointing=true",
        "train.tf32=true",
        "weights.update=seen",
        "weights.composition=mean",
        "concepts.unit_norm=true",
    ],
)
def test_options_of_the_loop_are_taken_and_resume_exactly(workplace, recipe_file, change):
    try:
        whole = run_recipe(recipe_file, change, "train.max_steps=4")
        part = run_recipe(recipe_file, change, "train.max_steps=2", output=workplace / "part")
        resumed = run_recipe(recipe_file, change, "train.max_steps=4", output=part.path, resume=True)
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(whole.embeddings, resumed.embeddings, rtol=0, atol=0)
    assert torch.equal(whole.weights, resumed.weights)
    line = json.loads((whole.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"number", "loss", "learning_rate"} <= set(line)
    assert ("mse" in line) == change.startswith("regularizers")


def test_a_run_that_has_settled_is_finished_and_stays_so(workplace, recipe_file):
    settings = ("train.patience=2", "train.max_steps=50", "train.learning_rate=1e-9")
    run = run_recipe(recipe_file, *settings)
    assert run.is_finished() and [path.name for path in run.checkpoints()] == ["step-000002"]
    again = run_recipe(recipe_file, *settings, output=run.path, resume=True)
    assert torch.equal(run.embeddings["text_encoder"], again.embeddings["text_encoder"])


def test_a_compiled_model_trains_alike(workplace, recipe_file, monkeypatch):
    """Traced by torch.compile and run as traced; its usual backend takes minutes to build code for a CPU."""
    traced = []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    plain, compiled = run_recipe(recipe_file), run_recipe(recipe_file, "train.compile=true")
    torch.testing.assert_close(compiled.embeddings, plain.embeddings, rtol=1e-4, atol=1e-6)
    assert traced


def test_a_diverging_loss_stops_with_a_hint_and_status_1(workplace, recipe_file, infinite_loss):
    with pytest.raises(UcdError, match="loss is") as caught:
        run_recipe(recipe_file)
    assert caught.value.exit_code == 1 and "learning_rate" in caught.value.hint


def test_previews_show_every_concept(workplace, recipe_file):
    from PIL import Image

    run = run_recipe(recipe_file, "train.preview_every=3", "train.preview_images=2")
    with Image.open(run.path / "previews" / "step-000003.png") as sheet:
        assert sheet.width > 2 * 112 and sheet.height > 2 * 112


def test_force_starts_over_and_leaves_what_is_not_ours(workplace, recipe_file):
    first = run_recipe(recipe_file)
    (first.path / "samples").mkdir()
    (first.path / "notes.txt").write_text("mine")
    again = run_recipe(recipe_file, force=True)
    assert again.path == first.path and not (again.path / "samples").exists()
    assert (again.path / "notes.txt").read_text() == "mine" and len(again.checkpoints()) == 1


def test_trainings_that_start_at_once_get_a_folder_each(workplace, recipe_file, monkeypatch):
    """The other one makes its folder between our look at what is free and our taking it."""
    import concepts_cli.runs.training_folder as places

    look, taken = places._choose, []

    def overtaken(*args, **options):
        run = look(*args, **options)
        if len(taken) == 1:
            run.path.mkdir(parents=True)
        taken.append(run.name)
        return run

    monkeypatch.setattr(places, "_choose", overtaken)
    run = run_recipe(recipe_file)
    assert taken == ["tiny", "tiny", "tiny-2", "tiny-2"] and run.name == "tiny-2"
    assert not any((workplace / "runs" / "tiny").iterdir())


def test_a_resume_refuses_what_it_would_destroy(workplace, recipe_file, image_folder):
    import shutil

    with pytest.raises(UcdError, match="not a run"):
        run_recipe(recipe_file, output=image_folder, resume=True)
    run = run_recipe(recipe_file)
    with pytest.raises(UcdError, match="--force starts over"):
        run_recipe(recipe_file, output=run.path, resume=True, force=True)
    shutil.rmtree(run.path / "checkpoints")
    with pytest.raises(UcdError, match="no checkpoint"):
        run_recipe(recipe_file, output=run.path, resume=True)
    assert run.is_finished() and (run.path / "embeddings").is_dir()


def test_a_damaged_checkpoint_is_said_so_and_a_cut_line_of_metrics_is_forgotten(workplace, recipe_file):
    run = run_recipe(recipe_file)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"number": 4, "lo')
    run_recipe(recipe_file, "train.max_steps=4", output=run.path, resume=True)
    assert [json.loads(line)["number"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]
    state = run.checkpoints()[-1] / "state.safetensors"
    whole = {name: tensor.clone() for name, tensor in load_file(state).items()}
    state.write_bytes(state.read_bytes()[:-8])
    with pytest.raises(UcdError, match="step-000004.state.safetensors is damaged"):
        run_recipe(recipe_file, output=run.path, resume=True)
    save_file({"step": whole["step"], "images": whole["images"]}, state)
    with pytest.raises(UcdError, match="lacks concepts.embeddings"):
        run_recipe(recipe_file, output=run.path, resume=True)


def test_concepts_can_have_names(recipe_file, workplace):
    names = ["concepts.tokens=[koala, <giant_panda>]"]
    run = run_recipe(recipe_file, *names)
    assert run.tokens == ("<koala>", "<giant_panda>")
    assert (run.path / "embeddings" / "giant_panda.safetensors").is_file()
    assert run.token("giant_panda") == "<giant_panda>"
    assert run.load_model("cpu").positions("a photo of <koala>", "<koala>") == [4]


def test_a_name_that_is_too_long_for_a_file_is_refused_before_training(recipe_file, workplace):
    with pytest.raises(UcdError, match=r"concepts\.tokens: xxx.* is too long"):
        plan(load_recipe(recipe_file, [f"concepts.tokens=[koala, {'x' * 200}]"]), device="cpu")


def test_the_next_images_of_each_folder(recipe_file, workplace):
    run = run_recipe(recipe_file, "data.skip_images=2", "data.images_per_folder=3", "train.max_steps=1")
    assert [record.path.rsplit("/", 1)[1] for record in run.images] == ["2.png", "3.png", "4.png"]
    with pytest.raises(UcdError, match="data.skip_images: 6 leaves none of the 6 images"):
        plan(load_recipe(recipe_file, ["data.skip_images=6"]), device="cpu")


def test_training_starts_from_another_runs_words_and_weights(tiny_run, recipe_file):
    start = [f"train.start_from={tiny_run.path}", "train.max_steps=1", "train.learning_rate=1e-9"]
    words = run_recipe(recipe_file, *start)
    torch.testing.assert_close(words.embeddings, tiny_run.embeddings, atol=1e-6, rtol=0)
    torch.testing.assert_close(words.weights, torch.ones(6, 2), atol=1e-6, rtol=0)
    more = ["data.skip_images=1", "train.start_from_weights=true"]
    both = run_recipe(recipe_file, *start, *more)
    torch.testing.assert_close(both.weights, tiny_run.weights[1:], atol=1e-6, rtol=0)
    soft = run_recipe(recipe_file, *start, "train.start_from_weights=true", "weights.constraint=softmax")
    clipped = tiny_run.weights.clamp_min(1e-6)
    torch.testing.assert_close(soft.weights, clipped / clipped.sum(dim=1, keepdim=True), atol=1e-5, rtol=0)


def test_names_go_along_and_a_resume_no_longer_needs_the_earlier_run(recipe_file, workplace):
    named = run_recipe(recipe_file, "concepts.tokens=[koala, panda]")
    start = (f"train.start_from={named.path}", "train.max_steps=2", "train.checkpoint_every=1")
    straight = run_recipe(recipe_file, *start, output=workplace / "straight")
    assert straight.tokens == named.tokens
    stopped = run_recipe(recipe_file, *start, "train.keep_checkpoints=9", output=workplace / "stopped")
    (stopped.path / "concepts.safetensors").unlink()
    for checkpoint in stopped.checkpoints()[1:]:
        (checkpoint / "state.safetensors").unlink()
    (named.path / "concepts.safetensors").unlink()
    recipe = load_recipe(recipe_file, start)
    assert plan(recipe, output=workplace / "stopped", resume=True, device="cpu").steps == 2
    with pytest.raises(UcdError, match="concepts.tokens: .* has other names"):
        run_recipe(recipe_file, *start, "concepts.tokens=[a, b]", output=workplace / "stopped", resume=True)
    resumed = run_recipe(recipe_file, *start, output=workplace / "stopped", resume=True)
    assert resumed.tokens == straight.tokens and torch.equal(resumed.weights, straight.weights)


def test_an_earlier_run_that_cannot_be_used_is_refused_at_once(tiny_run, recipe_file):
    def refused(*overrides) -> str:
        with pytest.raises(UcdError) as caught:
            plan(load_recipe(recipe_file, overrides), device="cpu")
        return f"{caught.value.message} {caught.value.hint}"

    start = f"train.start_from={tiny_run.path}"
    assert "no run at" in refused(f"train.start_from={tiny_run.path}-not-there")
    assert "has 2 concepts, concepts.count is 3 --set concepts.count=2" in refused(start, "concepts.count=3")
    other = {"data.images": ["other.png"]}
    Image.new("RGB", (40, 30)).save("other.png")
    strange = load_recipe(
        recipe_file, {"train.start_from": str(tiny_run.path), "train.start_from_weights": True} | other
    )
    with pytest.raises(UcdError, match="was trained on none of these images"):
        train(strange, device="cpu", out=QUIET)
    with pytest.raises(UcdError, match="have 32 dimensions, mini has 128"):
        run_recipe(recipe_file, start, "model=mini")
    (tiny_run.path / "weights.safetensors").unlink()
    assert "is missing" in refused(start, "train.start_from_weights=true")


def test_a_dry_run_knows_how_many_images_a_step_sees(recipe_file, workplace):
    for settings, expected in (([], 4), (["preset=paper"], 4), (["train.batch_size=8"], 16)):
        assert plan(load_recipe(recipe_file, settings), device="cpu").images_per_step == expected
    whole = load_recipe(recipe_file, ["train.batch_size=8", "train.epoch_ends_step=true"])
    assert plan(whole, device="cpu").images_per_step == 6


def test_a_dry_run_checks_the_words_to_start_from(recipe_file, workplace):
    plan(load_recipe(recipe_file, ["concepts.initial=dog"]), device="cpu")
    with pytest.raises(UcdError, match="concepts.initial: 'spaceship' is 8 tokens of this model"):
        plan(load_recipe(recipe_file, ["concepts.initial=spaceship"]), device="cpu")
    with pytest.raises(UcdError, match="concepts.initial: 'spaceship' is"):
        plan(load_recipe(recipe_file, ["concepts.initial=spaceship", "model=mini"]), device="cpu")


def test_the_revision_reaches_the_model(recipe_file, tiny_folder, workplace, monkeypatch):
    from concepts_cli import models

    load, asked = models.load_model, []

    def spy(name, *, revision=None, **how):
        asked.append((name, revision))
        return load(str(tiny_folder), **how)

    for module in ("concepts_cli.training.setup", "concepts_cli.commands.train", "concepts_cli.models"):
        monkeypatch.setattr(f"{module}.load_model", spy)
    own = ["model=somebody/model", "model_revision=v2", "train.preview_every=3", "sample.precision=bf16"]
    run = run_recipe(recipe_file, *own)
    run.load_model("cpu")
    assert asked == [("somebody/model", "v2")] * 4  # the training, two previews in another precision, and the run


def test_each_folder_is_described_by_its_property(recipe_file, image_folder, workplace):
    from concepts_cli.training.setup import (
        choose_accelerator,
        load_training_model,
        prepare_training,
        read_training_images,
    )

    places = [str(image_folder / f"{n}.png") for n in range(2)]
    recipe = load_recipe(recipe_file, {"data.images": places, "concepts.properties": ["style", "object"]})
    accelerator = choose_accelerator(recipe, "cpu")
    model = load_training_model(recipe, accelerator, QUIET)
    training = prepare_training(recipe, read_training_images(recipe), model, accelerator, QUIET)
    batch, templates = training.draws.batch(range(200)), recipe.concepts.templates()
    for row, word in enumerate(("style", "photo")):
        drawn = {templates[i] for i in batch.sentences[batch.rows == row].flatten().tolist()}
        assert len(drawn) > 10 and {word in template or "rend" in template for template in drawn} == {True}


def test_a_start_from_the_images_is_found_once(recipe_file, workplace, monkeypatch):
    own = ["concepts.start=images", "weights.constraint=softmax", "train.max_steps=2", "train.checkpoint_every=1"]
    run = run_recipe(recipe_file, *own, "train.keep_checkpoints=9")
    words, weights = run.embeddings["text_encoder"], run.weights
    assert set((weights > 0.5).sum(dim=1).tolist()) == {1}  # from 1 for the best word and 0 for the other
    (run.path / "concepts.safetensors").unlink()
    (run.checkpoints()[1] / "state.safetensors").unlink()
    monkeypatch.setattr("concepts_cli.training.setup.ImageStart", None)  # not called again
    resumed = run_recipe(recipe_file, *own, output=run.path, resume=True)
    assert torch.equal(resumed.embeddings["text_encoder"], words) and torch.equal(resumed.weights, weights)


def test_the_number_of_concepts_is_found_once(recipe_file, workplace, monkeypatch):
    own = ["concepts.start=images", "concepts.count=auto", "weights.constraint=softmax"]
    own += ["train.max_steps=2", "train.checkpoint_every=1"]
    run = run_recipe(recipe_file, *own, "concepts.count_at_most=4")
    count = len(run.tokens)
    assert 2 <= count <= 4 and run.recipe.concepts.count == count and run.weights.shape == (6, count)
    monkeypatch.setattr("concepts_cli.training.setup.ImageStart", None)  # not called again
    resumed = run_recipe(recipe_file, *own, "train.max_steps=3", output=run.path, resume=True)
    assert resumed.tokens == run.tokens
    continued = run_recipe(recipe_file, "concepts.count=auto", f"train.start_from={run.path}", output=workplace / "on")
    assert continued.tokens == run.tokens


def test_more_concepts_than_images_cannot_start_from_them(recipe_file, workplace):
    with pytest.raises(UcdError, match="6 images can't start 7 concepts"):
        run_recipe(recipe_file, "concepts.start=images", "concepts.count=7")
    with pytest.raises(UcdError, match="6 images can't start 7 concepts"):
        plan(load_recipe(recipe_file, ["concepts.start=images", "concepts.count=7"]), device="cpu")
