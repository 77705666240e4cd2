"""`ucd encode`: how much of each concept is in images that the run was not trained on."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from concepts_cli.core import ROWS, STEPS
from concepts_cli.core.encoding import Encoded, encode_records
from concepts_cli.data.finding import find
from concepts_cli.data.records import read_images
from concepts_cli.data.source import Found
from concepts_cli.errors import UcdError, printable
from concepts_cli.output import Output, plain
from concepts_cli.paths import public_path
from concepts_cli.pictures.commands import command
from concepts_cli.recipe import SampleSettings
from concepts_cli.recipe.fields import override
from concepts_cli.runs.files import check_file, write_json, write_safetensors, write_text
from concepts_cli.runs.run import Run, bare_name

FORMATS = (".csv", ".json", ".safetensors")
NAMED = 20  # images in a command
COLUMNS = 8  # with more concepts than this, a row names only the strongest


def encode(
    run: Run,
    images: Sequence[str | Path],
    *,
    steps: int = STEPS,
    seed: int = 0,
    rows: int = ROWS,
    output: Path | None = None,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> dict[str, Any]:
    """Find the concept weights of `images`, files or folders of them, with the run's concepts frozen.

    Prints one row per image, and writes them to `output` as CSV, JSON or safetensors (`weights`, N x K), by its suffix.
    Returns, in JSON's types, {"run": …, "command": …, "concepts": […], "images": [{"path": …, "weights": {"t1": …},
    …}]}. Raises UcdError for numbers outside their limits, for images that can't be read, and for an output that can't
    be written or exists already.
    """
    override(SampleSettings(), {"steps": steps, "seed": seed, "batch_size": rows}, as_options=False)
    if output:
        _check_output(output, force)
    records = read_images(_find(images, run))
    names = [bare_name(token) for token in run.tokens]
    model = run.load_model(device)
    encoded = encode_records(model, records, recipe=run.recipe, tokens=run.tokens, steps=steps, seed=seed, rows=rows)
    results = list(out.track(encoded, total=len(records), label="encoding"))
    document = plain(
        {
            "run": run.path,
            "command": _command(run, images, steps=steps, seed=seed, output=output),
            "model": run.recipe.model,
            "constraint": run.recipe.weights.constraint,
            "steps": steps,
            "seed": seed,
            "concepts": names,
            "images": [_entry(image, names) for image in results],
        }
    )
    if output:
        _write(output, document, results)
    _print(results, names, out)
    if strangers := [image for image in results if image.fit < 0]:
        out.warn(
            f"{len(strangers)} of {len(results)} images, such as {Path(strangers[0].path).name}, are explained better "
            "without these concepts than with them: their weights mean little"
        )
    return document


def _command(run: Run, images: Sequence[str | Path], *, steps: int, seed: int, output: Path | None) -> str:
    """The command that finds these weights; with many images, of the first few."""
    given = {"steps": (steps, STEPS), "seed": (seed, 0), "output": (public_path(output) if output else None, None)}
    words = [word for name, (value, usual) in given.items() if value != usual for word in (f"--{name}", str(value))]
    places = [public_path(place) for place in images]
    named = [*places[:NAMED], *(["…"] if len(places) > NAMED else [])]
    return command(run, "encode", *named, *words)


def _find(images: Sequence[str | Path], run: Run) -> list[Found]:
    try:
        return find(images, run.fields)
    except UcdError as error:
        raise UcdError(error.message, "ucd encode takes image files and folders, lists, tars and datasets") from error


def _check_output(output: Path, force: bool) -> None:
    if output.suffix.lower() not in FORMATS:
        raise UcdError(f"--output {output}: unknown format", f"end it in {', '.join(FORMATS)}")
    if os.path.isdir(output):
        raise UcdError(f"--output {output} is a folder", "name a file")
    check_file(output, force=force)


def _entry(image: Encoded, names: Sequence[str]) -> dict[str, Any]:
    weights = dict(zip(names, image.weights, strict=True))
    return {
        "path": image.path,
        "sha256": image.sha256,
        "strongest": max(weights, key=lambda name: weights[name]),
        "weights": weights,
        "loss": image.loss,
        "loss_without": image.loss_without,
        "fit": image.fit,
    }


def _write(output: Path, document: dict[str, Any], results: Sequence[Encoded]) -> None:
    """Write the file in the format of its suffix."""
    names, suffix = document["concepts"], output.suffix.lower()
    if suffix == ".json":
        write_json(output, document)
    elif suffix == ".csv":
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "sha256", "strongest", *names, "loss", "loss_without", "fit", "command"])
        for image in document["images"]:
            cells = [image["weights"][name] for name in names]
            ends = image["loss"], image["loss_without"], image["fit"], printable(document["command"])
            table.writerow([printable(image["path"]), image["sha256"], image["strongest"], *cells, *ends])
        write_text(output, text.getvalue())
    else:
        weights = torch.tensor([image.weights for image in results])
        metadata = {"paths": [image.path for image in results], "concepts": names, "run": document["run"]}
        texts = {key: json.dumps(value) for key, value in metadata.items()}
        write_safetensors(output, {"weights": weights}, texts | {"command": printable(document["command"])})


def _print(results: Sequence[Encoded], names: Sequence[str], out: Output) -> None:
    """Print one column per concept, or only the three strongest if there are many."""
    if len(names) <= COLUMNS:
        columns = ["image", *names, "fit"]
        rows = [(image.path, *(f"{weight:.3f}" for weight in image.weights), _fit(image)) for image in results]
    else:
        columns = ["image", "strongest concepts", "fit"]
        rows = [(image.path, _strongest(image, names), _fit(image)) for image in results]
    out.table("Weights", columns, rows)


def _fit(image: Encoded) -> str:
    return f"{100 * image.fit:.1f}%"


def _strongest(image: Encoded, names: Sequence[str], count: int = 3) -> str:
    ranked = sorted(zip(image.weights, names, strict=True), reverse=True)[:count]
    return ", ".join(f"{name} {weight:.3f}" for weight, name in ranked)
