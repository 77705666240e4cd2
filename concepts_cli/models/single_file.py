"""Stable Diffusion 1, 2 and XL in one .safetensors file: which of them it is, and the configuration that it lacks.

A folder beside the file, of the same name without the suffix, may have that configuration: a diffusers pipeline without
its weights. Otherwise it is the published one. Nothing is downloaded.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from concepts_cli.errors import UcdError
from concepts_cli.models.layouts import (
    Layout,
    stable_diffusion_1,
    stable_diffusion_2,
    stable_diffusion_xl,
    write_layout,
)

SUFFIX = ".safetensors"
FIRST = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"  # in Stable Diffusion 1 alone
SECOND = "cond_stage_model.model.token_embedding.weight"  # in 2
LARGE = "conditioner.embedders.1.model.token_embedding.weight"  # in XL, but not in its refiner
INPUT = "model.diffusion_model.input_blocks.0.0.weight"  # (channels, inputs, 3, 3)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, by tensor. Raises OSError or ValueError for another file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length) if length < size else b"")
    if not isinstance(header, dict):
        raise ValueError("its header is not a mapping")
    return header


@lru_cache
def layout_folder(path: Path) -> Path:
    """The folder with the configuration of a model in one file.

    Raises UcdError for a file that is damaged or of another model, and for one whose configuration can't be known.
    """
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        return beside
    try:
        layout = _published(read_header(path), path)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise UcdError(f"{path} is damaged or incomplete", "restore or download the model again") from error
    folder = Path(tempfile.mkdtemp(prefix="ucd-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_layout(layout, folder)
    return folder


def _published(header: dict[str, Any], path: Path) -> Layout:
    said = header.get("__metadata__") or {}
    if header.get(INPUT, {"shape": [0, 4]})["shape"][1] != 4:
        raise UcdError(f"{path} is made for inpainting or editing", "give a plain text-to-image model")
    prediction = str(said.get("modelspec.prediction_type", ""))
    if "v_pred" in header:  # an empty tensor that says so, as some files have it
        prediction = "v"
    noise: dict[str, Any] = {"prediction_type": "v_prediction" if prediction.startswith("v") else "epsilon"}
    if "ztsnr" in header:
        noise |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if FIRST in header:
        return stable_diffusion_1(noise)
    if LARGE in header:
        return stable_diffusion_xl(noise)
    if SECOND not in header:
        raise UcdError(
            f"{path} is not Stable Diffusion 1, 2 or XL in one file", "give a whole model, or a folder that holds one"
        )
    if not prediction:
        raise UcdError(
            f"{path} doesn't say whether it predicts noise or velocity, as Stable Diffusion 2 may do either",
            f"put its diffusers configuration into {path.with_suffix('')}/, without the weights",
        )
    side = str(said.get("modelspec.resolution", "768x768" if prediction.startswith("v") else "512x512"))
    return stable_diffusion_2(noise, int(side.partition("x")[0]))
