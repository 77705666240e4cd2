"""Logits of the classes asked for, and of no others."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from concepts_cli.errors import UcdError
from concepts_cli.recipe import load_recipe, shipped_recipes
from concepts_cli.scorers.resnet import _transform, imagenet_labels, load_built_in_resnet, load_resnet

CPU = torch.device("cpu")

# The paper's S1 to S4 by name, and by WordNet id.
NAMES = """
    geyser, chihuahua, chimpanzee, shopping cart, mosque, guinea pig, warplane, castle, llama, volcano,
    convertible, starfish, studio couch, African elephant, teddy, koala, ice bear, zebra, tiger, giant panda
"""
IDS = """
    n09288635 n02085620 n02481823 n04204347 n03788195 n02364673 n04552348 n02980441 n02437616 n09472597
    n03100240 n02317335 n04344873 n02504458 n04399382 n01882714 n02134084 n02391049 n02129604 n02510455
"""


def test_the_papers_classes_are_found_by_name_and_by_id():
    names = [name.strip() for name in NAMES.split(",")]
    assert imagenet_labels(names) == imagenet_labels(IDS.split())
    assert imagenet_labels(["geyser", "tiger", "giant panda"]) == [974, 292, 388]  # torchvision's numbers


@pytest.mark.parametrize("recipe", [name for name in shipped_recipes() if name.startswith("imagenet")])
def test_the_published_recipes_name_classes_that_there_are(recipe, monkeypatch):
    monkeypatch.setenv("UCD_DATA", "/data")
    settings = load_recipe(recipe).evaluate
    names = settings.resnet_class_names or settings.class_names
    assert len(set(imagenet_labels(names))) == 5


def test_a_synonym_and_a_word_of_one_label_are_enough():
    assert imagenet_labels(["Polar Bear", "couch"]) == imagenet_labels(["n02134084", "n04344873"])


def test_all_that_is_ambiguous_or_unknown_is_named_at_once():
    with pytest.raises(UcdError) as caught:
        imagenet_labels(["zebra", "elephant", "crane", "hourse", "mosqe"])
    message = caught.value.message
    assert "'elephant' fits 2 (Indian elephant n02504013, African elephant n02504458)" in message
    assert "'crane' fits 2" in message
    assert "'mosqe' fits none (did you mean mosque?)" in message
    assert "'hourse' fits none" in message and "zebra" not in message


def test_the_transform_is_torchvisions_centre_crop():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = transforms.Compose(
        [transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(mean=mean, std=std)]
    )
    for size in [(512, 512), (301, 224), (224, 225)]:
        image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8))
        torch.testing.assert_close(_transform((3, 224, 224), mean, std)(image), theirs(image))


def test_only_the_target_classes_are_scored(pictures, monkeypatch):
    def random_model(name, pretrained):
        torch.manual_seed(0)
        return create_model("test_resnet", num_classes=1000)

    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", random_model)
    scorer = load_resnet("resnet50.tv_in1k", CPU)
    scores = scorer.score(scorer.features(pictures), ["zebra", "geyser"])
    assert (scorer.name, scorer.threshold, scores.shape) == ("resnet50.tv_in1k", 10.0, (5, 2))
    image = scorer.transform(Image.open(pictures[4]))[None]
    torch.testing.assert_close(torch.tensor(scores[4]), scorer.model(image)[0, [340, 974]].detach())


def test_the_built_in_resnet_comes_from_its_folder(pictures, tmp_path):
    folder = tmp_path / "resnet"
    folder.mkdir()
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(model.half().state_dict(), folder / "model.safetensors")
    config = {"architecture": "test_resnet", "model_args": {"num_classes": 3}, "threshold": 1.5}
    config |= {"label_names": ["cat", "dog", "polar bear"]}
    config |= {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "config.json").write_text(json.dumps(config))
    scorer = load_built_in_resnet(CPU, tmp_path)
    scores = scorer.score(scorer.features(pictures), ["Polar bear", "cat"])
    assert (scorer.name, scorer.threshold, scores.shape) == ("built-in ResNet", 1.5, (5, 2))
    expected = model.float()(scorer.transform(Image.open(pictures[0]))[None])[0, [2, 0]]
    torch.testing.assert_close(torch.tensor(scores[0]), expected.detach())
    with pytest.raises(UcdError, match="no class horse") as caught:
        scorer.find_labels(["cat", "horse"])
    assert "cat, dog, polar bear" in caught.value.hint


def test_an_unknown_model_and_one_of_other_classes_are_refused():
    with pytest.raises(UcdError, match=r"no pretrained model 'resnet51\.tv_in1k'"):
        load_resnet("resnet51.tv_in1k", CPU)
    with pytest.raises(UcdError, match="21843 classes"):
        load_resnet("vit_base_patch16_224.augreg_in21k", CPU)
