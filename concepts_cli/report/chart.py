"""The loss curve as the coordinates of an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from concepts_cli.runs.reading import parse_json, read_lines

WIDTH, HEIGHT = 720, 240
MOST, LEAST = 1e30, 1e-30  # of a loss, and of what the chart can tell apart
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 30  # margins


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Paths and ticks in a box of `width` x `height`; `points` are (x, y, tooltip)."""

    width: int
    height: int
    raw: str
    smooth: str
    points: list[tuple[float, float, str]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    last: float


def read_losses(path: Path) -> list[tuple[int, float]]:
    """Step and loss of every readable line of metrics.jsonl; a killed training may have cut one."""
    losses = []
    with suppress(FileNotFoundError):
        for _, line in read_lines(path):
            with suppress(ValueError):
                match parse_json(line):
                    case {"number": int(step), "loss": int() | float() as loss} if step >= 0 and abs(loss) < MOST:
                        losses.append((step, float(loss)))
    return losses


def loss_chart(losses: Sequence[tuple[int, float]], shown: Sequence[tuple[int, float]] | None = None) -> Chart | None:
    """The raw and the smoothed curve, on axes for all points that are `shown`, by default its own; None for fewer than
    two points.
    """
    if len(losses) < 2:
        return None
    steps, values = [step for step, _ in losses], [loss for _, loss in losses]
    (first, last), (low, high) = ((min(axis), max(axis)) for axis in zip(*(shown or losses), strict=True))
    room = max((high - low or abs(high) or 1.0) * 0.08, LEAST)
    low, high = low - room, high + room

    def x(step: float) -> float:
        return round(LEFT + (step - first) / max(last - first, 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    return Chart(
        WIDTH,
        HEIGHT,
        raw=_path([(x(step), y(value)) for step, value in losses]),
        smooth=_path([(x(step), y(value)) for step, value in zip(steps, _smooth(values), strict=True)]),
        points=[(x(step), y(value), f"step {step}: {value:.4f}") for step, value in losses],
        x_ticks=[Tick(x(step), f"{step:g}") for step in _round_numbers(first, last)],
        y_ticks=[Tick(y(value), f"{value:.3g}") for value in _round_numbers(low, high)],
        last=_smooth(values)[-1],
    )


def _smooth(values: Sequence[float]) -> list[float]:
    """A centred moving mean over about a fifth of the values."""
    reach = max(1, len(values) // 10)
    parts = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def _round_numbers(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers in the range, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
