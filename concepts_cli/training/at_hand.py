"""What this machine has for a training: its device, and the models that are already here."""

from __future__ import annotations

import json
import os
from contextlib import suppress

import torch

from concepts_cli.models import FAMILIES
from concepts_cli.models.device import chosen_device


def device_words(device: torch.device) -> str:
    """A device in words: 'NVIDIA H100, 78 GiB' or '2 CPU cores, 8 GiB'."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name}, {_gib(facts.total_memory)}"
    memory = 0
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    there = [f"{cores} CPU core{'s' * (cores > 1)}", *([_gib(memory)] if memory else [])]
    return ", ".join(["Apple's GPU", *there] if device.type == "mps" else there)


def devices() -> list[torch.device]:
    """Every device that a model can run on, the fastest first."""
    gpus = [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
    return [*gpus, *([chosen_device()] if chosen_device().type == "mps" else []), torch.device("cpu")]


def cached_models() -> list[str]:
    """The hub ids of supported models that have been downloaded, by family, the lightest first, and by name."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return []
    found, families = set(), list(FAMILIES)
    for repository in repositories:
        files = (file for revision in repository.revisions for file in revision.files)
        for file in files:
            if file.file_name == "model_index.json":
                with suppress(OSError, ValueError, AttributeError):
                    kind = json.loads(file.file_path.read_text(encoding="utf-8")).get("_class_name")
                    found |= {(families.index(kind), repository.repo_id)} if kind in families else set()
    return [name for _, name in sorted(found)]


def _gib(size: int) -> str:
    return f"{size / 2**30:.0f} GiB"
