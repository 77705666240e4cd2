"""Places: boxes by name or by shares and mask images, as maps over latents of any size."""

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.core.places import NAMED, parse_place
from concepts_cli.errors import UcdError


def test_named_places_are_boxes():
    left = parse_place("left").shares(4, 6)
    torch.testing.assert_close(left, torch.tensor([1.0, 1, 1, 0, 0, 0]).expand(4, 6))
    assert parse_place(" Top ").shares(4, 2).tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    both = parse_place("left").shares(5, 7) + parse_place("right").shares(5, 7)
    torch.testing.assert_close(both, torch.ones(5, 7))  # a cell that is cut in two belongs to each by half


def test_corners_add_up_to_the_whole():
    corners = [name for name in NAMED if "-" in name]
    torch.testing.assert_close(sum(parse_place(name).shares(8, 8) for name in corners), torch.ones(8, 8))


def test_a_box_in_shares():
    shares = parse_place("0.25,0,1,0.5").shares(4, 4)
    assert shares.tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0] * 4, [0] * 4]
    assert parse_place("0,0,0.125,1").shares(1, 4).tolist() == [[0.5, 0, 0, 0]]


def test_a_mask_is_averaged_over_each_cell(tmp_path):
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:32, :16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    place = parse_place(str(tmp_path / "mask.png"))
    assert place.shares(2, 2).tolist() == [[0.5, 0], [0, 0]]
    assert not place.covers_everything
    Image.fromarray(mask.T.copy()).save(tmp_path / "mask.png")
    assert parse_place(str(tmp_path / "mask.png")).fingerprint != place.fingerprint
    assert str(tmp_path) not in place.fingerprint


def test_what_is_transparent_in_a_mask_is_outside(tmp_path):
    mask = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    assert parse_place(str(tmp_path / "mask.png")).shares(1, 2).tolist() == [[1, 0]]


def test_what_covers_everything(tmp_path):
    assert parse_place("0,0,1,1").covers_everything and not parse_place("left").covers_everything
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    assert parse_place(str(tmp_path / "white.png")).covers_everything


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lefft", "no such place"),
        ("0,0,2,1", "not a box"),
        ("0.5,0,0.5,1", "not a box"),
        ("0,0,x,1", "not a number"),
        ("nan,0,1,1", "not a box"),
        ("nowhere.png", "nowhere.png"),
        ("", "no such place"),
    ],
)
def test_mistakes_are_told(text, said):
    with pytest.raises(UcdError, match=said):
        parse_place(text)


def test_a_black_mask_is_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(UcdError, match="entirely black"):
        parse_place(str(tmp_path / "black.png"))


def test_a_near_miss_is_offered():
    with pytest.raises(UcdError) as error:
        parse_place("lefft")
    assert "left" in error.value.hint
