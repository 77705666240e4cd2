from __future__ import annotations

import pytest

from tests.models.tiny_xl import build_xl
from tests.models.tiny_z_image import build_z_image


@pytest.fixture(params=["sd", "xl", "z-image"])
def model(request, tiny_folder, tmp_path):
    """The folder of a tiny model of each family."""
    if request.param == "sd":
        return tiny_folder
    (build_xl if request.param == "xl" else build_z_image)(tmp_path / "model")
    return tmp_path / "model"
