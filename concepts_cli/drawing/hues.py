"""Hues for concepts, the same on every page."""

from __future__ import annotations


def hues(count: int) -> list[int]:
    """One hue per concept: even steps around the circle, or the golden angle if there are many."""
    return [round(28 + k * (360 / count if count <= 8 else 137.508)) % 360 for k in range(count)]
