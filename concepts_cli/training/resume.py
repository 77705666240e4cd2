"""Continue an earlier training: the same images in the same rows, and no step logged twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from concepts_cli.data.images import ImageRecord
from concepts_cli.errors import UcdError
from concepts_cli.runs.files import replacing
from concepts_cli.runs.reading import parse_json, read_lines
from concepts_cli.runs.run import Run


def in_checkpoint_order(state: dict[str, Tensor], records: Sequence[ImageRecord], run: Run) -> list[ImageRecord]:
    """The images in the order of the checkpoint's rows, recognised by their content, wherever they are now.

    Raises UcdError naming those that are new, changed or gone.
    """
    if "images" not in state:
        raise UcdError("the checkpoint doesn't record its images", "start over with --force")
    by_digest: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in reversed(records):  # of identical images, the first comes first
        by_digest[record.sha256].append(record)
    before = [bytes(digest).hex() for digest in state["images"].tolist()]
    ordered = [by_digest[sha256].pop() if by_digest[sha256] else None for sha256 in before]
    changed = [record.path for left in by_digest.values() for record in left]
    if len(run.images) == len(before):
        changed += [was.path for was, now in zip(run.images, ordered, strict=True) if now is None or _differ(was, now)]
    kept = [record for record in ordered if record is not None]
    if changed or len(kept) < len(ordered):
        what = ", ".join(dict.fromkeys(changed[:3])) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise UcdError(
            f"the images are not those that {run.path} began with: {what}", "restore them, or train a new run"
        )
    return kept


def _differ(was: ImageRecord, now: ImageRecord) -> bool:
    """Whether an image has another caption or mask than before."""
    return (was.caption, was.mask_sha256) != (now.caption, now.mask_sha256)


def image_digests(records: Sequence[ImageRecord]) -> Tensor:
    """The SHA-256 of each image, (N, 32) bytes: row i of the weights belongs to the image with hash i."""
    return torch.tensor([list(bytes.fromhex(record.sha256)) for record in records], dtype=torch.uint8)


def drop_later_metrics(run: Run, step: int) -> None:
    """Drop the lines of metrics.jsonl that the resumed steps will write again."""
    path = run.path / "metrics.jsonl"
    with suppress(FileNotFoundError):
        kept = [line.rstrip() + b"\n" for _, line in read_lines(path) if _step_of(line) <= step]
        with replacing(path) as beside:
            beside.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; infinity if a kill has cut the line."""
    try:
        return float(parse_json(line)["number"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
