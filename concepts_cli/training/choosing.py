"""What a folder of images is trained with by default: the model that is at hand and fits the device."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from concepts_cli.models.device import chosen_device, half_precision
from concepts_cli.recipe import BUILT_IN, FOR_PHOTOGRAPHS
from concepts_cli.training.at_hand import cached_models


def at_hand(device: str | None) -> Callable[[str | None], dict[str, Any]]:
    """Settings for `choose_recipe` that depend on this machine, given the model that the user named, or None.

    A GPU gets a model of photographs: one that has been downloaded, or else the usual one, unless the hub is switched
    off. Without a GPU its steps would take minutes each, so that gets the built-in model. Raises UcdError for a missing
    device.
    """
    kind = chosen_device(device).type

    def settings(model: str | None) -> dict[str, Any]:
        chosen = model or (BUILT_IN if kind == "cpu" else _for_a_gpu())
        halved = kind == "cuda" and chosen != BUILT_IN
        return {"model": chosen} | ({"train.mixed_precision": half_precision()} if halved else {})

    return settings


def _for_a_gpu() -> str:
    cached = cached_models()
    if FOR_PHOTOGRAPHS in cached or not cached:
        offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
        return FOR_PHOTOGRAPHS if cached or not offline else BUILT_IN
    return cached[0]
