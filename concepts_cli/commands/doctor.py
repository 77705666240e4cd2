"""`ucd doctor`: what works here, and how to get the rest."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from concepts_cli.data.cache import cache_folder
from concepts_cli.mini import WEIGHTS
from concepts_cli.training.at_hand import cached_models, device_words, devices
from concepts_cli.version import __version__

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")
GPU = "a CUDA build of PyTorch, and a driver: https://pytorch.org/get-started/locally/"


@dataclass(frozen=True)
class Finding:
    """One thing that ucd uses: whether it works here, what is there, and otherwise how to get it."""

    what: str
    works: bool
    here: str
    how: str = ""


def doctor() -> list[Finding]:
    """Everything that ucd can use on this machine. Asks no network."""
    return [*_software(), *_hardware(), *_models(), *_extras()]


def _software() -> Iterator[Finding]:
    yield Finding("ucd", True, f"{__version__}, Python {platform.python_version()}, {platform.system()}")
    yield Finding("libraries", True, ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES))


def _hardware() -> Iterator[Finding]:
    for device in devices():
        yield Finding(str(device), True, device_words(device))
    if len(devices()) == 1:
        yield Finding("GPU", False, "none that PyTorch can use: the built-in model is quick without", GPU)


def _models() -> Iterator[Finding]:
    there = (WEIGHTS / "model_index.json").is_file()
    yield Finding("built-in model", there, "mini" if there else "its weights are missing", "" if there else "reinstall")
    cached = cached_models()
    yield Finding(
        "other models",
        bool(cached),
        ", ".join(cached) or "none downloaded yet",
        "" if cached else "name one in a recipe: it is downloaded on first use",
    )
    from huggingface_hub import constants, get_token

    yield Finding("hub cache", True, f"{constants.HF_HUB_CACHE}, {_size(Path(constants.HF_HUB_CACHE))}")
    yield Finding("image cache", True, f"{cache_folder()}, {_size(cache_folder())}")
    token = get_token()
    yield Finding(
        "hub login",
        bool(token),
        "yes" if token else "no: only for publishing, and for gated models",
        "" if token else "hf auth login",
    )


def _extras() -> Iterator[Finding]:
    daam = util.find_spec("daam") is not None
    yield Finding(
        "daam",
        daam,
        metadata.version("daam") if daam else "not installed: only for --engine daam",
        "" if daam else "pip install 'concepts-cli[daam]' && pip install --no-deps daam==0.2.0",
    )
    gradio = util.find_spec("gradio") is not None
    yield Finding(
        "studio",
        gradio,
        f"Gradio {metadata.version('gradio')}" if gradio else "no Gradio: only for `ucd studio`",
        "" if gradio else "pip install 'concepts-cli[studio]'",
    )
    datasets = util.find_spec("datasets") is not None
    yield Finding(
        "datasets",
        datasets,
        metadata.version("datasets") if datasets else "not installed: only for hf:user/name[train], and Parquet",
        "" if datasets else "pip install 'concepts-cli[datasets]'",
    )
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    yield Finding(
        "Chromium",
        bool(browser),
        browser or "not found: only for the tests of the pages",
        "" if browser else "Debian: apt install chromium",
    )


def _size(folder: Path) -> str:
    """How much a folder takes; files that several links name count once."""
    files = {(status.st_dev, status.st_ino): status.st_size for path in folder.rglob("*") if (status := _status(path))}
    total = sum(files.values())
    return f"{total / 2**30:.1f} GiB" if total >= 2**30 else f"{total / 2**20:.0f} MiB"


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat() if path.is_file() else None
    except OSError:
        return None
