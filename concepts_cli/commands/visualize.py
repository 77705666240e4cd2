"""`ucd visualize`: where concepts are in a picture, in real images and in generated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from concepts_cli.commands import INVERSION_STEPS, PICTURES
from concepts_cli.core.heat_maps import attention_of
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.paths import public_path
from concepts_cli.pictures.commands import elsewhere, making_command
from concepts_cli.pictures.heat_maps import draw_generated, draw_images
from concepts_cli.pictures.known_words import warn_of_unknown_words
from concepts_cli.pictures.names import public_term
from concepts_cli.pictures.overlays import HeatMap, MapSettings, beside, described, drawn_sheet, is_drawn
from concepts_cli.pictures.plan import PicturePlan, Sheet, planned
from concepts_cli.pictures.sheets import save_sheet
from concepts_cli.pictures.targets import find_subjects, find_terms, generated_targets, image_targets
from concepts_cli.pictures.terms import WrittenTerm, written
from concepts_cli.pictures.words import sentence
from concepts_cli.recipe import SampleSettings
from concepts_cli.recipe.fields import override
from concepts_cli.runs.files import check_place
from concepts_cli.runs.run import Run

IMAGE_SETTINGS = ("steps", "guidance_scale", "precision", "batch_size")  # what a reconstruction depends on


def image_settings(kind: str) -> tuple[str, ...]:
    return (*IMAGE_SETTINGS, "seed") if kind == "daam" else IMAGE_SETTINGS


def heat_map_settings(
    run: Run, given: Mapping[str, Any], *, real: bool, kind: str = "contrast", as_options: bool = True
) -> SampleSettings:
    """The settings for generated pictures, or for `real` ones, which use only IMAGE_SETTINGS, and for the kind `daam`
    the seed of their latents.

    Raises UcdError for an invalid or unused setting among those `given`.
    """
    if not real:
        return override(run.recipe.sample, {"num_images": PICTURES} | dict(given), as_options=as_options)
    usable = image_settings(kind)
    if unused := [name for name in given if name in vars(run.recipe.sample) and name not in usable]:
        named, used = (
            ", ".join(f"--{name.replace('_', '-')}" if as_options else name for name in names)
            for names in (unused, usable)
        )
        raise UcdError(f"{named}: not used for real images, which are reconstructed", f"they use {used}")
    recipe = run.recipe.sample
    settings = SampleSettings(
        steps=INVERSION_STEPS,
        guidance_scale=1.0,
        precision=recipe.precision,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
    return override(settings, given, as_options=as_options)


def visualize(
    run: Run,
    *,
    images: Sequence[Path] = (),
    training_images: bool = False,
    concepts: Sequence[str] = (),
    prompt: str | None = None,
    words: Sequence[str] = (),
    terms: Sequence[WrittenTerm] = (),
    settings: SampleSettings,
    maps: MapSettings | None = None,
    output: Path | None = None,
    grid: bool = False,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> tuple[list[HeatMap | Sheet], int]:
    """Draw overlays of `images` and the run's own (`training_images`), or, with neither, of `settings.num_images`
    generated pictures, the same that `sample` and `compose` make. Also returns how many images failed.

    There is one map for each of `concepts` (default: all), for each of the `words` of a `prompt` (default: its
    concepts), or for each of the `terms` of a composition, written as for `compose`. An image that can't be read is
    reported on stderr and skipped. Existing overlays are kept unless `force`; those of other settings get a folder of
    their own. With `grid`, a sheet of all of them comes last. Of the settings, real images use those that
    `heat_map_settings` takes for them. Raises UcdError for an unknown concept or one of another run, and for a word
    that is not in the prompt.
    """
    maps, folder, failed = maps or MapSettings(), output or run.path / "heatmaps", 0
    real = bool(images) or training_images
    _refuse_contradictions(real, concepts, prompt, words, terms, maps)
    prompt = sentence(run, prompt) if prompt else prompt
    subjects = find_subjects(run, concepts, prompt, words)
    if real:
        places = [*images, *(Path(record.path) for record in (run.images if training_images else ()))]
        into = folder / "images"
        targets, failed = image_targets(run, places, subjects, prompt, settings.guidance_scale, into, out)
    else:
        named = find_terms(run, terms, settings.guidance_scale)
        if maps.engine == "daam" and any(term.place for _, term in named.values()):
            raise UcdError("daam can't place terms", "use --engine native for terms with a place")
        targets = list(planned(generated_targets(subjects, prompt, named, settings, folder)))
    options: list[tuple[str, object]] = [("concept", ",".join(concepts)), ("prompt", prompt)]
    options += [*(("word", word) for word in words), *(("term", public_term(written(term))) for term in terms)]
    options += [
        ("training_images", training_images),
        *maps.options,
        ("output", elsewhere(output, run.path / "heatmaps")),
        ("grid", grid),
    ]
    usual = heat_map_settings(run, {}, real=real, kind=maps.kind)
    used = {name: getattr(settings, name) for name in image_settings(maps.kind)} if real else vars(settings)
    whole = making_command(run, "visualize", list(map(public_path, images)), options, replace(usual, **used), usual)
    plan = PicturePlan(run, settings, folder, (), device=device, command=whole)
    if not force:
        plan, targets = beside(plan, targets, maps)
    missing = [target for target in targets if force or not is_drawn(target, plan, maps)]
    for place in dict.fromkeys(target.path.parent for target in missing):
        check_place(place)
    if missing:
        texts = {text for target in missing for text in (target.prompt, target.subject.word)}
        warn_of_unknown_words(run, [*sorted(texts), plan.settings.negative_prompt or ""], out)
        taught = plan.load_models()
        with attention_of(taught[""].model).record(selection=maps.attention):
            pass  # a selection that the model lacks is refused before the images are inverted
        made = (draw_images if real else draw_generated)(taught, missing, plan, maps)
        for _ in out.track(made, total=len(missing), label="drawing heat maps"):
            pass
    drawn: list[HeatMap | Sheet] = [described(target) for target in targets]
    if grid and targets:
        drawn.append(save_sheet(plan, "sheet.png", drawn_sheet(targets), force=force))
    return drawn, failed


def _refuse_contradictions(
    real: bool,
    concepts: Sequence[str],
    prompt: str | None,
    words: Sequence[str],
    terms: Sequence[WrittenTerm],
    maps: MapSettings,
) -> None:
    if sum(map(bool, (concepts, prompt, terms))) > 1:
        raise UcdError("concepts, a prompt and terms exclude each other", "give one of them")
    if words and not prompt:
        raise UcdError("words need a prompt", "give one: --prompt 't1 at night' --word night")
    if real and terms:
        raise UcdError("a composition is generated, not found in images", "drop the images, or the terms")
    if real and maps.engine == "daam":
        raise UcdError("daam records what it generates, not real images", "use --engine native for images")
    if len(terms) > 1 and maps.engine == "daam":
        raise UcdError("daam takes one prompt, not a composition", "use --engine native for compositions")
