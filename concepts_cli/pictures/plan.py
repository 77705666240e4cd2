"""Which pictures to make: planned by prompt and seed, and recognised later by their metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

from concepts_cli.core.sampling import Request, TaughtModel, generate, guided
from concepts_cli.errors import UcdError
from concepts_cli.models import family_of, source_of
from concepts_cli.models.device import chosen_device, default_precision, dtype_of
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.paths import public_path
from concepts_cli.pictures.commands import elsewhere, making_command
from concepts_cli.pictures.names import caption, file_name
from concepts_cli.pictures.words import bracketed, is_concept, named_tokens, sentence
from concepts_cli.recipe import SampleSettings
from concepts_cli.runs.files import check_place, png_text, write_png
from concepts_cli.runs.run import Run, bare_name

T = TypeVar("T")
MOST_PICTURES = 1_000_000  # in one plan


@dataclass(frozen=True)
class Picture:
    """A PNG of a run, made or to be made."""

    path: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Sheet:
    """A PNG that shows several of them."""

    path: str


def planned(pictures: Iterable[T]) -> tuple[T, ...]:
    """All pictures, or maps, that a command is to make. Raises UcdError for more than anyone can want."""
    chosen = tuple(islice(pictures, MOST_PICTURES + 1))
    if len(chosen) > MOST_PICTURES:
        raise UcdError(f"more than {MOST_PICTURES:,} pictures at once", "ask for fewer, with --num-images")
    return chosen


@dataclass(frozen=True)
class PicturePlan:
    """Pictures to make: each one's path in `root`, and its request. `others` are the runs that terms name besides
    `run`; `device` is as in `load_model`.

    Raises UcdError for a negative prompt with a word like `<t9>` that the run did not learn, and for a scheduler that
    the run's model doesn't have.
    """

    run: Run
    settings: SampleSettings
    root: Path
    planned: tuple[tuple[Path, Request], ...]
    others: Mapping[str, Run] = field(default_factory=dict)
    device: str | None = None
    command: str = ""  # that makes these pictures, for their metadata

    def __post_init__(self) -> None:
        if self.settings.negative_prompt:
            read = bracketed(self.run, self.settings.negative_prompt)
            object.__setattr__(self, "settings", replace(self.settings, negative_prompt=read))
        if self.settings.scheduler not in (None, self.run.recipe.sample.scheduler):  # its training has checked that one
            _ = self.sampler

    @cached_property
    def sampler(self) -> str:
        """The name of the sampler, even if the settings leave it to the model."""
        return family_of(self.run.recipe.model, revision=self.run.recipe.model_revision).sampler_name(
            self.settings.scheduler
        )

    @cached_property
    def concepts(self) -> str:
        """A hash of the words of all runs, the same as in a picture's metadata."""
        tables = (table for run in self.runs.values() for table in run.embeddings.values())
        return hashlib.sha256(b"".join(table.numpy().tobytes() for table in tables)).hexdigest()[:12]

    @property
    def pictures(self) -> list[Picture]:
        return [Picture(str(path), caption(request), request.seed) for path, request in self.planned]

    @property
    def runs(self) -> dict[str, Run]:
        """All runs, by the names that terms have for them."""
        return {"": self.run, **self.others}

    def beside(self) -> PicturePlan:
        """The plan, in a folder of its own inside `root` if files there show something else: nothing is lost."""
        inside = [(path.relative_to(self.root), request) for path, request in self.planned]
        free = free_folder(self.root, [(path, self.metadata(request)) for path, request in inside])
        return replace(self, root=free, planned=tuple((free / path, request) for path, request in inside))

    def missing(self, force: bool = False) -> list[tuple[Path, Request]]:
        """The pictures to make: those that don't exist; with `force`, all. Raises UcdError if a file shows something
        else, or a folder can't be written to.
        """
        to_make = [
            (path, request) for path, request in self.planned if force or not is_made(path, self.metadata(request))
        ]
        for folder in dict.fromkeys(path.parent for path, _ in to_make):
            check_place(folder)
        return to_make

    def load_models(self) -> dict[str, TaughtModel]:
        """The models of all runs; runs with the same model share it. Raises UcdError for one that can't be loaded."""
        models: dict[tuple[str, str | None], DiffusionModel] = {}
        taught: dict[str, TaughtModel] = {}
        for name, run in self.runs.items():
            model = (source_of(run.recipe.model), run.recipe.model_revision)
            if model not in models:
                models[model] = run.load_model(self.device, dtype_of(self.settings.precision))
            run.teach(models[model])
            taught[name] = TaughtModel(models[model], run.teach)
        return taught

    def make(self, taught: Mapping[str, TaughtModel], missing: Sequence[tuple[Path, Request]]) -> Iterator[Picture]:
        """Generate the missing pictures in batches, and write and yield them one by one."""
        pictures = generate(taught, [request for _, request in missing], self.settings)
        for (path, request), picture in zip(missing, pictures, strict=True):
            write_png(path, picture, self.given_metadata(request))
            yield Picture(str(path), caption(request), request.seed)

    def given_metadata(self, request: Request) -> dict[str, str]:
        """The metadata that a picture carries: those that have a value."""
        return {key: value for key, value in self.metadata(request).items() if value}

    def shared_metadata(self, request: Request) -> dict[str, str]:
        """The metadata that a generated picture and the reconstruction of a real one have in common."""
        runs = self.runs.values()
        return {
            "prompt": caption(request),
            "guidance_scale": " ".join(f"{term.weight:g}" for term in request.terms),
            "steps": str(self.settings.steps),
            "precision": self.settings.precision or default_precision(chosen_device(self.device)),
            "model": " + ".join(dict.fromkeys(public_path(run.recipe.model) for run in runs)),
            "run": " + ".join(run.name for run in runs),
            "command": self.command,
            "concepts": self.concepts,
        }

    def metadata(self, request: Request) -> dict[str, str]:
        """A generated picture's metadata: enough to make it again. Empty values were left to the model."""
        settings = self.settings
        return self.shared_metadata(request) | {
            "negative_prompt": settings.negative_prompt or "",
            "seed": str(request.seed),
            "scheduler": settings.scheduler or self.sampler,
            "eta": f"{settings.eta:g}" if settings.eta else "",
            "corrector": f"{settings.corrector_steps} of {settings.corrector_step_size:g}"
            if settings.corrector_steps
            else "",
            "places": "; ".join(f"{term.place.fingerprint if term.place else 'everywhere'}" for term in request.terms)
            if any(term.place for term in request.terms)
            else "",
            "height": str(settings.height or ""),
            "width": str(settings.width or ""),
        }


def is_made(path: Path, expected: Mapping[str, str]) -> bool:
    """Whether a PNG exists with this metadata. Raises UcdError if its metadata differs."""
    if changed := changes(path, expected):
        was = ", ".join(f"{key} {_short(old)}, now {_short(expected[key])}" for key, old in list(changed.items())[:2])
        raise UcdError(f"{path} was made differently: {was}", "--force replaces it, --output writes elsewhere")
    return path.is_file()


def changes(path: Path, expected: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a PNG that differ from `expected`; empty if there is no such file.

    Runs may be renamed, several commands may make a picture, and earlier pictures lack their precision.
    """
    if not path.is_file():
        return {}
    actual = {"precision": expected["precision"]} | png_text(path)
    actual["model"] = " + ".join(map(public_path, actual.get("model", "").split(" + ")))  # earlier ones have its path
    compared = [key for key in expected if key not in ("run", "command")]
    return {key: actual.get(key, "") for key in compared if actual.get(key, "") != expected[key]}


def free_folder(root: Path, files: Sequence[tuple[Path, Mapping[str, str]]]) -> Path:
    """`root`, or a folder inside it if files there have other metadata than these, given by their path in `root`.

    It is called after what differs, such as `steps=20`.
    """
    differs: dict[str, str] = {}
    for path, expected in files:
        differs = {key: expected[key] for key in changes(root / path, expected)} | differs
    if not differs:
        return root
    return free_folder(root / file_name(" ".join(f"{key}={value or 'none'}" for key, value in differs.items())), files)


def concept_plan(
    run: Run,
    settings: SampleSettings,
    *,
    prompts: Sequence[str] = (),
    concepts: Sequence[str] = (),
    output: Path | None = None,
    grid: bool = False,
    device: str | None = None,
) -> PicturePlan:
    """Plan `settings.num_images` pictures of every concept and prompt, in one folder each. Default: all concepts.

    Image n uses the seed `settings.seed + n`. Raises UcdError for a concept, or a word like `<t9>`, that the run did
    not learn.
    """
    if not prompts and not concepts:
        concepts = ["all"]
    texts = [prompt for prompt in prompts if prompt != "all" and not is_concept(run, prompt)]
    tokens = named_tokens(run, [*concepts, *(prompt for prompt in prompts if prompt not in texts)])
    by_folder = {bare_name(token): sentence(run, token) for token in tokens}  # name of a folder -> prompt
    for prompt in texts:
        if not prompt.strip():
            raise UcdError("an empty prompt", "say what to make, such as '<t1> at night'")
        text = bracketed(run, prompt)
        by_folder[_free_name(text, {bare_name(token): "" for token in run.tokens} | by_folder)] = text
    folder = output or run.path / "samples"
    named = "all" if len(tokens) == len(run.tokens) else ",".join(map(bare_name, tokens))
    options = [("concept", named), ("output", elsewhere(output, run.path / "samples")), ("grid", grid)]
    whole = making_command(run, "sample", texts, options, settings, run.recipe.sample)
    pictures = (
        (folder / name / f"{seed - settings.seed:05d}.png", guided(prompt, settings.guidance_scale, seed))
        for name, prompt in by_folder.items()
        for seed in range(settings.seed, settings.seed + settings.num_images)
    )
    return PicturePlan(run, settings, folder, planned(pictures), device=device, command=whole)


def _free_name(prompt: str, taken: dict[str, str]) -> str:
    name, number = file_name(prompt), 2
    while taken.get(name, prompt) != prompt:
        name, number = f"{file_name(prompt)}-{number}", number + 1
    return name


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else repr(text[:77] + "...")
