"""Captioned 64 px scenes, drawn from the sprites of the atlas: all that the built-in model knows.

    scene = draw_scene(np.random.default_rng(0))
    scene.caption   # 'a photo of a tiger on blue'

A scene has one, two or three objects in one of four drawing styles, of any size and anywhere, hardly
overlapping, on a plain or graded background, by day or at night, perhaps seen through a filter (`STYLES`). The same
generator state draws the same scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from concepts_cli.mini import atlas
from concepts_cli.mini.captions import BACKGROUNDS, CLASSES, DRAWINGS, Facts, draw_caption
from concepts_cli.mini.filters import STYLES

SIZE = atlas.SIZE  # pixels, of a scene's side

# The paper's four sets of ImageNet classes, five each, as far as emoji have them.
SETS: dict[str, tuple[str, ...]] = {
    "s1": ("geyser", "dog", "monkey", "shopping cart", "mosque"),
    "s2": ("hamster", "airplane", "castle", "llama", "volcano"),
    "s3": ("car", "starfish", "couch", "elephant", "teddy bear"),
    "s4": ("koala", "polar bear", "zebra", "tiger", "panda"),
}

# Never drawn for training: the shipped sets of images use these.
HELD_OUT_BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "lavender": (198, 178, 232),
    "peach": (250, 202, 164),
    "mint": (172, 228, 204),
    "sand": (218, 204, 164),
    "lime": (208, 226, 140),
}
NIGHT = np.array([0.36, 0.42, 0.72], dtype=np.float32)  # the share of red, green and blue light left at night

COUNTS = (0.5, 0.35, 0.15)  # the shares of scenes with one, two and three objects
SIDES = {1: (36, 60), 2: (26, 37), 3: (22, 30)}  # pixels, of an object's side, by the number of objects
MOST_COVERED = 0.08  # the share of a smaller object's square that another's may cover
TRIES = 60  # placements, before the objects are drawn at their smallest


@dataclass(frozen=True)
class Scene:
    """A picture and everything known about it."""

    image: np.ndarray  # (64, 64, 3) uint8
    caption: str
    masks: np.ndarray  # (objects, 64, 64) bool: the visible pixels of each object
    facts: Facts

    @property
    def labels(self) -> tuple[str, ...]:
        return self.facts.labels


@dataclass(frozen=True)
class Square:
    """Where an object lies, in pixels."""

    left: int
    top: int
    side: int

    def covered(self, other: "Square") -> float:
        """The share of the smaller square that lies in both."""
        across, down = (
            max(0, min(a + self.side, b + other.side) - max(a, b))
            for a, b in ((self.left, other.left), (self.top, other.top))
        )
        return across * down / min(self.side, other.side) ** 2

    @cached_property
    def middle(self) -> tuple[float, float]:
        return self.left + self.side / 2, self.top + self.side / 2


def draw_scene(
    rng: np.random.Generator,
    *,
    labels: Sequence[str] | None = None,
    background: str | None = None,
    night: bool | None = None,
    style: str | None = None,
    drawing: str | None = None,
    held_out: bool = False,
) -> Scene:
    """Draw a scene; `rng` chooses what is not given, as in the training corpus.

    `labels` are one to three of `CLASSES`; `style=""` means no filter. With `held_out` the background is one that
    training never uses. Raises ValueError for a name that does not exist.
    """
    # Every choice is drawn, used or not, so that giving one leaves the others unchanged.
    chance = rng.random(3)
    three = tuple(CLASSES[i] for i in rng.choice(len(CLASSES), size=3, replace=False))
    count = 1 + int(np.searchsorted(np.cumsum(COUNTS[:-1]), chance[0], side="right"))
    colours = HELD_OUT_BACKGROUNDS if held_out else BACKGROUNDS
    colour, filter_name, hand = (names[rng.integers(len(names))] for names in (list(colours), list(STYLES), DRAWINGS))

    labels = three[:count] if labels is None else tuple(labels)
    night = (style in (None, "") and chance[1] < 0.15) if night is None else night
    # No filter over three small objects, and no mosaic over two: nobody could recognise them.
    filtered = not night and len(labels) < (2 if filter_name == "mosaic" else 3) and chance[2] < 0.18
    style = (filter_name if filtered else "") if style is None else style
    background, drawing = background or colour, drawing or hand
    _check(labels, background, style, drawing)

    squares = _arrange(rng, len(labels))
    image, masks = _paint(rng, [atlas.sprites()[label, drawing] for label in labels], squares, background)
    if night:
        image *= NIGHT
    if style:
        image = STYLES[style](image)
    middles = tuple(square.middle for square in squares)
    facts = Facts(labels, middles, background, bool(night), style or None, drawing)
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), draw_caption(rng.spawn(1)[0], facts), masks, facts)


def _check(labels: tuple[str, ...], background: str, style: str, drawing: str) -> None:
    known = BACKGROUNDS | HELD_OUT_BACKGROUNDS
    for name, names in [*((label, CLASSES) for label in labels), (background, known), (drawing, DRAWINGS)]:
        if name not in names:
            raise ValueError(f"no {name!r} in the corpus: expected one of {', '.join(names)}")
    if style and style not in STYLES:
        raise ValueError(f"no style {style!r}: expected one of {', '.join(STYLES)}")
    if not 1 <= len(labels) <= 3:
        raise ValueError(f"a scene has one to three objects, got {len(labels)}")


def _arrange(rng: np.random.Generator, count: int) -> list[Square]:
    """Squares for `count` objects anywhere in the scene, hardly overlapping."""
    low, high = SIDES[count]
    squares: list[Square] = []
    for attempt in range(TRIES * count):
        if len(squares) == count:
            break
        if attempt and attempt % TRIES == 0:  # no room left: start over
            squares.clear()
        side = int(rng.integers(low, max(low + 1, high - attempt // 4)))
        left, top = (int(place) for place in rng.integers(SIZE - side + 1, size=2))
        square = Square(left, top, side)
        if all(square.covered(other) <= MOST_COVERED for other in squares):
            squares.append(square)
    while len(squares) < count:  # side by side, as a last resort
        squares = [Square(i * SIZE // count, (SIZE - low) // 2, min(low, SIZE // count)) for i in range(count)]
    return squares


def _paint(
    rng: np.random.Generator, sprites: Sequence[np.ndarray], squares: Sequence[Square], background: str
) -> tuple[np.ndarray, np.ndarray]:
    """The sprites in their squares on a background, (64, 64, 3) float32, and their masks (objects, 64, 64)."""
    image = _draw_background(rng, (BACKGROUNDS | HELD_OUT_BACKGROUNDS)[background])
    masks = np.zeros((len(sprites), SIZE, SIZE), dtype=bool)
    for i, (sprite, square) in enumerate(zip(sprites, squares, strict=True)):
        picture = Image.fromarray(sprite).resize((square.side, square.side), Image.Resampling.BILINEAR)
        drawn = np.asarray(picture, dtype=np.float32)
        drawn = drawn[:, ::-1] if rng.random() < 0.5 else drawn
        window = slice(square.top, square.top + square.side), slice(square.left, square.left + square.side)
        alpha = drawn[..., 3:] / 255
        image[window] = image[window] * (1 - alpha) + drawn[..., :3] * alpha
        masks[:i, window[0], window[1]] &= alpha[..., 0] <= 0.5
        masks[i][window] = alpha[..., 0] > 0.5
    return image, masks


def _draw_background(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    """(64, 64, 3) float32, of about this colour: plain, or lighter above than below."""
    shade = np.asarray(colour, dtype=np.float32) + rng.uniform(-6, 6, size=3).astype(np.float32)
    slope = rng.choice([0.0, 0.12])
    gradient = np.linspace(1 + slope / 2, 1 - slope, SIZE, dtype=np.float32)
    return np.clip(gradient[:, None, None] * shade, 0, 255).repeat(SIZE, axis=1)
