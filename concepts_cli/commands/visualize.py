"""`ucd visualize`: where in a picture a concept lives, in real ones and in those that are made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from concepts_cli.core.attention import normalise, record_attention, token_map
from concepts_cli.core.daam import daam_map
from concepts_cli.core.heat_maps import Subject, reconstruct, score_gains, shares, tokens_of
from concepts_cli.core.sampling import Request, Term, generate, guided
from concepts_cli.data.images import find_images, open_image, to_image, to_pixels
from concepts_cli.data.prompts import default_prompt
from concepts_cli.errors import UcdError
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.output import Output
from concepts_cli.overlays import HeatMap, MapSettings, Target, described, drawn_sheet, is_drawn, write_overlay
from concepts_cli.pictures import Order, check_words, file_name
from concepts_cli.recipe import SampleSettings
from concepts_cli.run_dir import Run, bare_name, check_place, write_png

SMALLEST = 8  # px of an image's shorter side: with less there is nothing to see


def visualize(
    run: Run,
    *,
    images: Sequence[Path] = (),
    training_images: bool = False,
    concepts: Sequence[str] = (),
    prompt: str | None = None,
    words: Sequence[str] = (),
    terms: Sequence[Term] = (),
    settings: SampleSettings,
    maps: MapSettings | None = None,
    output: Path | None = None,
    grid: bool = False,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> tuple[list[HeatMap], int]:
    """Overlays of `images` and the run's own (`training_images`), or, with neither, of `settings.num_images` pictures
    that are made, the same that `sample` and `compose` make; and how many images could not be done.

    A map is of each of `concepts` (none named: all), of each of the `words` of a `prompt` (none named: its concepts),
    or of each of the `terms` of a composition. An image that can't be read is said on stderr and left out. Overlays
    that are there already are not made again unless `force`. With `grid` all are shown on sheet.png. Raises UcdError
    for a concept that the run has not, a word that is not in the prompt, and a file of another prompt or setting that
    is in the way.
    """
    maps, folder, failed = maps or MapSettings(), output or run.path / "heatmaps", 0
    real = bool(images) or training_images
    _refuse_contradictions(real, concepts, prompt, words, terms, maps)
    subjects = _subjects(run, concepts, prompt, words)
    if real:
        places = [*images, *(Path(record.path) for record in (run.images if training_images else ()))]
        targets, failed = _of_images(run, places, subjects, prompt, maps, folder / "images", out)
    else:
        targets = list(_of_made(subjects, prompt, _term_subjects(run, terms), terms, settings, folder))
    order = Order(run, settings, ())
    missing = [target for target in targets if force or not is_drawn(target, order, maps)]
    for place in dict.fromkeys(target.path.parent for target in missing):
        check_place(place)
    if missing:
        model = run.load_model(device)
        made = _draw_images(model, missing, order, maps) if real else _draw_made(model, missing, order, maps)
        for _ in out.track(made, total=len(missing), label="drawing heat maps"):
            pass
    if grid and targets:
        write_png(folder / "sheet.png", drawn_sheet(targets), {"run": run.name})
        out.note(f"all of them: {folder / 'sheet.png'}")
    return [described(target) for target in targets], failed


# ---- what is asked for


def _refuse_contradictions(real, concepts, prompt, words, terms, maps: MapSettings) -> None:
    if sum(map(bool, (concepts, prompt, terms))) > 1:
        raise UcdError("concepts, a prompt and terms are three ways to say one thing", "give one of them")
    if words and not prompt:
        raise UcdError("words of which prompt?", "name it: --prompt 'a <t1> in the snow' --word snow")
    if real and terms:
        raise UcdError("a composition is generated, not found in images", "drop the images, or the terms")
    if real and maps.engine == "daam":
        raise UcdError("daam records what it generates, not real images", "use --engine native for images")
    if len(terms) > 1 and maps.engine == "daam":
        raise UcdError("daam takes one prompt, no composition", "use --engine native for compositions")


def _subjects(run: Run, concepts: Sequence[str], prompt: str | None, words: Sequence[str]) -> dict[str, Subject]:
    """What is to be found, by name."""
    if prompt is None:
        tokens = [t for c in concepts or ["all"] for t in (run.tokens if c == "all" else (_token(run, c),))]
        words = list(dict.fromkeys(tokens))
    else:
        check_words(run, prompt)
        for word in words:
            if word.strip().lower() not in prompt.lower() or not word.strip():
                raise UcdError(f"{word!r} is not in the prompt {prompt!r}", "name words of the prompt")
        words = words or [token for token in run.tokens if token in prompt]
        if not words:
            raise UcdError(f"{prompt!r} names no concept of {run.path}", "say which words to look for, with --word")
    return {_name(word): Subject(word, default_prompt(run.recipe.concepts.property, word)) for word in words}


def _token(run: Run, concept: str) -> str:
    other, _, name = concept.rpartition(":")
    if other:
        raise UcdError(f"{concept!r} is a concept of another run", f"ask that one: --run {other} --concept {name}")
    return run.token(concept)


def _term_subjects(run: Run, terms: Sequence[Term]) -> dict[str, Subject]:
    """Each term of a composition as a subject: its concept, or all that it says."""
    words = [next((token for token in run.tokens if token in term.prompt), term.prompt) for term in terms]
    return {_name(word): Subject(word, term.prompt) for word, term in zip(words, terms, strict=True)}


def _name(word: str) -> str:
    return file_name(bare_name(word))


def _of_made(subjects, prompt, term_subjects, terms, settings: SampleSettings, folder: Path) -> Iterator[Target]:
    """The maps of pictures that are yet to be made."""
    seeds = range(settings.seed, settings.seed + settings.num_images)
    if terms:
        place = folder / file_name("+".join(f"{n}={t.weight:g}" for n, t in zip(term_subjects, terms, strict=True)))
        for n, seed in enumerate(seeds):
            for term, (name, subject) in enumerate(term_subjects.items()):
                yield Target(place / f"{n:05d}-{name}.png", name, subject, Request(tuple(terms), seed), term)
    elif prompt:
        for n, seed in enumerate(seeds):
            request = guided(prompt, settings.guidance_scale, seed)
            for name, subject in subjects.items():
                yield Target(folder / file_name(prompt) / f"{n:05d}-{name}.png", name, subject, request)
    else:
        for name, subject in subjects.items():
            for n, seed in enumerate(seeds):
                request = guided(subject.prompt, settings.guidance_scale, seed)
                yield Target(folder / name / f"{n:05d}.png", name, subject, request)


def _of_images(
    run: Run, places: Sequence[Path], subjects, prompt, maps: MapSettings, folder: Path, out: Output
) -> tuple[list[Target], int]:
    """The maps of real images, and how many of them can't be read."""
    weights = _weights(run)
    targets, failed = [], 0
    for place in places:
        try:
            files = find_images([place])
        except UcdError as error:
            out.error(UcdError(error.message))
            failed += 1
            continue
        for path in files:
            try:
                _open(path)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except UcdError as error:
                out.error(UcdError(f"{error.message} ({error.hint})"))
                failed += 1
                continue
            inside = folder / f"{file_name(path.stem)}-{digest[:6]}"
            for name, subject in subjects.items():
                request = guided(prompt or subject.prompt, maps.guidance_scale, seed=0)
                weight = weights.get(digest, {}).get(subject.word)
                targets.append(Target(inside / f"{name}.png", name, subject, request, 0, path, digest, weight))
    return list({target.path: target for target in targets}.values()), failed


def _open(path: Path) -> Image.Image:
    image = open_image(path)
    if min(image.size) < SMALLEST:
        raise UcdError(
            f"too small: {path} has {image.width} x {image.height} px", f"{SMALLEST} px a side are the least"
        )
    return image


def _weights(run: Run) -> dict[str, dict[str, float]]:
    """The weight of every concept in every training image, by the hash of the file; none where they are not kept."""
    try:
        rows = run.weights.tolist()
        return {
            image.sha256: dict(zip(run.tokens, row, strict=True)) for image, row in zip(run.images, rows, strict=True)
        }
    except UcdError:
        return {}


# ---- making


def _draw_made(model: StableDiffusion, targets: Sequence[Target], order: Order, maps: MapSettings) -> Iterator[Path]:
    """Generate, record and write, a batch of pictures at a time."""
    settings = order.settings
    if maps.engine == "daam":
        for target in targets:
            picture, heat = daam_map(
                model,
                target.request,
                target.subject.word,
                num_inference_steps=settings.steps,
                scheduler=settings.scheduler,
            )
            write_overlay(target, picture, heat, order, maps)
            yield target.path
        return
    requests = list(dict.fromkeys(target.request for target in targets))
    for start in range(0, len(requests), settings.batch_size):
        batch = requests[start : start + settings.batch_size]
        terms = len(batch[0].terms)
        # Each picture has 1 + `terms` rows in the UNet's batch, the unconditional one first.
        rows = [row for row in range(len(batch) * (1 + terms)) if row % (1 + terms)]
        with record_attention(model.unet, rows=rows, selection=maps.selection) as recorder:
            options = {"num_inference_steps": settings.steps, "scheduler": settings.scheduler}
            pictures = list(generate(model, batch, batch_size=len(batch), **options))
        recorded = recorder.maps().unflatten(0, (len(batch), terms))
        inside = [target for target in targets if target.request in batch]
        heats = [
            token_map(recorded[batch.index(t.request), t.term], tokens_of(model, t.prompt, t.subject)) for t in inside
        ]
        if maps.kind == "contrast":
            pixels = torch.stack([to_pixels(picture, model.resolution) for picture in pictures])
            heats = _contrast(model, order.run, pixels, inside, [batch.index(t.request) for t in inside], heats)
        for target, heat in zip(inside, heats, strict=True):
            write_overlay(target, pictures[batch.index(target.request)], heat, order, maps)
            yield target.path


def _draw_images(model: StableDiffusion, targets: Sequence[Target], order: Order, maps: MapSettings) -> Iterator[Path]:
    """Invert, record and write, a batch of images at a time, all the concepts of each in one pass."""
    data, settings = order.run.recipe.data, order.settings
    resolution = data.resolution or model.resolution
    files = list(dict.fromkeys(target.image for target in targets))
    for start in range(0, len(files), settings.batch_size):
        batch = files[start : start + settings.batch_size]
        pictures = [_open(path) for path in batch]
        if data.resize == "crop":
            pictures = [ImageOps.fit(picture, [min(picture.size)] * 2) for picture in pictures]
        pixels = torch.stack([to_pixels(picture, resolution) for picture in pictures])
        latents, _ = model.encode_images(pixels)
        inside = [target for target in targets if target.image in batch]
        rows = [batch.index(target.image) for target in inside]
        recorded, clean = reconstruct(
            model,
            latents[rows],
            [target.prompt for target in inside],
            num_inference_steps=settings.steps,
            guidance_scale=maps.guidance_scale,
            inversion=maps.inversion,
            selection=maps.selection,
        )
        again = model.decode(clean).cpu()
        errors = (again - (pixels[rows] / 2 + 0.5)).square().mean(dim=(1, 2, 3)).sqrt().tolist()
        heats = [token_map(r, tokens_of(model, t.prompt, t.subject)) for r, t in zip(recorded, inside, strict=True)]
        if maps.kind == "contrast":
            heats = _contrast(model, order.run, pixels, inside, rows, heats)
        for i, target in enumerate(inside):
            write_overlay(target, pictures[rows[i]], heats[i], order, maps, to_image(again[i]), errors[i])
            yield target.path


def _contrast(model, run: Run, pixels: Tensor, targets: Sequence[Target], rows: Sequence[int], heats) -> list[Tensor]:
    """Attention where the subject's score explains the picture better than those of the others and of the run's
    concepts do.
    """
    latents, _ = model.encode_images(pixels)
    concepts = [default_prompt(run.recipe.concepts.property, token) for token in run.tokens]
    prompts = list(dict.fromkeys([*(target.subject.prompt for target in targets), *concepts]))
    share = shares(score_gains(model, latents, prompts))
    places = [(row, prompts.index(target.subject.prompt)) for row, target in zip(rows, targets, strict=True)]
    return [normalise(heat) * share[place] for heat, place in zip(heats, places, strict=True)]
