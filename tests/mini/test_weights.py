"""The shipped weights: they load with other people's loaders, know what they were trained on, and draw."""

import json

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from sklearn.metrics import average_precision_score
from transformers import AutoTokenizer

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.captions import CLASSES, VOCABULARY, words
from concepts_cli.mini.tokenizer import MAX_TOKENS, build_tokenizer, tokenize
from concepts_cli.mini.workshop.measure import held_out_scenes, load_clip, load_reader, objects_in, stacked
from concepts_cli.mini.workshop.nothing import KINDS, draw_nothing
from concepts_cli.mini.workshop.train_autoencoder import pixels
from concepts_cli.mini.workshop.train_clip import build_clip, text_encoder, zero_shot
from concepts_cli.mini.workshop.train_reader import read


@pytest.fixture(scope="module")
def pipeline():
    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def unseen():
    return held_out_scenes(150, first=5 * 10**6)


def test_samples_alike_from_the_same_seed(pipeline):
    def sample():
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 3, "generator": generator, "output_type": "np"}
        return pipeline("a photo of a panda on blue", height=64, width=64, **options).images[0]

    image = sample()
    assert image.shape == (64, 64, 3) and image.std() > 0.02
    np.testing.assert_array_equal(image, sample())


def test_knows_its_size_without_being_told(pipeline):
    assert pipeline("a dog", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)


@torch.inference_mode()
def test_autoencoder_gives_pictures_back(pipeline, unseen):
    images = pixels(stacked(unseen))
    latents = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert latents.shape[1:] == (4, 16, 16)
    assert latents.std() == pytest.approx(1, abs=0.25)
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    assert (decoded - images).square().mean() < 0.025


def test_tokenizer_knows_the_words_of_the_corpus(pipeline):
    tokenizer = pipeline.tokenizer
    assert tokenizer.model_max_length == MAX_TOKENS
    assert [word for word in words() if len(tokenizer(word).input_ids) != 3] == []
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()  # what the weights were trained with
    assert (
        tokenizer.decode(tokenizer("unheard-of ï!").input_ids, skip_special_tokens=True).replace(" ", "")
        == "unheard-ofï!"
    )


def test_takes_new_words(pipeline):
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    assert tokenizer.add_tokens("<t1>") == 1
    ids = tokenizer("a photo of a <t1>, on blue", return_tensors="pt").input_ids
    assert (ids == len(tokenizer) - 1).sum() == 1
    encoder = text_encoder(build_clip())
    encoder.resize_token_embeddings(len(tokenizer))
    # A new word has a higher number than the end token: the end must still be found.
    output = encoder(ids)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, -1])


@torch.inference_mode()
def test_text_encoder_is_the_clips_text_tower():
    clip = build_clip().eval()
    ids = tokenize(["a dog and a teddy bear on yellow at night", ""])
    embedded = clip.token_embedding(ids) + clip.positional_embedding
    expected = clip.ln_final(clip.transformer(embedded, attn_mask=clip.attn_mask))
    torch.testing.assert_close(text_encoder(clip)(ids).last_hidden_state, expected)


@torch.inference_mode()
def test_clip_loads_as_any_open_clip_model(unseen):
    name = f"local-dir:{WEIGHTS / 'clip'}"
    clip, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    clip.eval()
    ids = tokenizer([f"a photo of {label}" for label in CLASSES])
    assert ids.shape == (24, MAX_TOKENS)
    torch.testing.assert_close(ids, tokenize([f"a photo of {label}" for label in CLASSES]))
    images, there = stacked(unseen), objects_in(unseen)
    pictures = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    torch.testing.assert_close(pictures, pixels(images))
    scores = clip.encode_image(pictures, normalize=True) @ clip.encode_text(ids, normalize=True).T
    assert average_precision_score(there, scores, average="micro") >= 0.8


def test_reader_tells_what_is_in_unseen_scenes(unseen):
    reader, limit = load_reader(WEIGHTS)
    there = objects_in(unseen)
    logits = read(reader, stacked(unseen))[:, : len(CLASSES)]
    assert average_precision_score(there, logits, average="micro") >= 0.9
    assert (logits[there] >= limit).float().mean() >= 0.9


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_judges_say_when_there_is_nothing(pipeline, unseen, kind):
    nothing = draw_nothing(kind, 300, pipeline.vae, stacked(unseen), torch.Generator().manual_seed(3))
    reader, limit = load_reader(WEIGHTS)
    assert (read(reader, nothing)[:, : len(CLASSES)] >= limit).any(dim=1).float().mean() <= 0.01
    limit = json.loads((WEIGHTS / "clip" / "open_clip_config.json").read_text())["threshold"]
    assert (zero_shot(load_clip(WEIGHTS), nothing) >= limit).any(dim=1).float().mean() <= 0.01


def test_scorers_tell_their_threshold_and_labels():
    resnet = json.loads((WEIGHTS / "resnet" / "config.json").read_text())
    clip = json.loads((WEIGHTS / "clip" / "open_clip_config.json").read_text())
    assert tuple(resnet["label_names"]) == VOCABULARY
    assert -3 < resnet["threshold"] < 10 and 0.05 < clip["threshold"] < 1


def test_ships_small():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".part")]
    assert sum(path.stat().st_size for path in files) < 24e6
