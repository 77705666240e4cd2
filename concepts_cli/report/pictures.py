"""The pictures of a run folder, as the page shows them: samples, heat maps, compositions, and their sheets."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from concepts_cli.report.inline import Gallery
from concepts_cli.runs.files import png_text
from concepts_cli.runs.run import Run, bare_name

SAMPLES, OTHERS, STRONGEST = 8, 24, 6
PREVIEWS = 24
SIDE, SHEET, PREVIEW_SIDE = 256, 1200, 800  # of pictures, sheets and previews on the page, px
MAKING = ("sample", "compose", "visualize")
ELSEWHERE = ("--force", "--output", "-o")  # a run from elsewhere must not suggest to overwrite something


@dataclass(frozen=True)
class Shown:
    """A picture on the page: its CSS class (None if the file is gone), and what it shows."""

    picture: str | None
    title: str
    note: str = ""


@dataclass(frozen=True)
class Composition:
    """What `ucd compose` made in one go: its sheets, or else its pictures."""

    title: str
    command: str  # empty if it is not known
    sheets: list[Shown]
    pictures: list[Shown]


@dataclass
class Pictures:
    """The PNGs in a run folder, and the CSS classes that show them."""

    run: Run
    gallery: Gallery

    @property
    def names(self) -> list[str]:
        return [bare_name(token) for token in self.run.tokens]

    @cached_property
    def samples(self) -> dict[str, list[Path]]:
        """The samples of each concept: those in its own folder, or else those of other settings."""
        root = self.run.path / "samples"
        found = {}
        for name in self.names:
            folders = [root / name, *sorted(path for path in root.glob(f"*/**/{name}") if path.is_dir())]
            found[name] = next(filter(None, map(_numbered, folders)), [])
        return found

    @cached_property
    def sheets(self) -> list[Shown]:
        """The sheets of samples, each with its command."""
        sheets = (self.run.path / "samples").glob("[!.]*.png")
        return self._sheets(sorted(sheets, key=lambda path: (len(path.name), path.name)))  # grid.png before grid-2.png

    @cached_property
    def strongest(self) -> dict[str, list[int]]:
        """The training images with most of each concept, by their rows."""
        order = self.run.weights.argsort(dim=0, descending=True, stable=True)[:STRONGEST]
        return dict(zip(self.names, order.T.tolist(), strict=True))

    @cached_property
    def heat_maps(self) -> dict[str, list[Path]]:
        """The heat maps of each concept: those of its strongest training images, then those of other pictures, by name.

        Where a concept is in training images with little of it says nothing about it.
        """
        maps: dict[str, list[tuple[int, Path]]] = defaultdict(list)
        hashes = [image.sha256 for image in self.run.images]
        for path in _below(self.run.path / "heatmaps"):
            metadata = png_text(path)
            name = bare_name(metadata.get("word", path.stem if path.stem in self.names else path.parent.name))
            if "word" in metadata or not (path.stem.endswith("-mask") or path.stem.startswith("sheet")):
                shown = [hashes[row] for row in self.strongest.get(name, ())]
                image = metadata.get("image", "")
                if image in shown or image not in hashes:
                    maps[name].append((shown.index(image) if image in shown else STRONGEST, path))
        return {name: [path for _, path in sorted(found)] for name, found in maps.items()}

    @cached_property
    def other_heat_maps(self) -> list[Shown]:
        """Heat maps of prompts and compositions, which belong to no single concept."""
        others = [path for name, paths in self.heat_maps.items() if name not in self.names for path in paths]
        return [self.shown(path, 2 * SIDE) for path in others[:OTHERS]]

    @cached_property
    def compositions(self) -> list[Composition]:
        """Each composition, a folder; the pictures of a sweep are on its sheets, where they are labelled."""
        root, folders = self.run.path / "compositions", defaultdict(list)
        for path in _below(root):
            folders[path.parent].append(path)
        swept = {folder for folder, paths in folders.items() if any(path.stem.startswith("sweep") for path in paths)}
        chosen = {folder: paths for folder, paths in folders.items() if folder.parent not in swept}
        return [self._composition(str(folder.relative_to(root)), paths) for folder, paths in chosen.items()]

    @cached_property
    def previews(self) -> list[tuple[str, Shown]]:
        """Samples during the training, oldest first, each with its step: at most PREVIEWS, evenly spread."""
        found = [path for path in sorted((self.run.path / "previews").glob("step-*.png")) if path.stem[5:].isdecimal()]
        chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), PREVIEWS)).round().astype(int))
        shown = ((f"{int(found[n].stem[5:]):,}", self.gallery.add(found[n], PREVIEW_SIDE)) for n in chosen)
        return [(step, Shown(picture, f"samples at step {step}")) for step, picture in shown if picture]

    def _composition(self, title: str, paths: Sequence[Path]) -> Composition:
        pictures = [path for path in paths if path.stem.isdecimal()]
        sheets = self._sheets([path for path in paths if path not in pictures])
        return Composition(title, self.command(paths), sheets, [self.shown(path) for path in pictures[:SAMPLES]])

    def _sheets(self, paths: Sequence[Path]) -> list[Shown]:
        return [Shown(self.gallery.add(path, SHEET), path.stem, self.command([path])) for path in paths]

    def shown(self, path: Path, side: int = SIDE) -> Shown:
        metadata = png_text(path)
        seed = f"seed {metadata['seed']}" if "seed" in metadata else ""
        return Shown(self.gallery.add(path, side), metadata.get("prompt", path.name), seed)

    def command(self, paths: Sequence[Path]) -> str:
        """The command that made these pictures, as the last of them says; empty if it says none that could be run.

        It is quoted anew, and writes only where the run is: a run may come from anyone.
        """
        try:
            words = shlex.split(png_text(paths[-1]).get("command", "")) if paths else []
        except ValueError:
            return ""
        usual = len(words) > 2 and words[0] == "ucd" and words[1] in MAKING
        return shlex.join(words) if usual and not any(word.split("=")[0] in ELSEWHERE for word in words) else ""


def _below(root: Path) -> Iterator[Path]:
    """The PNGs in the folders of a folder."""
    for path in sorted(root.rglob("*.png")):
        if path.parent != root and not path.name.startswith(".") and path.is_file():
            yield path


def _numbered(folder: Path) -> list[Path]:
    """The pictures in a folder; not a sheet, which has a name."""
    return sorted(path for path in folder.glob("*.png") if path.stem.isdecimal() and path.is_file())
