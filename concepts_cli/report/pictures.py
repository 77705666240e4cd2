"""The pictures of a run folder, as the page shows them: samples, heat maps and compositions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from concepts_cli.report.commands import changed_options, command
from concepts_cli.report.inline import Gallery
from concepts_cli.runs.files import png_text
from concepts_cli.runs.reading import parse_json
from concepts_cli.runs.run import Run, bare_name

SAMPLES, OTHERS = 8, 24
SIDE = 256  # of pictures on the page, px


@dataclass(frozen=True)
class Shown:
    """A picture on the page: its CSS class (None if the file is gone), and what it shows."""

    picture: str | None
    title: str
    note: str = ""


@dataclass
class Pictures:
    """The PNGs in a run folder, and the CSS classes that show them."""

    run: Run
    gallery: Gallery

    @property
    def names(self) -> list[str]:
        return [bare_name(token) for token in self.run.tokens]

    def files(self, folder: str) -> dict[str, list[Path]]:
        """The PNGs in a folder of the run, by the subfolder that contains them."""
        root, by_subfolder = self.run.path / folder, defaultdict(list)
        for path in sorted(root.rglob("*.png")):
            place = path.relative_to(root)
            if len(place.parts) > 1 and not path.name.startswith(".") and path.is_file():
                by_subfolder[place.parts[0]].append(path)
        return dict(by_subfolder)

    def shown(self, path: Path, side: int = SIDE) -> Shown:
        metadata = png_text(path)
        seed = f"seed {metadata['seed']}" if "seed" in metadata else ""
        return Shown(self.gallery.add(path, side), metadata.get("prompt", path.name), seed)

    @cached_property
    def heat_maps(self) -> dict[str, list[Path]]:
        """Heat maps by concept: named by their folder for generated images, by their file for real ones."""
        by_concept: dict[str, list[Path]] = defaultdict(list)
        for folder, paths in self.files("heatmaps").items():
            for path in paths:
                if not path.stem.endswith("-mask"):
                    by_concept[path.stem if path.stem in self.names else folder].append(path)
        return dict(by_concept)

    @cached_property
    def other_heat_maps(self) -> list[Shown]:
        """Heat maps of prompts and compositions, which belong to no single concept."""
        others = [path for name, paths in self.heat_maps.items() if name not in self.names for path in paths]
        return [self.shown(path, 2 * SIDE) for path in others[:OTHERS]]

    @cached_property
    def compositions(self) -> list[tuple[Shown, list[Shown]]]:
        """Each composition with its command, and its pictures."""
        entries = []
        for name, paths in self.files("compositions").items():
            entries.append((Shown(None, name, self._command(paths)), [self.shown(path) for path in paths[:SAMPLES]]))
        return entries

    def _command(self, paths: Sequence[Path]) -> str:
        """The command that makes a composition's pictures again; empty for those of a sweep, whose terms differ."""
        made = [metadata for metadata in map(png_text, paths) if "terms" in metadata]  # sheets have none
        if len({metadata["terms"] for metadata in made}) != 1 or not (terms := _typed_terms(made[0]["terms"])):
            return ""
        options = changed_options(made[0], self.run, "steps", "scheduler", "seed")
        return command(self.run, "compose", *terms, "--num-images", str(len(made)), *options)


def _typed_terms(text: str) -> list[str]:
    """The terms that a picture says it is made of; none if they can't be read, or would be options."""
    try:
        terms: object = parse_json(text)
    except ValueError:
        return []
    if isinstance(terms, list) and all(isinstance(term, str) and term[:1] != "-" for term in terms):
        return terms
    return []
