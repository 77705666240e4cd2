"""A CLIP tokenizer with a small vocabulary: a word of the captions is one token, other text is spelled out."""

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTokenizer

from concepts_cli.mini.captions import MOST_WORDS, words

MAX_TOKENS = MOST_WORDS + 2  # with the start and the end
START, END = "<|startoftext|>", "<|endoftext|>"


def _merges() -> list[tuple[str, str]]:
    """The merges of a byte-pair encoding, learned until every word of the corpus is one token.

    Each joins the most frequent pair, the alphabetically first among equals, so that the vocabulary is the same on
    every run.
    """
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words()]
    merges = []
    while pairs := Counter(pair for pieces in spelled for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces in spelled:
            for i in range(len(pieces) - 2, -1, -1):
                if tuple(pieces[i : i + 2]) == best:
                    pieces[i : i + 2] = ["".join(best)]
    return merges


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = _merges()
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*bytes_, *(byte + "</w>" for byte in bytes_), *(a + b for a, b in merges), START, END])
    return {token: i for i, token in enumerate(tokens)}, merges


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer of both text encoders. Its end token, which also pads, has the highest id, as CLIP expects."""
    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def tokenize(captions: list[str]) -> Tensor:
    """B captions -> (B, MAX_TOKENS) token ids."""
    options = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "pt"}
    return build_tokenizer()(captions, **options).input_ids


def save_tokenizer(folder: Path) -> None:
    """Save it for transformers 5 (tokenizer.json) and for versions before (vocab.json and merges.txt)."""
    vocabulary, merges = _vocabulary()
    build_tokenizer().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
