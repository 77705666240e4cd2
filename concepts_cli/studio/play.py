"""What the page can ask for: runs, pictures as they appear, heat maps, and changes to concepts."""

from __future__ import annotations

import base64
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from concepts_cli.drawing.hues import hues
from concepts_cli.drawing.overlay import panels
from concepts_cli.errors import UcdError, shown
from concepts_cli.interface import Run
from concepts_cli.studio.kept import COMPOSITIONS, kept_mixes
from concepts_cli.studio.pictures import RunPictures, from_data, to_data

IMAGES = 300  # shown of a run
HEAT_STEPS = 10  # of an inversion: the map is there in seconds
Answer = dict[str, Any]  # JSON


class Studio:
    """Several runs on their models. Calls may come from many threads: they take turns, a watched picture frame by
    frame, so that all pages see their pictures appear.

    Runs go by their place in `runs`; those that are made here, of others' concepts, join at the end.
    """

    def __init__(self, runs: Sequence[Run]):
        self.runs = list(runs)
        self.is_ending: Callable[[], bool] = lambda: False  # an unfinished picture would keep the program alive
        self._turn = threading.Lock()  # a model does one thing at a time
        self._newest: dict[str, int] = {}  # a pane of a page -> its newest request

    @classmethod
    def of(cls, paths: Sequence[Path], *, device: str | None = None) -> Studio:
        """The studio of these runs; those of one model share it."""
        first = Run(paths[0], device=device)
        return cls([first, *(Run(path, beside=first) for path in paths[1:])])

    def load_models(self) -> None:
        """Load what the first pictures need, so that they don't wait for it."""
        with self._turn:
            for run in self.runs:
                _ = run.model

    # ---- looking

    def describe(self, place: int) -> Answer:
        """A run as the page shows it: its concepts, its images with their weights, and its kept mixes."""
        run = self._run(place)
        pictures = RunPictures(run)
        scale = run.recipe.sample.guidance_scale
        weights = run.weights[:IMAGES].tolist() if pictures.has_images else []
        most = max((abs(weight) for row in weights for weight in row), default=0.0)
        return {
            "run": place,
            "name": run.name,
            "path": str(run.path),
            "model": run.recipe.model,
            "scale": scale,
            "limit": round(max(2 * scale, 1.5 * most)),
            "total": len(weights) and len(run.images),
            "concepts": [
                {"name": name, "guess": pictures.guesses.get(name, ""), "hue": hue, "face": face}
                for name, hue, face in zip(run.concepts, hues(len(run.concepts)), pictures.faces, strict=True)
            ],
            "images": [
                {
                    "row": row,
                    "title": Path(record.path).name,
                    "picture": pictures.thumbnail(row),
                    "weights": weights[row],
                }
                for row, record in enumerate(run.images[: len(weights)] if weights else [])
            ],
            "kept": kept_mixes(run.path),
        }

    def start_from(self, place: int, image: int | str) -> Answer:
        """The mix that an image starts: a training image by its row, any other as a data URL."""
        run = self._run(place)
        source = self._image(run, image)
        with self._turn:
            return {"terms": list(run.terms_like(source).items())}

    def heat(self, place: int, concept: str, image: int | str) -> Answer:
        """An image under the heat map of a concept, and the share of it that the concept covers."""
        run = self._run(place)
        source = self._image(run, image)
        with self._turn:
            (heat_map,) = run.heat_maps(source, concepts=concept, steps=HEAT_STEPS)
        return {"picture": to_data(panels(heat_map.overlay)[1]), "coverage": heat_map.coverage, "peak": heat_map.peak}

    # ---- mixing

    def mix(self, place: int, terms: list[Any], seed: int, pane: str, ticket: int) -> Iterator[Answer]:
        """Frames of a mix's picture as it is denoised. A pane's newer request, by its ticket, ends the older one."""
        self._newest[pane] = max(ticket, self._newest.get(pane, ticket))
        run, notes = self._run(place), list[str]()
        frames = None
        while True:
            with self._turn:
                if self.is_ending() or self._newest[pane] != ticket:
                    return
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    frames = frames or run.watch(_read(terms), seed=seed)
                    frame = next(frames, None)
                notes += [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]
            if frame is None:
                return
            answer = {"step": frame.step, "steps": frame.steps, "picture": to_data(frame.picture), "notes": notes}
            yield answer | {"command": frame.picture.info.get("command", "")}

    def keep(self, place: int, terms: list[Any], seed: int) -> Answer:
        """Write a mix's picture to the run's compositions, where its report shows it too."""
        run = self._run(place)
        with self._turn:
            run.compose(_read(terms), n=1, seed=seed, output=run.path / COMPOSITIONS)
        return {"kept": kept_mixes(run.path)}

    def export(self, place: int, terms: list[Any], name: str, form: str) -> Answer:
        """A mix's concepts as one word: the `embedding` as a file, or the `recipe` that trains it on."""
        run = self._run(place)
        with self._turn:
            weights = self._weights(place, terms)
            if form != "recipe":
                data = base64.b64encode(_embedding_file(run, weights, name)).decode()
                return {"file": f"{name}.safetensors", "data": data}
            made = run.blend(weights, name)
            text = made.continuing_recipe()
        return {"file": f"{made.name}.yaml", "text": text, "note": f"its word is in {made.path}"}

    def _weights(self, place: int, terms: list[Any]) -> dict[str, float]:
        """The terms that are the run's own concepts; a word can't hold the others."""
        concepts = self._run(place).concepts
        return {name: weight for name, weight in _read(terms).items() if name in concepts}

    # ---- concepts

    def rename(self, place: int, concept: str, name: str) -> Answer:
        with self._turn:
            self._run(place).rename(concept, name)
        return self.describe(place)

    def merge(self, place: int, concepts: list[str]) -> Answer:
        run = self._run(place)
        return self._joined(lambda: run.merge(concepts))

    def drop(self, place: int, concept: str) -> Answer:
        run = self._run(place)
        return self._joined(lambda: run.drop(concept))

    def _joined(self, make: Callable[[], Run]) -> Answer:
        """The description of a run that `make` makes, at the end of the others."""
        with self._turn:
            self.runs.append(make())
            place = len(self.runs) - 1
        return self.describe(place)

    # ---- internals

    def _run(self, place: int) -> Run:
        if not 0 <= place < len(self.runs):
            raise UcdError("this run is not in the studio any more", "reload the page")
        return self.runs[place]

    def _image(self, run: Run, image: int | str) -> Path | Image.Image:
        if isinstance(image, str):
            return from_data(image)
        if RunPictures(run).thumbnail(image) is None:
            raise UcdError(f"image {image} is no longer there, or has changed", "restore the run's images")
        return Path(run.images[image].path)


def _read(terms: list[Any]) -> dict[str, float]:
    """Terms as the page sends them, pairs of a name and a weight: those that have one."""
    pairs = [pair for pair in terms if isinstance(pair, list) and len(pair) == 2]
    if len(pairs) < len(terms) or not all(isinstance(n, str) and isinstance(w, int | float) for n, w in pairs):
        raise UcdError(f"{shown(terms)} are not terms with weights", "reload the page")
    return {name: weight for name, weight in pairs if weight}


def _embedding_file(run: Run, weights: dict[str, float], name: str) -> bytes:
    """The file of a mix's word, which diffusers, AUTOMATIC1111 and ComfyUI load, or OneTrainer."""
    with tempfile.TemporaryDirectory(prefix="ucd-") as folder:
        made = run.blend(weights, name, output=folder)
        if made.recipe.concepts.where == "output":  # the one tool that has a place for it
            return made.export("onetrainer")[0].read_bytes()
        (file,) = (made.path / "embeddings").iterdir()
        return file.read_bytes()
