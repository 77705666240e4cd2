"""The pictures of a run: asked for by prompt and seed, made once, and found again by what they say of themselves."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from concepts_cli.core.contact_sheet import contact_sheet, overview
from concepts_cli.core.sampling import Request, generate, guided
from concepts_cli.data.images import open_image
from concepts_cli.data.prompts import default_prompt
from concepts_cli.errors import UcdError
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.output import Output
from concepts_cli.recipe import SampleSettings
from concepts_cli.run_dir import Run, bare_name, check_place, write_png


@dataclass(frozen=True)
class Picture:
    """A PNG of a run, made or to be made."""

    path: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Order:
    """Pictures to be made: where each goes and what it shows."""

    run: Run
    settings: SampleSettings
    planned: tuple[tuple[Path, Request], ...]

    @property
    def pictures(self) -> list[Picture]:
        return [Picture(str(path), caption(request), request.seed) for path, request in self.planned]

    def missing(self, force: bool = False) -> list[tuple[Path, Request]]:
        """What isn't there yet, with `force` everything. Raises UcdError when a file of that name shows something
        else, or none can be written there.
        """
        wanted = [(path, request) for path, request in self.planned if force or not self._is_made(path, request)]
        for folder in dict.fromkeys(path.parent for path, _ in wanted):
            check_place(folder)
        return wanted

    def make(self, model: StableDiffusion, missing: Sequence[tuple[Path, Request]]) -> Iterator[Picture]:
        """Make and write them, one after the other, batches inside."""
        pictures = generate(
            model,
            [request for _, request in missing],
            num_inference_steps=self.settings.steps,
            scheduler=self.settings.scheduler,
            batch_size=self.settings.batch_size,
        )
        for (path, request), picture in zip(missing, pictures, strict=True):
            write_png(path, picture, self.metadata(request))
            yield Picture(str(path), caption(request), request.seed)

    def metadata(self, request: Request) -> dict[str, str]:
        """What a picture says of itself: enough to make it again."""
        return {
            "prompt": caption(request),
            "negative_prompt": request.negative_prompt,
            "guidance_scale": " ".join(f"{term.weight:g}" for term in request.terms),
            "seed": str(request.seed),
            "steps": str(self.settings.steps),
            "scheduler": self.settings.scheduler,
            "model": self.run.recipe.model,
            "run": self.run.name,
            "concepts": hashlib.sha256(self.run.embeddings.numpy().tobytes()).hexdigest()[:12],
        }

    def _is_made(self, path: Path, request: Request) -> bool:
        if not path.is_file():
            return False
        said, wanted = png_text(path), self.metadata(request)
        differing = [key for key, value in wanted.items() if said.get(key, "") != value and key != "run"]
        if differing:
            was = ", ".join(f"{key} {said.get(key)!r}, now {wanted[key]!r}" for key in differing[:2])
            raise UcdError(
                f"{path} was made otherwise: {was}", "--force makes it anew, --output puts the new ones elsewhere"
            )
        return True


def concept_order(
    run: Run,
    settings: SampleSettings,
    *,
    prompts: Sequence[str] = (),
    concepts: Sequence[str] = (),
    output: Path | None = None,
) -> Order:
    """`settings.num_images` pictures of every concept (`all`, or none named: each of the run) and prompt, a folder
    for each.

    Image n has the seed `settings.seed + n`. Raises UcdError for a concept, or a word like `<t9>`, that the run did
    not learn.
    """
    if not prompts and not concepts:
        concepts = ["all"]
    wanted: dict[str, str] = {}  # folder -> prompt
    for concept in concepts:
        for token in run.tokens if concept == "all" else (run.token(concept),):
            wanted[bare_name(token)] = default_prompt(run.recipe.concepts.property, token)
    for prompt in prompts:
        check_words(run, prompt)
        wanted[_free_name(prompt, wanted)] = prompt
    folder = output or run.path / "samples"
    planned = (
        (folder / name / f"{seed - settings.seed:05d}.png", guided(prompt, settings.guidance_scale, seed))
        for name, prompt in wanted.items()
        for seed in range(settings.seed, settings.seed + settings.num_images)
    )
    return Order(run, settings, tuple(planned))


def check_words(run: Run, prompt: str) -> None:
    """Raise UcdError for a word like `<t9>` that the run did not learn."""
    for name in re.findall(r"<t\d+>", prompt):
        run.token(name)


def fill(order: Order, *, force: bool = False, device: str | None = None, out: Output) -> None:
    """Make what is missing of an order."""
    missing = order.missing(force)
    if not missing:
        return
    model = order.run.load_model(device)
    for prompt in {term.prompt for _, request in missing for term in request.terms}:
        if model.is_truncated(prompt):
            length = model.tokenizer.model_max_length
            out.warn(f"a prompt is longer than the model's {length} tokens and is cut: {prompt[:60]}…")
    for _ in out.track(order.make(model, missing), total=len(missing), label="sampling"):
        pass


def write_sheet(order: Order, path: Path) -> Picture:
    """A contact sheet of what was made, a row a prompt, the training images on top when it shows every concept."""
    rows: dict[str, list[Image.Image]] = {}
    for place, _ in order.planned:
        rows.setdefault(place.parent.name, []).append(open_image(place))
    originals = [Path(record.path) for record in order.run.images[:50]]
    if set(rows) == {bare_name(token) for token in order.run.tokens} and all(map(Path.is_file, originals)):
        page = overview([open_image(original) for original in originals], rows, total=len(order.run.images))
    else:
        page = contact_sheet(rows)
    write_png(path, page, {"run": order.run.name, "model": order.run.recipe.model, "seed": order.settings.seed})
    return Picture(str(path), "contact sheet", order.settings.seed)


def caption(request: Request) -> str:
    """A plain prompt as it is; of a composition every term with its weight."""
    if len(request.terms) == 1:
        return request.terms[0].prompt
    return " + ".join(f"{term.weight:g} * {term.prompt!r}" for term in request.terms)


def file_name(text: str) -> str:
    """A plain folder or file name made of what a prompt says."""
    return re.sub(r"[^\w.=-]+", "-", re.sub("[<>]", "", text)).strip("-.")[:60] or "prompt"


def png_text(path: Path) -> dict[str, str]:
    """The text that a PNG carries; nothing for a file that is none."""
    try:
        with Image.open(path) as file:
            return dict(getattr(file, "text", {}))
    except OSError:
        return {}


def _free_name(prompt: str, taken: dict[str, str]) -> str:
    name, number = file_name(prompt), 2
    while taken.get(name, prompt) != prompt:
        name, number = f"{file_name(prompt)}-{number}", number + 1
    return name
