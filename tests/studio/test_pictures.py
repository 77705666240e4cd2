"""Pictures that come from the page: read as those of a folder are."""

from __future__ import annotations

import pytest
from PIL import Image

from concepts_cli.data.images import open_image
from concepts_cli.errors import UcdError
from concepts_cli.studio.pictures import from_data, to_data


def test_a_picture_from_the_page_is_read_like_a_file(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert from_data(to_data(clear)).tobytes() == open_image(tmp_path / "clear.png").tobytes()
    with pytest.raises(UcdError, match="can't be read as an image"):
        from_data("data:image/png;base64,AAAA")
