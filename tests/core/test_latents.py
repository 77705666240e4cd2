"""The latents cache: drawn as the VAE would, found again, never trusted when damaged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from concepts_cli.core import latents as cache
from concepts_cli.data.finding import find_images
from concepts_cli.data.images import open_image, to_pixels
from concepts_cli.data.records import read_images
from concepts_cli.errors import UcdError

HOW = {"resolution": 32, "resize": "squash", "mirrored": True}


@pytest.fixture
def records(image_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UCD_CACHE", str(tmp_path / "cache"))
    return read_images(find_images([image_folder]))


def filled(model, records, **changes) -> cache.CachedLatents:
    latents = cache.CachedLatents(model, records, **(HOW | changes))
    list(latents.encode_missing(latents.missing(range(len(records))), batch_size=4))
    return latents


def test_moments_are_those_of_each_image_and_its_mirror(tiny_model, records, image_folder):
    latents = filled(tiny_model, records)
    assert len(latents) == 6
    pixels = to_pixels(open_image(image_folder / "4.png"), 32)[None]
    for mirrored, side in ((False, pixels), (True, pixels.flip(-1))):
        expected = [part[0] for part in tiny_model.encode_images(side)]
        torch.testing.assert_close(list(latents.moments(4, mirrored=mirrored)), expected)


def test_masks_are_resized_and_mirrored_as_their_images_are(tiny_model, records, tmp_path):
    white = torch.zeros(40, 48, dtype=torch.uint8)
    white[:, :12] = 255
    Image.fromarray(white.numpy()).save(tmp_path / "m.png")
    latents = filled(tiny_model, [replace(records[0], mask=str(tmp_path / "m.png"), mask_sha256="0" * 64), records[1]])
    assert latents.masked and not filled(tiny_model, records).masked
    assert latents.mask(1).shape == (1, 16, 16) and latents.mask(1).all()
    torch.testing.assert_close(latents.mask(0).mean(), torch.tensor(0.25), atol=0.01, rtol=0)
    assert latents.mask(0)[0, 0, 0] == 1 and latents.mask(0, mirrored=True)[0, 0, 0] == 0
    assert torch.equal(latents.mask(0, mirrored=True), latents.mask(0).flip(-1))


def test_later_runs_encode_only_what_is_new_to_them(tiny_model, records, monkeypatch):
    filled(tiny_model, records[:4])
    again = cache.CachedLatents(tiny_model, records[::-1], **HOW)
    assert again.missing(range(6)) == [0, 1]
    list(again.encode_missing([0, 1]))
    monkeypatch.setattr(cache, "encode", lambda *args, **how: pytest.fail("encoded again"))
    assert not filled(tiny_model, records).missing(range(6))
    torch.testing.assert_close(again.moments(5), filled(tiny_model, records).moments(0))


@pytest.mark.parametrize("change", [{"resolution": 64}, {"resize": "crop"}, {"mirrored": False}])
def test_what_was_made_otherwise_is_not_taken(tiny_model, records, change):
    filled(tiny_model, records)
    assert len(cache.CachedLatents(tiny_model, records, **(HOW | change)).missing(range(6))) == 6


def test_without_mirror_images_none_is_drawn(tiny_model, records):
    latents = filled(tiny_model, records, mirrored=False)
    assert torch.equal(latents.moments(1, mirrored=True)[0], latents.moments(1)[0])


def test_a_file_cut_short_is_made_anew_and_a_spoilt_one_is_named(tiny_model, records):
    latents = filled(tiny_model, records)
    files = sorted(latents.folder.rglob("*.safetensors"))
    assert len(files) == 6
    files[0].write_bytes(files[0].read_bytes()[:-10])
    assert len(cache.CachedLatents(tiny_model, records, **HOW).missing(range(6))) == 1
    assert not filled(tiny_model, records).missing(range(6))
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:8] + b"?" * (len(whole) - 8))
    spoilt = cache.CachedLatents(tiny_model, records, **HOW)
    with pytest.raises(UcdError, match=files[1].name):
        for row in range(6):
            spoilt.moments(row)


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(tiny_model, records, monkeypatch):
    from safetensors import SafetensorError

    expected = filled(tiny_model, records).moments(2)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setenv("UCD_CACHE", str(cache.cache_folder() / "other"))
    monkeypatch.setattr(cache, "save_file", full)
    latents = filled(tiny_model, records)
    torch.testing.assert_close(latents.moments(2), expected)
    assert not latents.missing(range(6)) and not any(path.is_file() for path in latents.folder.rglob("*"))


def test_two_runs_that_fill_it_at_once_leave_what_the_first_wrote(tiny_model, records):
    first, second = (cache.CachedLatents(tiny_model, records, **HOW) for _ in range(2))
    halfway = second.encode_missing(second.missing(range(6)), batch_size=3)
    next(halfway)
    list(first.encode_missing(first.missing(range(6)), batch_size=2))
    before = {path: path.stat().st_ino for path in first.folder.rglob("*.safetensors")}
    list(halfway)
    assert {path: path.stat().st_ino for path in first.folder.rglob("*") if path.is_file()} == before
