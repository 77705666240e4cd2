"""A random ZImagePipeline, built from the real classes: a byte-pair vocabulary, Qwen3, a flow transformer."""

from __future__ import annotations

from pathlib import Path

import torch

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.content }}<|stop|>{% endfor %}<|start|>"
    "{% if not enable_thinking %}of{% endif %}"
)
WORDS = ["a", "photo", "of", "in", "the", "style", "painting", "cat", "dog", "red", "blue"]
WIDTH = 32


def build_tokenizer(most: int = 4096):
    """Letters, and some words by themselves and after a space; others are spelled. Texts have at most `most` tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary, merges = {letter: row for row, letter in enumerate(sorted(ByteLevel.alphabet()))}, []
    for word in [*("Ġ" + word for word in WORDS), *WORDS]:
        joined = word[0]
        for letter in word[1:]:
            if joined + letter not in vocabulary:
                merges.append((joined, letter))
                vocabulary[joined + letter] = len(vocabulary)
            joined += letter
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=most)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|stop|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_z_image(folder: Path | None = None, *, shift: float = 3.0):
    """The pipeline, saved to `folder` if there is one: 32 px pictures, 16x16x4 latents."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer) + 20,  # as published: the table has more rows than the vocabulary
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
    )
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    for parameter in transformer.parameters():  # some start at zero, and would hide what a test looks for
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    vae = AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=0.36,
        shift_factor=0.12,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        text_encoder=Qwen3Model(text),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipeline.text_encoder.eval()
    pipeline.set_progress_bar_config(disable=True)
    if folder:
        pipeline.save_pretrained(folder)
    return pipeline
