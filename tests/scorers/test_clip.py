"""Similarities of pictures and captions, on open_clip models made on the spot."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from concepts_cli.errors import UcdError
from concepts_cli.mini.tokenizer import build_tokenizer
from concepts_cli.scorers.clip import load_built_in_clip, load_clip

CPU = torch.device("cpu")


def save_clip(folder, vocabulary=49408, length=77, **extra):
    """A random open_clip model in open_clip's own layout."""
    folder.mkdir()
    torch.manual_seed(0)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": length, "vocab_size": vocabulary, "width": 16, "heads": 2, "layers": 1},
    }
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    document = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}, **extra}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return folder


def plain_similarity(scorer, path, caption):
    image = scorer.model.encode_image(scorer.transform(Image.open(path).convert("RGB"))[None])[0]
    text = scorer.model.encode_text(scorer.tokenize([caption]))[0]
    return (image @ text / image.norm() / text.norm()).item()


def test_a_folder_of_open_clips_is_scored_with_the_published_caption(pictures, tmp_path):
    scorer = load_clip(str(save_clip(tmp_path / "clip")), "", CPU)
    scores = scorer.score(scorer.features(pictures), ["zebra", "ice bear"])
    assert scores.shape == (5, 2) and scorer.threshold == 0.3
    assert np.abs(scores).max() <= 1
    scorer.check(["anything at all"])
    many = [f"thing {n}" for n in range(150)]  # more captions than fit a batch
    np.testing.assert_allclose(
        scorer.score(scorer.features(pictures), many)[:, 140],
        scorer.score(scorer.features(pictures), ["thing 140"])[:, 0],
        atol=1e-5,
    )
    assert scores[3, 1] == pytest.approx(plain_similarity(scorer, pictures[3], "a photo of ice bear"), abs=1e-5)


def test_the_built_in_clip_has_its_own_words_and_threshold(pictures, tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    save_clip(tmp_path / "clip", vocabulary=len(tokenizer), length=16, threshold=0.62)
    scorer = load_built_in_clip(CPU, tmp_path)
    scorer.check(["panda", "teddy bear"])
    scores = scorer.score(scorer.features(pictures), ["panda", "teddy bear"])
    assert (scorer.name, scorer.threshold) == ("built-in CLIP", 0.62)
    assert scores[0, 1] == pytest.approx(plain_similarity(scorer, pictures[0], "a photo of teddy bear"), abs=1e-5)
    with pytest.raises(UcdError, match=r"never saw giraffe, koalla$") as caught:
        scorer.check(["panda", "giraffe", "koalla"])
    assert "koala" in caught.value.hint


def test_openais_weights_get_openais_activation(monkeypatch):
    asked = {}

    def create(name, **options):
        asked.update(options)
        raise RuntimeError("Failed to download weights\nand so on")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(UcdError, match=r"CLIP ViT-B-32 \(openai\) could not be loaded: Failed to download weights$"):
        load_clip("ViT-B-32", "openai", CPU)
    assert asked["force_quick_gelu"] is True
    with pytest.raises(UcdError):
        load_clip("ViT-B-32", "laion2b_s34b_b79k", CPU)
    assert asked["force_quick_gelu"] is False


def test_what_open_clip_does_not_have_is_named(tmp_path):
    with pytest.raises(UcdError, match="no model 'ViT-B32'") as caught:
        load_clip("ViT-B32", "openai", CPU)
    assert "ViT-B-32" in caught.value.hint
    with pytest.raises(UcdError, match="no weights 'openia'"):
        load_clip("ViT-B-32", "openia", CPU)
    with pytest.raises(UcdError, match=r"is not an open_clip model: it has no open_clip_config\.json"):
        load_clip(str(tmp_path), "openai", CPU)
