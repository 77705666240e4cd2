"""Contact sheets of the pictures of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from concepts_cli.data.images import open_image
from concepts_cli.drawing.contact_sheet import contact_sheet, overview
from concepts_cli.paths import public_path
from concepts_cli.pictures.names import caption
from concepts_cli.pictures.plan import Picture, PicturePlan
from concepts_cli.pictures.terms import Sweep
from concepts_cli.runs.files import write_png
from concepts_cli.runs.run import bare_name


def write_sheet(plan: PicturePlan, path: Path, title: str | None = None) -> Picture:
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
    return save_sheet(plan, path, page)


def save_sheet(plan: PicturePlan, path: Path, page: Image.Image) -> Picture:
    write_png(
        path, page, {"run": plan.run.name, "model": public_path(plan.run.recipe.model), "seed": plan.settings.seed}
    )
    return Picture(str(path), "contact sheet", plan.settings.seed)


def write_like_sheet(plan: PicturePlan, path: Path, image: Path, changes: str) -> Picture:
    """Write a sheet of an image beside the pictures made from its weights."""
    title = f"like {image.name}" + (f", {changes}" if changes else "")
    rows = {"the image": [open_image(image)], "made": [open_image(place) for place, _ in plan.planned]}
    return save_sheet(plan, path, contact_sheet(rows, title=title))


def write_sweep_sheets(plan: PicturePlan, folder: Path, title: str, sweeps: Sequence[Sweep]) -> list[Picture]:
    """For one sweep, write one sheet with a row per seed; for two, one sheet per seed, the second sweep downwards."""
    settings = plan.settings
    pictures = [open_image(path) for path, _ in plan.planned]
    seeds = range(settings.num_images)
    by_seed = [pictures[n :: settings.num_images] for n in seeds]  # each in the order of the cells
    across, weights = sweeps[0].name, [f"{weight:g}" for weight in sweeps[0].weights]
    if len(sweeps) == 1:
        rows = {f"seed {settings.seed + n}": by_seed[n] for n in seeds}
        heading = f"{title} + {across}" if title else across
        return [save_sheet(plan, folder / "sweep.png", contact_sheet(rows, title=heading, headings=weights))]
    down = sweeps[1].labels
    heading = " + ".join(filter(None, [title, sweeps[1].name, across]))
    return [
        save_sheet(
            plan,
            folder / f"sweep-{n:05d}.png",
            contact_sheet(
                {label: by_seed[n][row :: len(down)] for row, label in enumerate(down)},
                title=heading,
                detail=f"seed {settings.seed + n}",
                headings=weights,
            ),
        )
        for n in seeds
    ]
