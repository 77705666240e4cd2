"""Masks beside images: white is what counts, at the latents' size, resized and mirrored as the image is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.data.finding import find
from concepts_cli.data.masks import latent_mask
from concepts_cli.data.records import read_images
from concepts_cli.data.source import Fields
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from tests.data.pictures import picture

MASKS = Fields(masks="-mask.png")


def mask(path, size=(8, 4), left: int = 255, right: int = 0, mode: str = "L"):
    values = np.full((size[1], size[0]), right, np.uint8)
    values[:, : size[0] // 2] = left
    Image.fromarray(values).convert(mode).save(path)
    return path


def test_a_mask_belongs_to_its_image_and_is_none_itself(tmp_path):
    for name in "ab":
        picture(tmp_path / f"{name}.jpg")
        mask(tmp_path / f"{name}-mask.png")
    records = read_images(find([tmp_path], MASKS))
    assert [record.path[-5:] for record in records] == ["a.jpg", "b.jpg"]
    assert all(record.mask.endswith("-mask.png") and len(record.mask_sha256) == 64 for record in records)
    assert len(read_images(find([tmp_path]))) == 4  # without the setting they are images like any other


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_white_is_inside_and_grey_counts_in_part(tmp_path, mode):
    path = mask(tmp_path / "m.png", (64, 32), mode=mode)
    halves = torch.tensor([[[1.0, 1.0, 0.0, 0.0]] * 4])
    torch.testing.assert_close(latent_mask(path, (4, 4), 32, "squash", 1), halves, atol=0.02, rtol=0)
    assert latent_mask(path, (8, 8), 32, "crop", 1)[0, :, 0].tolist() == [1.0] * 8
    assert latent_mask(path, (6, 11), 32, "bucket", 2).shape == (1, 6, 11)
    grey = mask(tmp_path / "g.png", (8, 8), left=102, right=102)
    torch.testing.assert_close(latent_mask(grey, (2, 2), 8, "squash", 1), torch.full((1, 2, 2), 0.4))


def test_what_is_transparent_is_outside(tmp_path):
    values = np.full((8, 8, 4), 255, np.uint8)
    values[:, 4:, 3] = 0
    Image.fromarray(values).save(tmp_path / "m.png")
    assert latent_mask(tmp_path / "m.png", (2, 2), 8, "squash", 1).tolist() == [[[1.0, 0.0], [1.0, 0.0]]]


def test_a_mask_is_turned_upright_with_its_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "a.jpg", (8, 4), exif=exif)
    mask(tmp_path / "a-mask.png", (4, 8))
    assert read_images(find([tmp_path], MASKS))[0].width == 4


def test_a_mask_that_is_black_all_over_is_refused(tmp_path):
    with pytest.raises(UcdError, match=r"m\.png is black all over") as caught:
        latent_mask(mask(tmp_path / "m.png", left=0), (2, 2), 8, "squash", 1)
    assert "white is what counts" in caught.value.hint


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, r"no mask of a\.png: .*a-mask\.png is missing"),
        (lambda path: mask(path, (4, 8)), r"the mask .*a-mask\.png has 4 x 8 px, and its image 8 x 4"),
        (lambda path: path.write_text("no mask"), r"the mask is not a readable image: .*a-mask\.png"),
        (lambda path: path.mkdir(), r"a-mask\.png is missing"),
    ],
)
def test_a_mask_that_does_not_fit_is_named_and_its_image_can_be_skipped(tmp_path, make, problem, capsys):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    mask(tmp_path / "b-mask.png")
    make(tmp_path / "a-mask.png")
    found = find([tmp_path], MASKS)
    with pytest.raises(UcdError, match=problem) as caught:
        read_images(found)
    assert caught.value.hint
    assert [record.path[-5:] for record in read_images(found, skip_broken=True, out=Output())] == ["b.png"]
    assert "skipping 1 of 2 images" in capsys.readouterr().err


def test_masks_in_a_column_of_a_list(tmp_path):
    picture(tmp_path / "a.png")
    mask(tmp_path / "m.png")
    (tmp_path / "list.csv").write_text("path,cut\na.png,m.png\na.png,\na.png,gone.png\n")
    first, second, third = find([tmp_path / "list.csv"], Fields(masks="cut"))
    assert first.mask == tmp_path / "m.png"
    assert "cut is missing" in second.problem.message and "no such mask: gone.png" in third.problem.message
