"""The model family: loading, learned words, latents, refusals."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch

from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.models.stable_diffusion import StableDiffusion


def hidden(model, prompts) -> torch.Tensor:
    return model.encode_prompts(prompts).tensors["hidden_states"]


def test_learned_words_encode_as_a_resized_vocabulary_would(tiny_model, tiny_folder, tiny_v_folder):
    """The text encoder with our table in front equals one whose embedding was resized and overwritten, transformers'
    way.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = tiny_folder if tiny_model.noise.prediction == "epsilon" else tiny_v_folder
    embeddings = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    tiny_model.set_concepts(["<t1>", "<t2>", "<t3>"], {"text_encoder": embeddings})

    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    tokenizer.add_tokens(["<t1>", "<t2>", "<t3>"])
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoder.get_input_embeddings().weight.data[-3:] = embeddings

    prompts = ["a photo of a <t2>", "<t3> in the style of <t1>", "a photo of a cat", ""]
    ids = tokenizer(prompts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(hidden(tiny_model, prompts), encoder(ids)[0])


def test_concepts_can_be_set_again(tiny_model):
    first, second = torch.randn(2, 32), torch.randn(1, 32)
    tiny_model.set_concepts(["<t1>", "<t2>"], {"text_encoder": first})
    one = hidden(tiny_model, ["<t1>"])
    tiny_model.set_concepts(["<t2>"], {"text_encoder": first[:1]})
    torch.testing.assert_close(hidden(tiny_model, ["<t2>"]), one)
    tiny_model.set_concepts(["<t1>"], {"text_encoder": second})
    assert not torch.allclose(hidden(tiny_model, ["<t1>"]), one)


def test_a_word_that_the_vocabulary_has_is_no_name_for_a_concept(tiny_model):
    with pytest.raises(UcdError, match="already"):
        tiny_model.set_concepts(["cat</w>"], {"text_encoder": torch.zeros(1, 32)})


def test_token_positions_and_truncation(tiny_model):
    tiny_model.set_concepts(["<t1>"], {"text_encoder": torch.zeros(1, 32)})
    assert tiny_model.positions("a photo of a <t1>", "<t1>") == [5]
    assert tiny_model.positions("a cat of a cat", "cat") == [2, 5]
    assert tiny_model.positions("a photo", "dog") == []
    assert not tiny_model.is_truncated("a photo of a <t1>")
    assert tiny_model.is_truncated("a photo " * 20)


def test_latents_are_the_vaes_scaled(tiny_model):
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = tiny_model.encode_images(pixels)
    assert mean.shape == std.shape == (2, 4, 16, 16)
    assert tiny_model.latent_shape() == (4, 16, 16)
    posterior = tiny_model.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, posterior.mean * tiny_model.vae.config.scaling_factor)
    picture = tiny_model.decode(mean)
    assert picture.shape == (2, 3, 32, 32) and picture.min() >= 0 and picture.max() <= 1


def test_models_that_are_not_there_or_not_of_the_family_are_refused(tmp_path):
    for name in ("./nowhere", str(tmp_path)):
        with pytest.raises(UcdError):
            load_model(name, device="cpu")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UcdError, match="FluxPipeline"):
        load_model(str(tmp_path), device="cpu")
    (tmp_path / "model_index.json").write_text('{"_class')
    with pytest.raises(UcdError, match="damaged"):
        load_model(str(tmp_path), device="cpu")
    with pytest.raises(UcdError, match="could not be loaded"):
        load_model("somebody/no-such-model-on-the-hub", device="cpu")


def test_a_tokenizer_without_its_files_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    with pytest.raises(UcdError, match="tokenizer"):
        load_model(str(folder), device="cpu")


def test_a_tokenizer_that_does_not_say_its_length_has_the_text_encoders(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    assert load_model(str(folder), device="cpu").tokenize(["a cat"]).tensors["text_encoder"].shape == (1, 16)


def test_loading_raises_no_warning(tiny_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert load_model(str(tiny_folder), device="cpu", dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_devices_and_schedulers_that_do_not_exist_are_refused(tiny_folder, tiny_model):
    for device in ("gpu", "cuda:63"):
        with pytest.raises(UcdError):
            load_model(str(tiny_folder), device=device)
    with pytest.raises(UcdError, match="ddimm") as caught:
        tiny_model.sampler("ddimm")
    assert "ddim" in caught.value.hint


def test_a_table_may_have_more_rows_than_the_tokenizer_has_words(tiny_folder):
    """Learned words then have ids that lie in the table, and mean what was learned all the same."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer) + 20)
    wide = StableDiffusion(pipeline, "wide", device=torch.device("cpu"), dtype=torch.float32)
    plain = load_model(str(tiny_folder), device="cpu")
    learned = torch.randn(2, plain.text.table.shape[1])
    for model in (wide, plain):
        model.set_concepts(("<t1>", "<t2>"), {"text_encoder": learned})
    prompts = ["a <t2> of a cat", "<t1> in red"]
    torch.testing.assert_close(hidden(wide, prompts), hidden(plain, prompts))


def test_whole_words_are_one_token(tiny_model):
    words = tiny_model.whole_words()
    assert {"cat", "dog", "photo"} <= set(words) and "a" not in words
    assert tiny_model.pieces("dog") == {"text_encoder": [words["dog"]]}
    tiny_model.tokenizer.add_tokens(["learned</w>"])
    assert "learned" not in tiny_model.whole_words()
