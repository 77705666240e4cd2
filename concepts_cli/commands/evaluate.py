"""`ucd evaluate`: what a run's samples show, and how its weights sort the training images, in numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from concepts_cli.data.images import SUFFIXES
from concepts_cli.errors import UcdError, closest
from concepts_cli.metrics import scores as arithmetic
from concepts_cli.metrics.assignment import assign, read_labels
from concepts_cli.metrics.clip import ClipScorer, load_built_in_clip, load_clip
from concepts_cli.metrics.resnet import ResNetScorer, load_built_in_resnet, load_resnet
from concepts_cli.models import BUILT_IN
from concepts_cli.models.stable_diffusion import chosen_device
from concepts_cli.output import Output, plain
from concepts_cli.pictures import concept_order, fill, png_text
from concepts_cli.run_dir import Run, bare_name, write_json

SCORED = ("clip", "resnet")  # metrics over samples, by a model
METRICS = (*SCORED, "assignment")


@dataclass(frozen=True)
class Samples:
    """N images, each of one of K concepts."""

    folder: Path
    concepts: tuple[str, ...]  # K names
    paths: tuple[Path, ...]  # N
    owners: np.ndarray  # (N,) which concept


def evaluate(
    run: Run,
    *,
    metrics: Sequence[str] = (),
    class_names: Sequence[str] = (),
    threshold: float | None = None,
    samples: Path | None = None,
    device: str | None = None,
    out: Output,
) -> dict[str, Any]:
    """Compute `metrics` (the recipe's, when none is named), print them, and write them to evaluation.json.

    `clip` and `resnet` score the run's samples, which are made if there are none, or those of another folder, a
    sub-folder for each concept; `assignment` compares the weights with the labels that the recipe names. The result,
    in JSON's types, is {"run": …, "metrics": {name: {…}}}. Raises UcdError for metrics, class names, labels or
    samples that are missing or can't be used.
    """
    metrics = tuple(dict.fromkeys(metrics or run.recipe.evaluate.metrics))
    _check(metrics, threshold)
    names = _class_names(run, class_names) if set(metrics) & set(SCORED) else ()
    chosen = chosen_device(device)
    other = _find_samples(samples) if samples else None
    scorers = {metric: _scorer(metric, run, names, chosen) for metric in metrics if metric in SCORED}
    found: dict[str, Any] = {}
    if "assignment" in metrics:
        found["assignment"] = _assignment(run)
    if scorers:
        images = other or _own_samples(run, device, out)
        for metric, scorer in scorers.items():
            limits = (threshold, getattr(run.recipe.evaluate, f"{metric}_threshold"), scorer.threshold)
            found[metric] = _scored(scorer, images, names, next(limit for limit in limits if limit is not None))
    result = plain({"run": run.path, "metrics": {metric: found[metric] for metric in metrics}})
    write_json(run.path / "evaluation.json", result | {"metrics": _earlier(run) | result["metrics"]})
    _print(found, metrics, out)
    return result


def _check(metrics: Sequence[str], threshold: float | None) -> None:
    for metric in metrics:
        if metric not in METRICS:
            near = closest(metric, METRICS)
            raise UcdError(f"no metric {metric!r}", f"did you mean {near}?" if near else f"known: {', '.join(METRICS)}")
    scored = [metric for metric in metrics if metric in SCORED]
    if threshold is not None and len(scored) != 1:
        which = " and ".join(scored) or "none of them"
        hint = "name one: --metric clip --threshold 0.3"
        raise UcdError(f"--threshold is for one of {' and '.join(SCORED)}, got {which}", hint)


def _class_names(run: Run, given: Sequence[str]) -> tuple[str, ...]:
    """As given, or the recipe's, or all that its labels name."""
    settings = run.recipe.evaluate
    names = tuple(name.strip() for name in given) or settings.class_names
    if not names and settings.labels:
        names = sorted(set(chain(*_labels(run))))
    if not names or not all(names):
        hint = "--class-names geyser,mosque,…, or evaluate.class_names in the recipe"
        raise UcdError("no class names to score against", hint)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UcdError(f"class names given twice: {', '.join(twice)}", "name each class once")
    return tuple(names)


def _labels(run: Run) -> list[list[str]]:
    return read_labels(run.recipe.evaluate.labels, [image.path for image in run.images])


def _scorer(metric: str, run: Run, names: Sequence[str], device: torch.device) -> ClipScorer | ResNetScorer:
    """What scores: the small built-in models for runs on the built-in one. Raises UcdError for names it can't score."""
    settings, built_in = run.recipe.evaluate, run.recipe.model == BUILT_IN
    if metric == "clip":
        if built_in:
            return load_built_in_clip(names, device)
        return load_clip(settings.clip_model, settings.clip_pretrained, device)
    scorer = load_built_in_resnet(device) if built_in else load_resnet(settings.resnet_model, device)
    scorer.find_labels(names)
    return scorer


def _own_samples(run: Run, device: str | None, out: Output) -> Samples:
    """The run's samples. A concept that has none gets the recipe's number of them.

    Raises UcdError for samples of an earlier training: their numbers would be another run's.
    """
    folder = run.path / "samples"
    groups = {bare_name(token): _images(folder / bare_name(token)) for token in run.tokens}
    order = concept_order(run, run.recipe.sample)
    ours = order.metadata(order.planned[0][1])["concepts"]
    stale = [path for paths in groups.values() for path in paths if png_text(path).get("concepts", ours) != ours]
    if stale:
        problem = f"{len(stale)} samples in {folder} show concepts of an earlier training, such as {stale[0].name}"
        raise UcdError(problem, "make them anew: ucd sample --concept all --force")
    if missing := [name for name, paths in groups.items() if not paths]:
        fill(concept_order(run, run.recipe.sample, concepts=missing), device=device, out=out)
        groups = {name: _images(folder / name) for name in groups}
    return _grouped(folder, groups)


def _find_samples(folder: Path) -> Samples:
    """The samples of some other folder: each sub-folder with images in it is a concept."""
    if not folder.is_dir():
        raise UcdError(f"no such folder: {folder}", "--samples names a folder with a sub-folder of images a concept")
    inside = {path.name: _images(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    groups = {name: paths for name, paths in inside.items() if paths}
    if not groups:
        raise UcdError(f"no samples in {folder}", "expected a sub-folder of images a concept, such as t1/00000.png")
    return _grouped(folder, groups)


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _grouped(folder: Path, groups: dict[str, list[Path]]) -> Samples:
    paths = tuple(path for group in groups.values() for path in group)
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups.values()])
    return Samples(folder, tuple(groups), paths, owners)


def _scored(scorer: ClipScorer | ResNetScorer, samples: Samples, names: tuple[str, ...], threshold: float) -> dict:
    """The paper's accuracy and KL of one scorer, the one-to-one match, and what each concept shows."""
    scores = scorer.score(samples.paths, names)  # (N, C)
    counts = arithmetic.class_counts(scores, samples.owners, len(samples.concepts))
    return {
        "scorer": scorer.name,
        "accuracy": arithmetic.accuracy(scores, threshold),
        "kl": arithmetic.kl_from_uniform(scores, scorer.smoothing),
        "matched_accuracy": arithmetic.matched_accuracy(counts),
        "threshold": threshold,
        "samples": samples.folder,
        "images": len(samples.paths),
        "classes": names,
        "concepts": _concepts(samples.concepts, names, counts, counts.sum(axis=1)),
    }


def _assignment(run: Run) -> dict:
    """How the strongest concepts of the training images agree with the recipe's labels."""
    if not run.recipe.evaluate.labels:
        hint = 'evaluate.labels in the recipe names a JSON file {"file name": ["class", …], …}'
        raise UcdError("no labels of the training images to compare with", hint)
    result = assign(run.weights.numpy(), _labels(run))
    return {
        "scorer": "weights",
        "matched_accuracy": result.matched_accuracy,
        "ari": result.ari,
        "nmi": result.nmi,
        "images": len(run.images),
        "classes": result.classes,
        "concepts": _concepts(list(map(bare_name, run.tokens)), result.classes, result.counts, result.sizes),
    }


def _concepts(
    concepts: Sequence[str], classes: Sequence[str], counts: np.ndarray, sizes: np.ndarray
) -> dict[str, dict]:
    """What each concept shows: its commonest class, that class's share, and the one it is matched to.

    Shapes: counts (K, C) images of each class, sizes (K,) images in all.
    """
    match = arithmetic.match_one_to_one(counts)
    return {
        name: {
            "images": size,
            "best_class": classes[row.argmax()] if row.any() else None,
            "share": row.max() / size if row.any() else None,
            "matched_class": classes[match[k]] if k in match else None,
            "counts": dict(zip(classes, row, strict=True)),
        }
        for k, (name, row, size) in enumerate(zip(concepts, counts, sizes, strict=True))
    }


def _earlier(run: Run) -> dict[str, Any]:
    """The metrics of evaluation.json, if there is one that can be read."""
    try:
        return dict(json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))["metrics"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _print(found: dict[str, Any], metrics: Sequence[str], out: Output) -> None:
    """A table of the metrics, and one of the concepts."""
    columns = ["metric", "accuracy", "KL", "matched", "ARI", "NMI", "scorer"]
    rows = []
    for metric in metrics:
        one = found[metric]
        accuracy, matched = map(_percent, (one.get("accuracy"), one["matched_accuracy"]))
        kl, ari, nmi = map(_figure, (one.get("kl"), one.get("ari"), one.get("nmi")))
        limit = f" ≥ {one['threshold']:.3g}" if "threshold" in one else ""
        rows.append((metric, accuracy, kl, matched, ari, nmi, one["scorer"] + limit))
    used = [c for c in range(len(columns)) if any(row[c] is not None for row in rows)]
    out.table("Evaluation", [columns[c] for c in used], [[row[c] for c in used] for row in rows])
    details = [
        (name, metric, one["images"], one["best_class"], _percent(one["share"]), one["matched_class"])
        for metric in metrics
        for name, one in found[metric]["concepts"].items()
    ]
    out.table("Concepts", ["concept", "metric", "images", "best class", "share", "matched class"], details)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}%"


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
