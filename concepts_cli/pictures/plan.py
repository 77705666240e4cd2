"""Which pictures to make: planned by prompt and seed, and recognised later by their metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from concepts_cli.core.sampling import Request, TaughtModel, generate, guided
from concepts_cli.data.prompts import default_prompt
from concepts_cli.errors import UcdError
from concepts_cli.models import family_of
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.pictures.names import caption, file_name
from concepts_cli.recipe import SampleSettings
from concepts_cli.runs.files import check_place, png_text, write_png
from concepts_cli.runs.run import Run, bare_name


@dataclass(frozen=True)
class Picture:
    """A PNG of a run, made or to be made."""

    path: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class PicturePlan:
    """Pictures to be made: where each goes and what it shows. `others` are the runs that terms name beside `run`.

    Raises UcdError for a negative prompt with a word like `<t9>` that the run did not learn, and for a scheduler that
    the run's model doesn't have.
    """

    run: Run
    settings: SampleSettings
    planned: tuple[tuple[Path, Request], ...]
    others: Mapping[str, Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_words(self.run, self.settings.negative_prompt or "")
        if self.settings.scheduler != self.run.recipe.sample.scheduler:  # which its training has checked
            _ = self.sampler

    @cached_property
    def sampler(self) -> str:
        """The name of the sampler, also where the settings leave it to the model."""
        return family_of(self.run.recipe.model).sampler_name(self.settings.scheduler)

    @cached_property
    def concepts(self) -> str:
        """A hash of the words of all runs."""
        tables = (table for run in self.runs.values() for table in run.embeddings.values())
        return hashlib.sha256(b"".join(table.numpy().tobytes() for table in tables)).hexdigest()[:12]

    @property
    def pictures(self) -> list[Picture]:
        return [Picture(str(path), caption(request), request.seed) for path, request in self.planned]

    @property
    def runs(self) -> dict[str, Run]:
        """By the name that terms have for them."""
        return {"": self.run, **self.others}

    def missing(self, force: bool = False) -> list[tuple[Path, Request]]:
        """What isn't there yet, with `force` everything. Raises UcdError when a file of that name shows something
        else, or none can be written there.
        """
        wanted = [
            (path, request) for path, request in self.planned if force or not is_made(path, self.metadata(request))
        ]
        for folder in dict.fromkeys(path.parent for path, _ in wanted):
            check_place(folder)
        return wanted

    def load_models(self, device: str | None = None) -> dict[str, TaughtModel]:
        """The models of all runs, one for those that name the same. Raises UcdError for one that can't be loaded."""
        models: dict[str, DiffusionModel] = {}
        taught: dict[str, TaughtModel] = {}
        for name, run in self.runs.items():
            model = run.recipe.model
            if model not in models:
                models[model] = run.load_model(device, dtype_of(self.settings.precision))
            run.teach(models[model])
            taught[name] = TaughtModel(models[model], run.teach)
        return taught

    def make(self, taught: Mapping[str, TaughtModel], missing: Sequence[tuple[Path, Request]]) -> Iterator[Picture]:
        """Make and write them, one after the other, batches inside."""
        pictures = generate(taught, [request for _, request in missing], self.settings)
        for (path, request), picture in zip(missing, pictures, strict=True):
            write_png(path, picture, {key: value for key, value in self.metadata(request).items() if value})
            yield Picture(str(path), caption(request), request.seed)

    def metadata(self, request: Request) -> dict[str, str]:
        """What a picture says of itself: enough to make it again. Empty is what was left to the model."""
        runs, settings = self.runs.values(), self.settings
        return {
            "prompt": caption(request),
            "negative_prompt": settings.negative_prompt or "",
            "guidance_scale": " ".join(f"{term.weight:g}" for term in request.terms),
            "seed": str(request.seed),
            "steps": str(settings.steps),
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
            "model": " + ".join(dict.fromkeys(run.recipe.model for run in runs)),
            "run": " + ".join(run.name for run in runs),
            "concepts": self.concepts,
        }


def is_made(path: Path, wanted: Mapping[str, str]) -> bool:
    """Whether a PNG is there and says of itself what is `wanted`. Raises UcdError when it says something else."""
    if not path.is_file():
        return False
    said = png_text(path)
    differing = [key for key, value in wanted.items() if said.get(key, "") != value and key != "run"]
    if differing:
        was = ", ".join(f"{key} {_short(said.get(key, ''))}, now {_short(wanted[key])}" for key in differing[:2])
        raise UcdError(
            f"{path} was made otherwise: {was}", "--force makes it anew, --output puts the new ones elsewhere"
        )
    return True


def concept_plan(
    run: Run,
    settings: SampleSettings,
    *,
    prompts: Sequence[str] = (),
    concepts: Sequence[str] = (),
    output: Path | None = None,
) -> PicturePlan:
    """`settings.num_images` pictures of every concept (`all`, or none named: each of the run) and prompt, a folder
    for each.

    Image n has the seed `settings.seed + n`. Raises UcdError for a concept, or a word like `<t9>`, that the run did
    not learn.
    """
    if not prompts and not concepts:
        concepts = ["all"]
    sentences = {bare_name(token): default_prompt(run.recipe.concepts.property, token) for token in run.tokens}
    wanted: dict[str, str] = {}  # folder -> prompt
    for concept in concepts:
        for token in run.tokens if concept == "all" else (run.token(concept),):
            wanted[bare_name(token)] = sentences[bare_name(token)]
    for prompt in prompts:
        if not prompt.strip():
            raise UcdError("an empty prompt", "say what to make, such as '<t1> in the snow'")
        check_words(run, prompt)
        wanted[_free_name(prompt, sentences | wanted)] = prompt
    folder = output or run.path / "samples"
    planned = (
        (folder / name / f"{seed - settings.seed:05d}.png", guided(prompt, settings.guidance_scale, seed))
        for name, prompt in wanted.items()
        for seed in range(settings.seed, settings.seed + settings.num_images)
    )
    return PicturePlan(run, settings, tuple(planned))


def check_words(run: Run, prompt: str) -> None:
    """Raise UcdError for a word like `<t9>` that the run did not learn, one of another run (`<other:t1>`), and for
    what is not text.
    """
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise UcdError(f"{prompt!r} is not UTF-8 text", "write the prompt in UTF-8")
    for other, name in re.findall(r"<(?:([^<>]+):)?([tT]\d+)>", prompt):
        if other:
            raise UcdError(
                f"a prompt can't mention <{other}:{name}>, a concept of another run",
                f"give each its own weight: ucd compose t1 {other}:{name}",
            )
        run.token(name)


def _free_name(prompt: str, taken: dict[str, str]) -> str:
    name, number = file_name(prompt), 2
    while taken.get(name, prompt) != prompt:
        name, number = f"{file_name(prompt)}-{number}", number + 1
    return name


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else repr(text[:77] + "...")


def dtype_of(precision: str | None) -> torch.dtype | None:
    """The dtype of a recipe's precision; None leaves it to the model's device."""
    return {None: None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
