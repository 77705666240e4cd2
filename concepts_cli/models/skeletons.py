"""Parts of a pipeline without their weights, on the meta device, by their configuration alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from concepts_cli.models.files import WITHOUT_WEIGHTS


def part_without_weights(
    source: str, part: str, library: str, kind: str, *, revision: str | None, dtype: torch.dtype
) -> Any:
    """A part of the pipeline in a folder or on the hub; its tokenizers and schedulers have no weights, and are whole.

    May raise what diffusers and transformers raise.
    """
    if library not in ("diffusers", "transformers"):  # any module could run code
        raise ValueError(f"{part} is of {library}")
    own: Any = getattr(import_module(library), kind)
    where = {"subfolder": part, "revision": revision}
    if kind.endswith(WITHOUT_WEIGHTS):
        return own.from_pretrained(source, **where)
    with torch.device("meta"):
        if library == "transformers":
            module = own(own.config_class.from_pretrained(source, **where))
        else:
            module = own.from_config(own.load_config(source, **where))
    torch.nn.Module.to(module, dtype)  # the own `to` of diffusers warns
    for name in (getattr(module, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else ():
        for path, each in module.named_modules():
            if path.rpartition(".")[2] == name:  # as transformers loads those that overflow
                each.float()
    return module
