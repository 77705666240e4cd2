"""What a model is made of is known inside models/ alone: a new family is a file there, and no line elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import concepts_cli

PACKAGE = Path(concepts_cli.__file__).parent
FREE = {"models", "mini"}  # mini trains and ships one model, and may know how it is made

LEAKS = {
    "a family": r"stable_?\s?diffusion|sdxl",
    "a tokenizer": r"tokenizer(?!s_parallelism)",
    "a text encoder": r"text_encoder|TextEncoder",
    "a noise schedule": r"alphas_cumprod|num_train_timesteps|scheduler_config",
    "a prediction": r"get_velocity|v_prediction",
    "a layer": r"attn2|\battn\b",
    "a network": r"\bu-?net",
    "an image encoder": r"\bvae\b|latent_dist|scaling_factor",
}


@pytest.mark.parametrize("leak", LEAKS)
def test_only_models_knows(leak):
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        folder = path.relative_to(PACKAGE).parts[0]
        # A scorer has a tokenizer of its own, which is none of the model's.
        if folder in FREE or (folder == "scorers" and leak == "a tokenizer"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(LEAKS[leak], line, re.IGNORECASE):
                found.append(f"{path.relative_to(PACKAGE.parent)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
