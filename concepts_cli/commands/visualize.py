"""`ucd visualize`: where concepts are in a picture, in real images and in generated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concepts_cli.commands import INVERSION_STEPS, PICTURES
from concepts_cli.core.heat_maps import attention_of
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.pictures.heat_maps import draw_generated, draw_images
from concepts_cli.pictures.overlays import HeatMap, MapSettings, described, drawn_sheet, is_drawn
from concepts_cli.pictures.plan import PicturePlan, planned
from concepts_cli.pictures.targets import find_subjects, find_terms, generated_targets, image_targets
from concepts_cli.pictures.terms import WrittenTerm
from concepts_cli.pictures.words import sentence
from concepts_cli.recipe import SampleSettings
from concepts_cli.recipe.fields import override
from concepts_cli.runs.files import check_place, write_png
from concepts_cli.runs.run import Run

IMAGE_SETTINGS = ("steps", "guidance_scale", "precision", "batch_size")  # what a reconstruction depends on


def heat_map_settings(
    run: Run, given: Mapping[str, Any], *, real: bool, kind: str = "contrast", as_options: bool = True
) -> SampleSettings:
    """The settings for generated pictures, or for `real` ones, which use only IMAGE_SETTINGS, and for the kind `daam`
    the seed of their latents.

    Raises UcdError for an invalid or unused setting among those `given`.
    """
    if not real:
        return override(run.recipe.sample, {"num_images": PICTURES} | dict(given), as_options=as_options)
    image_settings = (*IMAGE_SETTINGS, "seed") if kind == "daam" else IMAGE_SETTINGS
    if unused := [name for name in given if name in vars(run.recipe.sample) and name not in image_settings]:
        named, used = (
            ", ".join(f"--{name.replace('_', '-')}" if as_options else name for name in names)
            for names in (unused, image_settings)
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
) -> tuple[list[HeatMap], int]:
    """Draw overlays of `images` and the run's own (`training_images`), or, with neither, of `settings.num_images`
    generated pictures, the same that `sample` and `compose` make. Also returns how many images failed.

    There is one map for each of `concepts` (default: all), for each of the `words` of a `prompt` (default: its
    concepts), or for each of the `terms` of a composition, written as for `compose`. An image that can't be read is
    reported on stderr and skipped. Existing overlays are kept unless `force`. With `grid`, sheet.png shows all of them.
    Of the settings, real images use those that `heat_map_settings` takes for them. Raises UcdError for an unknown
    concept or one of another run, a word that is not in the prompt, and an existing file with another prompt or
    setting.
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
    plan = PicturePlan(run, settings, (), device=device)
    missing = [target for target in targets if force or not is_drawn(target, plan, maps)]
    for place in dict.fromkeys(target.path.parent for target in missing):
        check_place(place)
    if missing:
        taught = plan.load_models()
        attention_of(taught[""].model)  # raises before the work begins
        made = (draw_images if real else draw_generated)(taught, missing, plan, maps)
        for _ in out.track(made, total=len(missing), label="drawing heat maps"):
            pass
    if grid and targets:
        write_png(folder / "sheet.png", drawn_sheet(targets), {"run": run.name})
        out.note(f"all maps: {folder / 'sheet.png'}")
    return [described(target) for target in targets], failed


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
