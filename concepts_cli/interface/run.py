"""A finished run in a notebook: each command as a call that returns what it makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from concepts_cli.commands import PICTURES
from concepts_cli.commands.compose import compose
from concepts_cli.commands.encode import encode
from concepts_cli.commands.evaluate import measure
from concepts_cli.commands.report import report
from concepts_cli.commands.sample import sample
from concepts_cli.commands.visualize import heat_map_settings, visualize
from concepts_cli.core import ROWS, STEPS
from concepts_cli.core.watching import Frame
from concepts_cli.interface.editing import EditableRun
from concepts_cli.interface.images import AnyImage, Images, as_files, is_one
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
from concepts_cli.interface.silence import CallerOutput, silenced, silenced_steps
from concepts_cli.metrics.evaluation import add_metrics
from concepts_cli.pictures.compositions import plan_composition
from concepts_cli.pictures.likeness import image_weights, own_weights
from concepts_cli.pictures.making import watch_picture
from concepts_cli.pictures.overlays import HeatMap as DrawnMap
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.pictures.plan import Picture
from concepts_cli.runs.find import find_run
from concepts_cli.runs.run import bare_name

FRAMES = 8  # of a picture that is watched


def open_run(path: AnyPath | None = None, *, device: str | None = None, beside: Run | None = None) -> Run:
    """Open a run by its folder, or its name in `runs/`. Default: $UCD_RUN, then the newest run.

    Its model runs on `device`, by default the fastest available; runs opened `beside` another share its model if it is
    the same. Raises UcdError if there is no such run.

        run = ucd.open_run("runs/demo")
    """
    return Run(find_run(None if path is None else Path(path)).path, device=device, beside=beside)


class Run(EditableRun):
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
    def compose(
        self,
        terms: Terms = (),
        *,
        like: AnyImage | None = None,
        sweep: str | Sequence[str] = (),
        n: int | None = None,
        output: AnyPath | None = None,
        force: bool = False,
        progress: bool = False,
        **options: Unpack[SampleOptions],
    ) -> Pictures:
        """`n` pictures of several concepts and texts at once, each with its weight: `ucd compose`.

        A term is a concept, a concept of another run (`other:t1`), or free text, with an optional place where it acts:
        `t1@left`, `a cat@0.5,0,1,1`. Weights may be negative. The terms of a list are written as for the command,
        `"t1=5"`; without a weight they use the guidance scale. With `like` the image's own weights come first, and
        terms change them. `sweep` varies the weight of a term, `"t1=0:10:5"`; two make a plane. `n` is by default 4, or
        1 per weight of a sweep. Raises UcdError for an unknown run or concept, a weight that is not a number, and runs
        whose models can't be composed.

            run.compose({"t1": 5, "at night": 2})
        """
        count = n if n is not None else 1 if sweep else PICTURES
        with output_folder(output) as folder, output_folder(None) as memory:
            made = compose(
                self._folder,
                written_terms(terms),
                sweeps=several(sweep),
                like=None if like is None else as_files(like, memory)[0],
                settings=sample_settings(self._folder, count, options),
                output=folder,
                force=force,
                device=self._device,
                out=CallerOutput(progress),
            )
            return Pictures(read_picture(Path(picture.path)) for picture in made if isinstance(picture, Picture))

    @silenced()
    def watch(
        self,
        terms: Terms,
        *,
        frames: int = FRAMES,
        **options: Unpack[SampleOptions],
    ) -> Iterator[Frame]:
        """The first picture of `compose`, watched as it is denoised: about `frames` frames, the last one finished.

        A frame has `step`, `steps`, `picture` and `is_last`; the first comes after one step. The finished picture's
        `.info` has what made it, the command included. Raises what `compose` raises.

            for frame in run.watch({"t1": 5, "at night": 2}, seed=7):
                frame.picture.save(f"{frame.step:02d}.png")
        """
        settings = sample_settings(self._folder, 1, options)
        plan = plan_composition(
            self._folder, written_terms(terms), settings=settings, usual_images=PICTURES, device=self._device
        ).plan
        return silenced_steps(watch_picture(plan, frames=frames, out=CallerOutput()))

    @silenced()
    def terms_like(self, image: AnyImage, *, guidance_scale: float | None = None) -> dict[str, float]:
        """The terms that `compose` starts from with `like=image`: how much of each concept to mix, those that count.

        They are a training image's trained weights, and those that `encode` finds for any other image; weights that
        sum to one are shares of `guidance_scale`, by default the recipe's. Raises UcdError for what can't be read as
        an image.

            mix = run.terms_like("photo.jpg") | {"at night": 3}
        """
        scale = self.recipe.sample.guidance_scale if guidance_scale is None else guidance_scale
        with output_folder(None) as memory:
            weights = image_weights(self._folder, as_files(image, memory)[0], self._device)
        return {bare_name(token): weight for token, weight in own_weights(self._folder, weights, scale).items()}

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
