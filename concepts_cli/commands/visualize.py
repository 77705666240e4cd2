"""`ucd visualize`: where in its pictures a concept lives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from concepts_cli.core.attention import normalise, record_attention, token_map
from concepts_cli.core.overlay import overlay
from concepts_cli.core.sampling import Request, generate
from concepts_cli.data.prompts import default_prompt
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.output import Output
from concepts_cli.pictures import Order, concept_order
from concepts_cli.recipe import SampleSettings
from concepts_cli.run_dir import Run, bare_name, write_png

NUM_IMAGES = 4  # a concept, when nobody says how many


@dataclass(frozen=True)
class HeatMap:
    """An overlay: a concept's attention on a picture of it."""

    path: str
    concept: str
    prompt: str
    seed: int


def visualize(
    run: Run,
    *,
    concepts: Sequence[str] = (),
    settings: SampleSettings,
    output: Path | None = None,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> list[HeatMap]:
    """Generate `settings.num_images` pictures of each concept, the same that `sample` makes, and write each with its
    heat map to heatmaps/t1/00000.png and so on. No concept named means all.

    Overlays that are there already are not made again unless `force`. Raises UcdError for an unknown concept, and for a
    file of another prompt or setting that is in the way.
    """
    order = concept_order(run, settings, concepts=concepts, output=output or run.path / "heatmaps")
    missing = order.missing(force)
    if missing:
        model = run.load_model(device)
        for _ in out.track(_make(model, order, missing), total=len(missing), label="drawing heat maps"):
            pass
    tokens = _tokens(run)
    return [HeatMap(p.path, bare_name(tokens[p.prompt]), p.prompt, p.seed) for p in order.pictures]


def _make(model: StableDiffusion, order: Order, missing: Sequence[tuple[Path, Request]]) -> Iterator[Path]:
    """Generate, record and write, a batch at a time."""
    tokens, settings, size = _tokens(order.run), order.settings, order.settings.batch_size
    for start in range(0, len(missing), size):
        batch = missing[start : start + size]
        requests = [request for _, request in batch]
        # Each picture has two rows in the UNet's batch: without its prompt, and with it.
        with record_attention(model.unet, rows=slice(1, None, 2)) as recorder:
            steps, scheduler = settings.steps, settings.scheduler
            pictures = list(
                generate(model, requests, num_inference_steps=steps, scheduler=scheduler, batch_size=len(requests))
            )
        for (path, request), picture, maps in zip(batch, pictures, recorder.maps(), strict=True):
            prompt = request.terms[0].prompt
            token = tokens[prompt]
            # The text encoder is causal: what follows the word, the end of the text and its padding, has read it
            # and says what the picture is. The word's own place alone often points at the background.
            first = model.token_positions(prompt, token)[0]
            heat = normalise(token_map(maps, range(first, len(maps))))
            page = overlay(picture, heat.cpu().numpy(), title=token, subtitle=f"{prompt}  ·  seed {request.seed}")
            write_png(path, page, order.metadata(request))
            yield path


def _tokens(run: Run) -> dict[str, str]:
    """The concept of every default prompt."""
    return {default_prompt(run.recipe.concepts.property, token): token for token in run.tokens}
