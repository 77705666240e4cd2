"""The latents cache: drawn as the VAE would, found again, never trusted when damaged."""

from __future__ import annotations

import torch

from concepts_cli.data import latents as cache
from concepts_cli.data.images import find_images, open_image, read_images, to_pixels


def encode_all(model, records, mirrored=True):
    means, stds = zip(
        *cache.encode(model, records, resolution=32, resize="squash", mirrored=mirrored, batch_size=4), strict=True
    )
    return cache.Latents(torch.cat(means, dim=1), torch.cat(stds, dim=1))


def test_means_are_those_of_each_image_and_its_mirror(tiny_model, image_folder):
    records = read_images(find_images([image_folder]))
    latents = encode_all(tiny_model, records)
    assert latents.mean.shape == (2, 6, 4, 16, 16) and len(latents) == 6
    pixels = to_pixels(open_image(image_folder / "4.png"), 32)[None]
    torch.testing.assert_close(latents.mean[0, 4], tiny_model.encode_images(pixels)[0][0])
    torch.testing.assert_close(latents.mean[1, 4], tiny_model.encode_images(pixels.flip(-1))[0][0])


def test_draws_mirror_as_often_as_asked_and_follow_the_deviation():
    mean = torch.stack([torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)])
    latents = cache.Latents(mean, torch.zeros_like(mean))
    rows = torch.zeros(4000, dtype=torch.long)
    share = latents.draw(rows, 0.25, torch.Generator().manual_seed(0)).mean()
    assert abs(share - 0.25) < 0.03
    noisy = cache.Latents(torch.zeros(1, 1, 4, 8, 8), torch.full((1, 1, 4, 8, 8), 3.0))
    draw = noisy.draw(torch.zeros(50, dtype=torch.long), 0.5, torch.Generator().manual_seed(0))
    assert abs(draw.std() - 3) < 0.1


def test_the_cache_is_found_again_and_depends_on_everything(tiny_model, image_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UCD_CACHE", str(tmp_path / "cache"))
    records = read_images(find_images([image_folder]))
    how = {"resolution": 32, "resize": "squash", "mirrored": True}
    path = cache.cache_file(tiny_model, records, **how)
    assert cache.load_cached(path) is None
    latents = encode_all(tiny_model, records)
    cache.save_cached(path, latents)
    found = cache.load_cached(path)
    assert torch.equal(found.mean, latents.mean) and torch.equal(found.std, latents.std)
    others = {cache.cache_file(tiny_model, records[:-1], **how)}
    others |= {
        cache.cache_file(tiny_model, records, **(how | change))
        for change in ({"resolution": 64}, {"resize": "crop"}, {"mirrored": False})
    }
    assert len(others) == 4 and path not in others
    path.write_bytes(path.read_bytes()[:100])
    assert cache.load_cached(path) is None


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    cache.save_cached(tmp_path / "latents.safetensors", cache.Latents(torch.zeros(1), torch.zeros(1)))
    assert not any(tmp_path.iterdir())
