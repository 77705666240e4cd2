"""A run whose concepts are composed: as finished pictures, watched, or started from an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from concepts_cli.commands import PICTURES
from concepts_cli.commands.compose import compose
from concepts_cli.core.watching import Frame
from concepts_cli.interface.editing import EditableRun
from concepts_cli.interface.images import AnyImage, as_files
from concepts_cli.interface.options import (
    AnyPath,
    SampleOptions,
    Terms,
    output_folder,
    sample_settings,
    several,
    written_terms,
)
from concepts_cli.interface.results import Pictures, read_picture
from concepts_cli.interface.silence import CallerOutput, silenced, silenced_steps
from concepts_cli.pictures.compositions import plan_composition
from concepts_cli.pictures.likeness import image_weights, own_weights
from concepts_cli.pictures.making import watch_picture
from concepts_cli.pictures.plan import Picture
from concepts_cli.runs.run import bare_name

FRAMES = 8  # of a picture that is watched


class ComposableRun(EditableRun):
    """A run whose concepts can be put into one picture, each with its weight."""

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
