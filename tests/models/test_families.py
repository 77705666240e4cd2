"""What README.md says of each family is what the family can do."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from concepts_cli.errors import UcdError
from concepts_cli.models import FAMILIES, load_model
from concepts_cli.models.unet_diffusion import UNetDiffusion
from tests.models.tiny_flux2 import build_flux2
from tests.models.tiny_t5 import build_if, build_pixart
from tests.models.tiny_xl import build_xl
from tests.models.tiny_z_image import build_z_image

README = Path(__file__).parents[2] / "README.md"
ROWS = {
    "StableDiffusionPipeline": "built-in, Stable Diffusion 1 and 2",
    "StableDiffusionXLPipeline": "Stable Diffusion XL",
    "ZImagePipeline": "Z-Image",
    "Flux2KleinPipeline": "FLUX.2-klein",
    "PixArtSigmaPipeline": "PixArt-Sigma and -Alpha, DeepFloyd IF",
    "PixArtAlphaPipeline": "PixArt-Sigma and -Alpha, DeepFloyd IF",
    "IFPipeline": "PixArt-Sigma and -Alpha, DeepFloyd IF",
}
BUILD = {
    "StableDiffusionXLPipeline": build_xl,
    "ZImagePipeline": build_z_image,
    "Flux2KleinPipeline": build_flux2,
    "PixArtSigmaPipeline": build_pixart,
    "PixArtAlphaPipeline": partial(build_pixart, kind="Alpha"),
    "IFPipeline": build_if,
}


def table() -> dict[str, dict[str, str]]:
    """The cells of the table of families, by row and column."""
    lines = README.read_text(encoding="utf-8").partition("### Which models")[2].strip().split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_every_family_has_a_row():
    assert set(ROWS) == set(FAMILIES) and list(table()) == list(dict.fromkeys(ROWS.values()))


@pytest.mark.parametrize("family", ROWS)
def test_heat_maps_and_single_files(family, tiny_folder, tmp_path):
    folder = tmp_path / "folder" if family in BUILD else tiny_folder
    if family in BUILD:
        BUILD[family](folder)
    model, row = load_model(str(folder), device="cpu"), table()[ROWS[family]]
    assert (row["visualize"] != "no") == (model.attention is not None)
    assert ("daam" in row["visualize"]) == isinstance(model, UNetDiffusion)
    assert (row["one file"] == "yes") == isinstance(model, UNetDiffusion)
    assert all(row[column] == "yes" for column in row if column not in ("family", "visualize", "one file"))


def test_one_file_of_another_family_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file(dict(build_z_image().transformer.state_dict()), tmp_path / "z.safetensors")
    with pytest.raises(UcdError, match="is not Stable Diffusion 1, 2 or XL in one file"):
        load_model(str(tmp_path / "z.safetensors"), device="cpu")
