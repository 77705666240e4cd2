"""The filters that a scene may be seen through, one per style that the built-in model knows."""

from collections.abc import Callable

import numpy as np

Filter = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) float32 of 0 to 255 -> the same shape and range


def _edges(image: np.ndarray) -> np.ndarray:
    """How fast colours change around each pixel: (H, W, 3) -> (H, W, 3), in colour steps per two pixels."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    return np.hypot(across, down)


def _mosaic(image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    tiles = image.reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))
    return tiles.repeat(4, axis=0).repeat(4, axis=1)


def _sketch(image: np.ndarray) -> np.ndarray:
    return 250 - 1.6 * _edges(image).max(axis=2, keepdims=True).repeat(3, axis=2)


def _neon(image: np.ndarray) -> np.ndarray:
    return np.array([20, 8, 44], dtype=np.float32) + 1.8 * _edges(image)


def _vintage(image: np.ndarray) -> np.ndarray:
    grey = image @ np.array([0.3, 0.59, 0.11], dtype=np.float32)
    return grey[..., None] * np.array([0.98, 0.82, 0.60], dtype=np.float32) + np.array([18, 10, 0], dtype=np.float32)


STYLES: dict[str, Filter] = {"mosaic": _mosaic, "sketch": _sketch, "neon": _neon, "vintage": _vintage}
KEEP_COLOURS = ("mosaic",)  # through the others, nobody can tell the background
