"""A finished run in a notebook: each command as a call that returns what it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from concepts_cli.commands import PICTURES
from concepts_cli.commands.encode import encode
from concepts_cli.commands.evaluate import measure
from concepts_cli.commands.report import report
from concepts_cli.commands.sample import sample
from concepts_cli.commands.visualize import heat_map_settings, visualize
from concepts_cli.core import ROWS, STEPS
from concepts_cli.interface.composing import ComposableRun
from concepts_cli.interface.images import Images, as_files, is_one
from concepts_cli.interface.options import (
    AnyPath,
    SampleOptions,
    Terms,
    output_folder,
    sample_settings,
    several,
    written_terms,
)
from concepts_cli.interface.results import Evaluation, HeatMap, HeatMaps, Pictures, read_picture
from concepts_cli.interface.silence import CallerOutput, silenced
from concepts_cli.metrics.evaluation import add_metrics
from concepts_cli.pictures.overlays import HeatMap as DrawnMap
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.runs.find import find_run


def open_run(path: AnyPath | None = None, *, device: str | None = None, beside: Run | None = None) -> Run:
    """Open a run by its folder, or its name in `runs/`. Default: $UCD_RUN, then the newest run.

    Its model runs on `device`, by default the fastest available; runs opened `beside` another share its model if it is
    the same. Raises UcdError if there is no such run.

        run = ucd.open_run("runs/demo")
    """
    return Run(find_run(None if path is None else Path(path)).path, device=device, beside=beside)


class Run(ComposableRun):
    """A run folder. Shapes: N training images, K concepts, H W latents.

    Its model is loaded by the first call that needs it and kept. Calls that make pictures leave no files unless
    `output` names a folder. There they write what the command would, and keep existing pictures;
    `output=run.path / "samples"` is where `ucd sample` writes. Long calls take `progress`, which draws a bar on stderr.
    """

    @silenced()
    def sample(
        self,
        what: str | Sequence[str] = "all",
        *,
        n: int = PICTURES,
        output: AnyPath | None = None,
        force: bool = False,
        progress: bool = False,
        **options: Unpack[SampleOptions],
    ) -> Pictures:
        """`n` pictures each of concepts (`t3`, or `all`) and of prompts that mention them: `ucd sample`.

        Concepts come first, then prompts, in which `t1` is the concept, too. Picture i of a seed is always the same
        picture. Raises UcdError for a concept the run doesn't have, an option that is wrong, and files in `output` that
        show something else.

            run.sample("t1")
            run.sample("t1 at night", n=8, seed=7, steps=20)
        """
        asked = several(what)
        if not asked:
            return Pictures()
        with output_folder(output) as folder:
            made = sample(
                self._folder,
                prompts=asked,
                settings=sample_settings(self._folder, n, options),
                output=folder,
                force=force,
                device=self._device,
                out=CallerOutput(progress),
            )
            return Pictures(read_picture(Path(picture.path)) for picture in made)

    @silenced()
    def encode(
        self,
        images: Images,
        *,
        steps: int = STEPS,
        seed: int = 0,
        batch_size: int = ROWS,
        output: AnyPath | None = None,
        force: bool = False,
        progress: bool = False,
    ) -> Tensor:
        """How much of each concept is in images the run was not trained on, concepts frozen: `ucd encode`.

        One image gives (K,), a list of M images or a folder (M, K), float32. `steps` is the number of draws of noise
        and timestep per image, `batch_size` that of rows per model call. `output` is a file (.csv, .json or
        .safetensors) to write as well, with each image's losses. Raises UcdError for what can't be read as an image.

            weights = run.encode("photo.jpg")
            run.concepts[weights.argmax()]
        """
        with output_folder(None) as folder:
            files = as_files(images, folder)
            document = encode(
                self._folder,
                files,
                steps=steps,
                seed=seed,
                rows=batch_size,
                output=None if output is None else Path(output),
                force=force,
                device=self._device,
                out=CallerOutput(progress),
            )
        weights = torch.tensor([list(image["weights"].values()) for image in document["images"]])
        return weights[0] if is_one(images) and not files[0].is_dir() else weights

    @silenced()
    def heat_maps(
        self,
        images: Images | None = None,
        *,
        training_images: bool = False,
        concepts: str | Sequence[str] = (),
        prompt: str | None = None,
        words: str | Sequence[str] = (),
        terms: Terms = (),
        n: int = PICTURES,
        maps: MapSettings | None = None,
        output: AnyPath | None = None,
        force: bool = False,
        progress: bool = False,
        **options: Unpack[SampleOptions],
    ) -> HeatMaps:
        """Where concepts are in `images`, or, without any, in `n` generated pictures per concept: `ucd visualize`.

        `training_images` adds those the run was trained on. One map per picture and concept (`concepts`, by default
        all), word (`words` of `prompt`, by default the concepts it mentions), or term of a composition. Real images are
        inverted with 50 steps unless `steps` says otherwise; of the other options they take `guidance_scale`,
        `precision` and `batch_size`, and maps of the kind `daam` take `seed`. `maps` says how maps are made. Raises
        UcdError for an unknown concept, a word that is not in the prompt, and what can't be read as an image.

            for heat_map in run.heat_maps("photo.jpg", concepts=["t1", "t2"]):
                print(heat_map.concept, heat_map.coverage, heat_map.map.shape)
        """
        real = images is not None or training_images
        given = dict(options) if real else {"num_images": n, **options}
        maps = replace(maps or MapSettings(), save_maps=True)
        settings = heat_map_settings(self._folder, given, real=real, kind=maps.kind, as_options=False)
        with output_folder(output) as folder, output_folder(None) as memory:
            drawn, _ = visualize(
                self._folder,
                images=as_files(images, memory) if images is not None else (),
                training_images=training_images,
                concepts=several(concepts),
                prompt=prompt,
                words=several(words),
                terms=written_terms(terms),
                settings=settings,
                maps=maps,
                output=folder,
                grid=True,
                force=force,
                device=self._device,
                out=CallerOutput(progress),
            )
            overlays = [overlay for overlay in drawn if isinstance(overlay, DrawnMap)]
            files = [Path(overlay.image or memory / "none") for overlay in overlays]
            shown = [None if memory in file.parents else file for file in files]
            results = HeatMaps(map(HeatMap.read, overlays, shown))
            results.sheet = read_picture(Path(drawn[-1].path))
            return results

    @silenced()
    def evaluate(
        self,
        *metrics: str,
        class_names: Sequence[str] = (),
        threshold: float | None = None,
        samples: AnyPath | None = None,
        held_out: Sequence[AnyPath] = (),
        progress: bool = False,
    ) -> Evaluation:
        """Measure the run, by default with the recipe's metrics: `ucd evaluate`.

        As the command does, it makes the samples that are missing and writes evaluation.json, both in the run folder.
        Raises UcdError for an unknown metric, and for class names, labels or images that are missing.

            run.evaluate("clip", "assignment")["clip"]["accuracy"]
        """
        out = CallerOutput(progress)
        result = measure(
            self._folder,
            metrics=metrics,
            class_names=class_names,
            threshold=threshold,
            samples=None if samples is None else Path(samples),
            held_out=list(map(Path, held_out)),
            device=self._device,
            out=out,
        )
        with out.mistakes_as_warnings():  # the caller gets the results even if they can't be written
            add_metrics(self._folder, result["metrics"], out)
        return Evaluation(result["metrics"])

    def report(self, output: AnyPath | None = None, *, others: Sequence[Run] = (), force: bool = False) -> Path:
        """Write the page of the run, report.html in its folder by default, and return its path: `ucd report`.

        With `others` the page compares them with this run, and is called report-with-OTHERS.html.
        """
        folders = [other._folder for other in others]
        return report(self._folder, folders, output=None if output is None else Path(output), force=force)
