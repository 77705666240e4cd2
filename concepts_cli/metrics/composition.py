"""Do concepts combine? Every pair composed, and every training image generated again from its own weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from concepts_cli.core.sampling import Request, Term, composition
from concepts_cli.data.images import ImageRecord
from concepts_cli.errors import UcdError
from concepts_cli.metrics import scores as arithmetic
from concepts_cli.metrics.figures import Table, figure
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.metrics.metric import Metric
from concepts_cli.metrics.presence import concept_presence
from concepts_cli.pictures.likeness import like_terms
from concepts_cli.pictures.making import make_missing
from concepts_cli.pictures.plan import PicturePlan, changes
from concepts_cli.pictures.terms import beside

PER_PAIR, MOST_PICTURES = 4, 400
MOST_IMAGES = 100  # to generate again, evenly spread over the training images


class CompositionMetric(Metric):
    """How often both concepts of a pair are seen in their composition, sampled as the recipe says."""

    name = "composition"
    title = "Pairs of concepts composed"
    compared = "compositions"
    caption = "How often both concepts of a pair are seen"

    def check(self, inputs: MetricInputs) -> None:
        if len(inputs.concepts) < 2:
            raise UcdError("a single concept can't be composed", "train with more: --set concepts.count=5")
        inputs.check_samples(self.name)

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        run, settings, concepts = inputs.run, inputs.run.recipe.sample, inputs.concepts
        pairs = list(combinations(range(len(concepts)), 2))
        per_pair = max(1, min(PER_PAIR, MOST_PICTURES // len(pairs)))
        prompts = [run.recipe.concepts.prompt_of(token) for token in run.tokens]
        folder = run.path / "metrics" / "pairs"
        planned = []
        for pair in pairs:
            terms = [Term(prompts[k], settings.guidance_scale) for k in pair]
            name = "+".join(concepts[k] for k in pair)
            for n in range(per_pair):
                planned.append((folder / name / f"{n:05d}.png", composition(beside(run, terms), settings.seed + n)))
        paths = _make(inputs, planned)
        presence = concept_presence(inputs)
        seen = presence.seen(paths).reshape(len(pairs), per_pair, len(concepts))
        both = np.array([seen[row][:, list(pair)].all(axis=1) for row, pair in enumerate(pairs)])  # (pairs, per_pair)
        matrix: list[list[float | None]] = [[None] * len(concepts) for _ in concepts]
        for (a, b), hits in zip(pairs, both, strict=True):
            matrix[a][b] = matrix[b][a] = float(hits.mean())
        return {
            "scorer": presence.scorer,
            "caveat": presence.caveat,
            "both_seen": float(both.mean()),
            "intervals": arithmetic.intervals(
                lambda drawn: {"both_seen": float(both.flatten()[drawn].mean())}, [np.arange(both.size)]
            ),
            "corrector_steps": settings.corrector_steps,
            "images": len(paths),
            "concepts": dict(zip(concepts, presence.words, strict=True)),
            "matrix": matrix,
        }

    def tables(self, result: dict[str, Any]) -> list[Table]:
        names = list(result["concepts"])
        labels = [name if word is None else f"{name} {word}" for name, word in result["concepts"].items()]
        rows = [
            [label, *(figure("both_seen", share) for share in row)]
            for label, row in zip(labels, result["matrix"], strict=True)
        ]
        return [("Both seen, of each pair", ["", *names], rows)]


class RecompositionMetric(Metric):
    """Do concepts add up to the image again? Each training image generated from its own weights.

    An image agrees if the same concepts are seen in it and in the picture generated from its weights (the measure of
    Intrinsic Concept Extraction, CVPR 2025, for trained weights).
    """

    name = "recomposition"
    title = "Training images generated again from their weights"
    compared = "compositions"

    def check(self, inputs: MetricInputs) -> None:
        inputs.check_samples(self.name)
        if gone := [record.path for record in _spread(inputs.run.images) if not Path(record.path).is_file()]:
            raise UcdError(f"the training image {gone[0]} is missing", "restore the images")

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        run, settings = inputs.run, inputs.run.recipe.sample
        records = _spread(run.images)
        rows = [run.images.index(record) for record in records]
        folder = run.path / "metrics" / "anew"
        planned = []
        for row in rows:
            terms = like_terms(run, run.weights[row].tolist(), [], settings.guidance_scale)
            planned.append((folder / f"{row:05d}.png", composition(beside(run, terms), settings.seed)))
        made = _make(inputs, planned)
        presence = concept_presence(inputs)
        before, after = presence.seen([Path(record.path) for record in records]), presence.seen(made)
        same = (before == after).all(axis=1)
        shared, either = (before & after).sum(axis=1), (before | after).sum(axis=1)
        overlap = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
        return {
            "scorer": presence.scorer,
            "caveat": presence.caveat,
            "agreement": float(same.mean()),
            "overlap": float(overlap.mean()),
            "intervals": arithmetic.intervals(
                lambda drawn: {"agreement": float(same[drawn].mean()), "overlap": float(overlap[drawn].mean())},
                [np.arange(len(same))],
            ),
            "images": len(records),
            "concepts": dict(zip(inputs.concepts, presence.words, strict=True)),
        }


def _spread(records: list[ImageRecord]) -> list[ImageRecord]:
    if len(records) <= MOST_IMAGES:
        return records
    return [records[i] for i in np.linspace(0, len(records) - 1, MOST_IMAGES).astype(int)]


def _make(inputs: MetricInputs, planned: list[tuple[Path, Request]]) -> list[Path]:
    """Make the missing pictures; those of an earlier training or of other settings are replaced."""
    settings = replace(inputs.run.recipe.sample, num_images=1)
    plan = PicturePlan(inputs.run, settings, inputs.run.path / "metrics", tuple(planned), device=inputs.device)
    outdated = any(changes(path, plan.metadata(request)) for path, request in plan.planned)
    make_missing(plan, force=outdated, out=inputs.out)
    return [path for path, _ in planned]
