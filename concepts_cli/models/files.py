"""Check a model's files without loading them: an incomplete download is reported before any work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from concepts_cli.errors import UcdError
from concepts_cli.models import family_of, is_single_file, read_index, source_of
from concepts_cli.models.single_file import read_header

if TYPE_CHECKING:
    from concepts_cli.models.interface import DiffusionModel

UNUSED = (
    "safety_checker",
    "feature_extractor",
    "image_encoder",
    "watermarker",
)  # parts of a pipeline that no family loads
WITHOUT_WEIGHTS = ("Scheduler", "Tokenizer", "TokenizerFast")  # how such parts' classes end
HINT = "restore or download the model again"


def check_model(name: str, *, revision: str | None = None) -> type[DiffusionModel] | None:
    """The family of a model whose files are all there; None for one on the hub, if the hub can't be reached.

    Raises UcdError for a model that doesn't exist, belongs to no supported family, or lacks files.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        family = family_of(name, revision=revision)
    except UcdError as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            return None
        raise
    if is_single_file(source_of(name)):
        _check_whole(Path(source_of(name)))
        return family
    files = _files(name, revision)
    for part, kind in read_index(name, revision=revision).items():
        if files is None or part in UNUSED or not isinstance(kind, list) or None in kind:
            continue
        inside = [file for file in files if file.startswith(f"{part}/")]
        weights = [file for file in inside if file.endswith(".safetensors")]
        if not inside:
            raise UcdError(f"model {name!r} lacks its folder {part}", HINT)
        if not weights and not str(kind[-1]).endswith(WITHOUT_WEIGHTS):
            raise UcdError(f"model {name!r} has no weights in {part}", f"{HINT}: it needs a .safetensors file")
        for file in weights:
            path = Path(source_of(name), file)
            if path.is_file():
                _check_whole(path)
    return family


def _files(name: str, revision: str | None) -> list[str] | None:
    """The model's files, with forward slashes; None if the hub can't be asked for them."""
    folder = Path(source_of(name))
    if folder.is_dir():
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(source_of(name), revision=revision)
    except (OSError, ValueError, RuntimeError):  # it may be in the cache all the same
        return None


def _check_whole(path: Path) -> None:
    """Raise UcdError for a safetensors file that is not as long as its header says."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        ends = [entry["data_offsets"][1] for key, entry in read_header(path).items() if key != "__metadata__"]
        is_whole = 8 + length + max(ends, default=0) == path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        is_whole = False
    if not is_whole:
        raise UcdError(f"{path} is damaged or incomplete", HINT)
