"""What a model is made of is known inside models/ alone: a new family is a file there, and no line elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import concepts_cli
from concepts_cli.models.samplers import SCHEDULERS

PACKAGE = Path(concepts_cli.__file__).parent

LEAKS = {
    "a family": r"(?i)stable_?\s?diffusion|sdxl",
    "a tokenizer": r"(?i)tokenizer(?!s_parallelism)",
    "a text encoder": r"(?i)text_encoder|TextEncoder",
    "a noise schedule": r"(?i)alphas_cumprod|num_train_timesteps|scheduler_config",
    "a prediction": r"(?i)get_velocity|v_prediction",
    "a layer": r"(?i)attn2|\battn\b|(up|down|mid)_block",
    "a network": r"(?i)\bu-?net",
    "an image encoder": r"(?i)\bvae\b|latent_dist|scaling_factor",
    "a sampler": rf"(?<![\w+-])({'|'.join(map(re.escape, SCHEDULERS))})(?![\w+-])",  # DDIM, the method, may be named
    "a size": r"multiple_of",
}

# What may know more, and why; a folder stands for its files.
EXEMPT = {
    "models/": set(LEAKS),
    "mini/workshop/": set(LEAKS),  # trains the one model that ships
    "mini/__init__.py": {"a family"},  # the layout of that model
    "mini/tokenizer.py": {"a tokenizer"},
    "mini/captions.py": {"a tokenizer"},  # its words
    "scorers/clip.py": {"a tokenizer"},  # a scorer has one of its own
    # `ddim` is the published name of a way to invert, of whatever model.
    "core/heat_maps.py": {"a sampler"},
    "pictures/overlays.py": {"a sampler"},
    "cli/visualize.py": {"a sampler"},
}


def leaks(leak: str, path: Path) -> list[str]:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    return [f"{path}:{number}: {line.strip()}" for number, line in lines if re.search(LEAKS[leak], line)]


@pytest.mark.parametrize("leak", LEAKS)
def test_only_models_knows(leak):
    exempt = tuple(place for place, allowed in EXEMPT.items() if leak in allowed)
    found = [
        line
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.relative_to(PACKAGE).as_posix().startswith(exempt)
        for line in leaks(leak, path)
    ]
    assert not found, "\n".join(found)


def test_every_exemption_of_a_file_is_needed():
    for place, allowed in EXEMPT.items():
        if place.endswith(".py"):
            assert all(leaks(leak, PACKAGE / place) for leak in allowed), place
