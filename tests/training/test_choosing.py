"""What a folder of images is trained with where nobody says."""

from __future__ import annotations

import pytest
import torch

from concepts_cli.errors import UcdError
from concepts_cli.recipe import FOR_PHOTOGRAPHS, choose_recipe
from concepts_cli.training import choosing
from concepts_cli.training.choosing import at_hand


@pytest.fixture
def machine(monkeypatch):
    """A machine with such a device and such models."""

    def have(device: str, *models: str, offline: bool = False, half: str = "fp16"):
        monkeypatch.setattr(choosing, "half_precision", lambda: half)
        monkeypatch.setattr(choosing, "chosen_device", lambda name: torch.device(name or device))
        monkeypatch.setattr(choosing, "cached_models", lambda: list(models))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")

    return have


@pytest.mark.parametrize(
    ("device", "models", "offline", "chosen"),
    [
        ("cpu", [], False, "mini"),
        ("cpu", [FOR_PHOTOGRAPHS], False, "mini"),
        ("cuda", [], False, FOR_PHOTOGRAPHS),
        ("cuda", [], True, "mini"),
        ("cuda", ["a/sd", "b/sd"], True, "a/sd"),
        ("mps", ["a/sd", FOR_PHOTOGRAPHS], False, FOR_PHOTOGRAPHS),
    ],
)
def test_the_model_fits_the_device_and_is_at_hand(machine, device, models, offline, chosen):
    machine(device, *models, offline=offline)
    settings = at_hand(None)(None)
    assert settings["model"] == chosen
    assert ("train.mixed_precision" in settings) == (device == "cuda" and chosen != "mini")


def test_a_named_model_and_a_named_device_win(machine, image_folder):
    machine("cuda")
    assert at_hand(None)("x/y") == {"model": "x/y", "train.mixed_precision": "fp16"}
    assert at_hand("cpu")(None) == {"model": "mini"}
    machine("cuda", half="bf16")
    assert at_hand(None)("x/y") == {"model": "x/y", "train.mixed_precision": "bf16"}
    machine("cuda")
    recipe = choose_recipe(image_folder, ["model=x/y", "train.mixed_precision=no"], at_hand(None))
    assert (recipe.model, recipe.train.mixed_precision, recipe.preset) == ("x/y", "no", None)


def test_a_folder_gets_the_settings_that_suit_the_model(machine, image_folder):
    machine("cpu")
    here = choose_recipe(image_folder, (), at_hand(None))
    assert here == choose_recipe(image_folder, {"model": "mini"}) and here.concepts.start == "images"
    machine("cuda")
    there = choose_recipe(image_folder, (), at_hand(None))
    assert (there.model, there.preset, there.train.mixed_precision) == (FOR_PHOTOGRAPHS, None, "fp16")


def test_a_device_that_is_not_there_is_said_so():
    with pytest.raises(UcdError, match="no such device"):
        at_hand("gpu")
