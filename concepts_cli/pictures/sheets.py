"""Contact sheets of the pictures of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from PIL import Image

from concepts_cli.data.images import open_image
from concepts_cli.drawing.contact_sheet import contact_sheet, overview
from concepts_cli.paths import public_path
from concepts_cli.pictures.names import caption
from concepts_cli.pictures.plan import PicturePlan, Sheet
from concepts_cli.pictures.terms import Sweep
from concepts_cli.runs.files import write_png
from concepts_cli.runs.run import bare_name


def write_sheet(plan: PicturePlan, name: str, title: str | None = None, *, force: bool) -> Sheet:
    """Write a contact sheet with one row per prompt, below the training images if it shows every concept.

    A single row has a title instead of a label, by default its prompt.
    """
    rows: dict[str, list[Image.Image]] = {}
    names = {bare_name(token) for token in plan.run.tokens}
    for place, request in plan.planned:
        label = place.parent.name if place.parent.name in names else " ".join(caption(request).split())
        rows.setdefault(label, []).append(open_image(place))
    originals = [Path(record.path) for record in plan.run.images[:50]]
    if set(rows) == names and all(map(Path.is_file, originals)):
        page = overview([open_image(original) for original in originals], rows, total=len(plan.run.images))
    elif len(rows) == 1:
        ((label, pictures),) = rows.items()
        page = contact_sheet({"": pictures}, title=title or label)
    else:
        page = contact_sheet(rows)
    return save_sheet(plan, name, page, force=force)


def save_sheet(plan: PicturePlan, name: str, page: Image.Image, *, force: bool) -> Sheet:
    """Write a sheet to the plan's folder, as `grid-2.png` and so on if there are others already, unless `force`."""
    first = plan.root / name
    paths = chain([first], (first.with_name(f"{first.stem}-{n}.png") for n in count(2)))
    path = next(path for path in paths if force or not path.exists() or _shows(path, page))
    write_png(path, page, {"run": plan.run.name, "model": public_path(plan.run.recipe.model), "command": plan.command})
    return Sheet(str(path))


def _shows(path: Path, page: Image.Image) -> bool:
    """Whether a file is this page, to the pixel."""
    try:
        with Image.open(path, formats=["PNG"]) as file:
            return file.size == page.size and file.convert("RGB").tobytes() == page.convert("RGB").tobytes()
    except (OSError, SyntaxError, ValueError):
        return False


def write_like_sheet(plan: PicturePlan, image: Path, changes: str, *, force: bool) -> Sheet:
    """Write a sheet of an image beside the pictures made from its weights."""
    title = f"like {image.name}" + (f", {changes}" if changes else "")
    rows = {"the image": [open_image(image)], "made": [open_image(place) for place, _ in plan.planned]}
    return save_sheet(plan, "like.png", contact_sheet(rows, title=title), force=force)


def write_sweep_sheets(plan: PicturePlan, title: str, sweeps: Sequence[Sweep], *, force: bool) -> list[Sheet]:
    """For one sweep, write one sheet with a row per seed; for two, one sheet per seed, the second sweep downwards."""
    settings = plan.settings
    pictures = [open_image(path) for path, _ in plan.planned]
    seeds = range(settings.num_images)
    by_seed = [pictures[n :: settings.num_images] for n in seeds]  # each in the order of the cells
    across, weights = sweeps[0].name, [f"{weight:g}" for weight in sweeps[0].weights]
    if len(sweeps) == 1:
        rows = {f"seed {settings.seed + n}": by_seed[n] for n in seeds}
        heading = f"{title} + {across}" if title else across
        page = contact_sheet(rows, title=heading, headings=weights)
        return [save_sheet(plan, "sweep.png", page, force=force)]
    down = sweeps[1].labels
    heading = " + ".join(filter(None, [title, sweeps[1].name, across]))
    return [
        save_sheet(
            plan,
            f"sweep-{n:05d}.png",
            contact_sheet(
                {label: by_seed[n][row :: len(down)] for row, label in enumerate(down)},
                title=heading,
                detail=f"seed {settings.seed + n}",
                headings=weights,
            ),
            force=force,
        )
        for n in seeds
    ]
