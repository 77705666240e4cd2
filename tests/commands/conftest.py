from __future__ import annotations

import pytest

from tests.models.tiny_t5 import build_pixart
from tests.models.tiny_xl import build_xl
from tests.models.tiny_z_image import build_z_image

BUILD = {"xl": build_xl, "z-image": build_z_image, "pixart": build_pixart}


@pytest.fixture(params=["sd", *BUILD])
def model(request, tiny_folder, tmp_path):
    """The folder of a tiny model of each family."""
    if request.param == "sd":
        return tiny_folder
    BUILD[request.param](tmp_path / "model")
    return tmp_path / "model"
