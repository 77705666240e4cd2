"""Images of every kind, and none."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from concepts_cli.data.finding import find, find_images
from concepts_cli.data.images import centre_square, open_image, to_image, to_pixels
from concepts_cli.data.records import read_images
from concepts_cli.errors import UcdError


def test_folders_are_searched_to_the_bottom_in_order(tmp_path):
    for name in ("b/2.PNG", "a/1.png", "b/deep/3.webp", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".txt":
            Image.new("RGB", (4, 4)).save(path, format=path.suffix[1:].upper())
        else:
            path.write_text("not an image")
    assert [p.name for p in find_images([tmp_path])] == ["1.png", "2.PNG", "3.webp"]
    assert [image.path.name for image in find([tmp_path / "b", tmp_path / "a"], most=1)] == ["2.PNG", "1.png"]


def test_missing_and_empty_places_are_named(tmp_path):
    with pytest.raises(UcdError, match="nowhere"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(UcdError, match="no images in"):
        find_images([tmp_path])


def test_every_unreadable_file_is_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UcdError) as caught:
        read_images(find_images([tmp_path]))
    assert all(name in caught.value.message for name in ("empty.png", "text.jpg", "half.png"))
    assert "good.png" not in caught.value.message


def test_records_hold_hash_and_upright_size(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    (record,) = read_images([path])
    assert (record.width, record.height) == (4, 8)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "image.tiff"
    values = np.linspace(0, 255, 64).reshape(8, 8)
    if mode == "I;16":
        Image.fromarray((values * 257).astype(np.uint16)).save(path)
    else:
        Image.fromarray(values.astype(np.uint8)).convert(mode).save(path)
    image = open_image(path)
    assert image.mode == "RGB" and image.size == (8, 8)
    grey = np.asarray(image.convert("L")).astype(int)
    assert abs(grey[0, 0] - 0) < 30 and abs(grey[-1, -1] - 255) < 30


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_image(tmp_path / "clear.png")).min() == 255


def test_squash_keeps_everything_and_crop_the_middle():
    values = np.zeros((8, 24, 3), dtype=np.uint8)
    values[:, 8:16] = 255
    image = Image.fromarray(values)
    assert to_pixels(image, 8, "crop").min() > 0.5
    squashed = to_pixels(image, 8, "squash")
    assert squashed.shape == (3, 8, 8) and squashed[:, :, 0].max() < -0.5 and squashed[:, :, 4].min() > 0.5


@pytest.mark.parametrize("size", [(91, 40), (40, 91), (33, 32), (32, 32), (20, 17), (900, 9)])
def test_the_centre_square_is_that_of_torchvision(size):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    theirs = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32)])(image)
    ours = centre_square(image, 32)
    assert ours.size == (32, 32)
    np.testing.assert_allclose(np.asarray(ours, dtype=int), np.asarray(theirs, dtype=int), rtol=0, atol=1)


def test_pixels_and_back_is_the_same_picture():
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    back = to_image(to_pixels(Image.fromarray(values), 16) / 2 + 0.5)
    torch.testing.assert_close(torch.from_numpy(np.array(back)), torch.from_numpy(values))
