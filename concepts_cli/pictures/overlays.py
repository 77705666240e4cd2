"""Overlays: heat maps as files, made once and recognised later by their metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from concepts_cli.core.attention import normalise
from concepts_cli.core.heat_maps import CORRECTIONS, Subject
from concepts_cli.core.sampling import Request
from concepts_cli.drawing.overlay import mask, numbers, overlay, panels, sheet
from concepts_cli.errors import UcdError, did_you_mean
from concepts_cli.models.interface import EVERYTHING, Selection
from concepts_cli.pictures.names import caption
from concepts_cli.pictures.plan import PicturePlan, free_folder, is_made
from concepts_cli.recipe.numbers import check_number
from concepts_cli.runs.files import png_text, replacing, write_png
from concepts_cli.runs.reading import parse_json

KINDS, ENGINES, INVERSIONS = ("contrast", "attention", "daam"), ("native", "daam"), tuple(CORRECTIONS)


@dataclass(frozen=True)
class MapSettings:
    """How maps are made, and which files are written."""

    # contrast: attention times the share of a place that the concept's score explains; attention alone; or daam:
    # attention as the published scripts record it with that package
    kind: str = "contrast"
    engine: str = "native"
    inversion: str = "ddim"
    selection: Selection = EVERYTHING
    threshold: float = 0.25  # heat from which a place is covered, and white in a mask
    save_maps: bool = False
    save_masks: bool = False

    def __post_init__(self) -> None:
        chosen = (("kind of map", self.kind, KINDS), ("engine", self.engine, ENGINES))
        for what, value, known in (*chosen, ("inversion", self.inversion, INVERSIONS)):
            if value not in known:  # in words of both the keyword, `kind`, and the option, `--map`
                raise UcdError(f"no {what} {value!r}", did_you_mean(value, known))
        check_number("threshold", self.threshold, {"at_least": 0, "at_most": 1})
        if self.engine == "daam" and (self.kind != "attention" or self.selection != EVERYTHING):
            raise UcdError(
                "the engine daam has only attention maps, of all its layers, heads and timesteps",
                "use --engine native for others",
            )

    @property
    def options(self) -> list[tuple[str, object]]:
        """What is not as by default, as options of `ucd visualize`."""
        usual = MapSettings(kind="attention" if self.engine == "daam" else "contrast", engine=self.engine)
        chosen = self.selection
        return [
            ("map", self.kind if self.kind != usual.kind else None),
            ("engine", self.engine if self.engine != "native" else None),
            ("inversion", self.inversion if self.inversion != usual.inversion else None),
            *(("layer", layer) for layer in chosen.layers),
            *(("resolution", resolution) for resolution in chosen.resolutions),
            *(("head", head) for head in chosen.heads),
            ("timesteps", chosen.timesteps),
            ("threshold", self.threshold if self.threshold != usual.threshold else None),
            ("maps", self.save_maps),
            ("masks", self.save_masks),
        ]

    @property
    def attention(self) -> Selection:
        """The attention to record."""
        return replace(self.selection, daam=True) if self.kind == "daam" else self.selection


@dataclass(frozen=True)
class MapNumbers:
    """A map in numbers; places are shares of the picture's width and height."""

    concept: str
    prompt: str
    seed: int | None  # of a generated picture
    weight: float | None  # of the concept, in a training image
    mean: float
    peak: float
    center: tuple[float, float]  # of mass: from the left, from the top
    coverage: float  # the share of the picture where the map exceeds the threshold
    reconstruction_error: float | None  # of a real image: root mean squared, of pixels in [0, 1]


@dataclass(frozen=True)
class HeatMap(MapNumbers):
    """A map and its files."""

    path: str  # the overlay
    image: str | None  # a real one
    map: str | None  # float32 at the latents' size, .npy
    mask: str | None  # white where the map exceeds the threshold


@dataclass(frozen=True)
class Target:
    """A map to draw: its file, its subject, and the request for the picture (or reconstruction) that it shows."""

    path: Path
    name: str  # t1, or a word
    subject: Subject
    request: Request
    term: int = 0  # which of the request's terms it maps
    image: Path | None = None
    sha256: str = ""
    weight: float | None = None

    @property
    def prompt(self) -> str:
        return self.request.terms[self.term].prompt

    @property
    def map_path(self) -> Path:
        return self.path.with_suffix(".npy")

    @property
    def mask_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-mask.png")


def metadata(target: Target, plan: PicturePlan, maps: MapSettings) -> dict[str, str]:
    """An overlay's metadata: enough to make it again."""
    chosen = {name: value for name, value in vars(maps.selection).items() if value}
    if target.image:
        fields = plan.shared_metadata(target.request) | {"image": target.sha256, "inversion": maps.inversion}
        if maps.kind == "daam":
            fields["seed"] = str(plan.settings.seed)
    else:
        fields = plan.metadata(target.request)
    return fields | {
        "word": target.subject.word,
        "term": str(target.term),
        "map": maps.kind,
        "engine": maps.engine,
        "attention": json.dumps(chosen) if chosen else "all",
        "threshold": f"{maps.threshold:g}",
    }


def beside(plan: PicturePlan, targets: Sequence[Target], maps: MapSettings) -> tuple[PicturePlan, list[Target]]:
    """The maps, in a folder of their own inside the plan's if files there show something else."""
    inside = [target.path.relative_to(plan.root) for target in targets]
    free = free_folder(plan.root, [(path, metadata(t, plan, maps)) for path, t in zip(inside, targets, strict=True)])
    moved = [replace(target, path=free / path) for path, target in zip(inside, targets, strict=True)]
    return replace(plan, root=free), moved


def is_drawn(target: Target, plan: PicturePlan, maps: MapSettings) -> bool:
    whole = (target.map_path.is_file() or not maps.save_maps) and (target.mask_path.is_file() or not maps.save_masks)
    return is_made(target.path, metadata(target, plan, maps)) and whole and read_figures(target.path) is not None


def read_figures(path: Path) -> dict[str, Any] | None:
    """The numbers that an overlay carries; None if it has none, or none that say where its panels are."""
    text = png_text(path)
    try:
        figures, (shown, hot) = parse_json(text["numbers"]), parse_json(text["panels"])
        across, down = map(float, figures["center"])
        with Image.open(path, formats=["PNG"]) as page:
            for left, top, right, bottom in (shown, hot):
                if not (0 <= left < right <= page.width and 0 <= top < bottom <= page.height):
                    return None
        error = figures["reconstruction_error"]
        named = {name: float(figures[name]) for name in ("mean", "peak", "coverage")}
        return named | {"center": (across, down), "reconstruction_error": None if error is None else float(error)}
    except (KeyError, OSError, TypeError, ValueError):
        return None


def described(target: Target) -> HeatMap:
    figures = read_figures(target.path) or {}
    return HeatMap(
        path=str(target.path),
        concept=target.name,
        prompt=target.prompt,
        seed=None if target.image else target.request.seed,
        image=str(target.image) if target.image else None,
        weight=target.weight,
        map=str(target.map_path) if target.map_path.is_file() else None,
        mask=str(target.mask_path) if target.mask_path.is_file() else None,
        **figures,
    )


def drawn_sheet(targets: Sequence[Target]) -> Image.Image:
    """One row per picture: the picture, then the picture under each of its maps."""
    rows: dict[str, list[tuple[Image.Image, str]]] = {}
    for target in targets:
        label = target.image.name if target.image else f"seed {target.request.seed}"
        key = f"{target.sha256 or caption(target.request)} {label}"
        with Image.open(target.path, formats=["PNG"]) as page:
            picture, hot = panels(page)
        map_label = target.name if target.weight is None else f"{target.name}  {target.weight:.2f}"
        rows.setdefault(key, [(picture, label)]).append((hot, map_label))
    return sheet(list(rows.values()))


def write_overlay(
    target: Target,
    picture: Image.Image,
    heat: Tensor,
    plan: PicturePlan,
    maps: MapSettings,
    reconstruction: Image.Image | None = None,
    error: float | None = None,
) -> None:
    """Write the overlay, and the map and the mask if they are asked for."""
    raw = heat.float().cpu().numpy()
    # A contrast is already in [0, 1], and its low values should look low; attention is not.
    shown = raw if maps.kind == "contrast" else normalise(heat).float().cpu().numpy()
    about = [target.image.name if target.image else f"seed {target.request.seed}", target.prompt]
    if target.weight is not None:
        about.insert(1, f"weight {target.weight:.2f}")
    extra = (reconstruction, f"reconstruction, error {error:.3f}") if reconstruction else None
    page, boxes = overlay(picture, shown, title=target.subject.word, subtitle="  ·  ".join(about), extra=extra)
    if maps.save_maps:
        with replacing(target.map_path) as beside:
            np.save(beside, raw)
    if maps.save_masks:
        write_png(target.mask_path, mask(shown, picture.size, maps.threshold), {"threshold": maps.threshold})
    figures = numbers(raw, shown, maps.threshold) | {"reconstruction_error": error}
    text = {"numbers": json.dumps(figures), "panels": json.dumps(boxes)}
    write_png(target.path, page, metadata(target, plan, maps) | text)
