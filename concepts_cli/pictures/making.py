"""Make the missing pictures of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from concepts_cli.core.sampling import Request, TaughtModel
from concepts_cli.core.watching import Frame, watch
from concepts_cli.output import Output
from concepts_cli.pictures.known_words import warn_of_unknown_words
from concepts_cli.pictures.plan import PicturePlan
from concepts_cli.processes.team import Team


def make_missing(plan: PicturePlan, *, force: bool = False, out: Output) -> None:
    """Make the missing pictures of a plan. Of several processes (`accelerate launch`), each makes its share."""
    team = Team(plan.device)
    missing = team.share(lambda: plan.missing(force))
    if missing:
        taught = load_for(replace(plan, device=team.device), [request for _, request in missing], out)
        for _ in out.track(plan.make(taught, missing), total=len(missing), label="sampling"):
            pass
    team.wait()


def load_for(plan: PicturePlan, requests: Sequence[Request], out: Output) -> dict[str, TaughtModel]:
    """The plan's models. Warns about words of the requests that a model doesn't know, or cuts off."""
    for name, run in plan.runs.items():
        texts = [term.prompt for request in requests for term in request.terms if term.run == name]
        warn_of_unknown_words(run, [*texts, "" if name else plan.settings.negative_prompt or ""], out)
    taught = plan.load_models()
    _warn_of_cuts(taught, requests, plan.settings.negative_prompt or "", out)
    return taught


def watch_picture(plan: PicturePlan, *, frames: int, out: Output) -> Iterator[Frame]:
    """Yield frames of the plan's first picture as it is denoised; nothing is written."""
    ((_, request),) = plan.planned[:1]
    for frame in watch(load_for(plan, [request], out), request, plan.settings, frames=frames):
        if frame.is_last:
            frame.picture.info.update(plan.given_metadata(request))
        yield frame


def _warn_of_cuts(
    taught: Mapping[str, TaughtModel], requests: Sequence[Request], negative_prompt: str, out: Output
) -> None:
    """Warn about texts that are too long for a text encoder."""
    texts = dict.fromkeys((term.run, term.prompt) for request in requests for term in request.terms)
    texts["", negative_prompt] = None
    for run, prompt in texts:
        model = taught[run].model
        if model.is_truncated(prompt):
            beginning = " ".join(prompt.split())[:60]
            out.warn(f"a prompt is longer than the model's {model.max_tokens} tokens and is cut: {beginning}…")
