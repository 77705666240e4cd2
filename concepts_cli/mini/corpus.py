"""Captioned 64 px scenes, drawn from the sprites of the atlas: all that the built-in model knows of the world.

    scene = draw_scene(np.random.default_rng(0))
    scene.caption   # 'a photo of a tiger on blue'

A scene has one or two objects in one of four drawing styles, on a plain or graded background, by day or at night,
perhaps seen through a filter (`STYLES`). The same generator state draws the same scene.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from concepts_cli.data.prompts import OBJECT, STYLE
from concepts_cli.mini import atlas

SIZE = atlas.SIZE  # pixels, of a scene's side
CLASSES: tuple[str, ...] = tuple(atlas.OBJECTS)
DRAWINGS: tuple[str, ...] = tuple(atlas.DRAWINGS)

# The paper's four sets of ImageNet classes, five each, as far as emoji have them.
SETS: dict[str, tuple[str, ...]] = {
    "s1": ("geyser", "dog", "monkey", "shopping cart", "mosque"),
    "s2": ("hamster", "airplane", "castle", "llama", "volcano"),
    "s3": ("car", "starfish", "couch", "elephant", "teddy bear"),
    "s4": ("koala", "polar bear", "zebra", "tiger", "panda"),
}

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 246),
    "grey": (172, 172, 176),
    "yellow": (250, 222, 120),
    "green": (150, 206, 132),
    "blue": (138, 186, 236),
    "pink": (246, 176, 202),
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

# Concepts are later learned in the templates of `ucd train`, so captions use these, and the plainest of all.
OBJECT_TEMPLATES = (*OBJECT, "a photo of {}", "a {}", "{}")
STYLE_TEMPLATES = STYLE


def _edges(image: np.ndarray) -> np.ndarray:
    """How fast colours change around each pixel: (64, 64, 3) -> (64, 64, 3), in colour steps per two pixels."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    return np.hypot(across, down)


def _mosaic(image: np.ndarray) -> np.ndarray:
    tiles = image.reshape(SIZE // 4, 4, SIZE // 4, 4, 3).mean(axis=(1, 3))
    return tiles.repeat(4, axis=0).repeat(4, axis=1)


def _sketch(image: np.ndarray) -> np.ndarray:
    return 250 - 1.6 * _edges(image).max(axis=2, keepdims=True).repeat(3, axis=2)


def _neon(image: np.ndarray) -> np.ndarray:
    return np.array([20, 8, 44], dtype=np.float32) + 1.8 * _edges(image)


def _vintage(image: np.ndarray) -> np.ndarray:
    grey = image @ np.array([0.3, 0.59, 0.11], dtype=np.float32)
    return grey[..., None] * np.array([0.98, 0.82, 0.60], dtype=np.float32) + np.array([18, 10, 0], dtype=np.float32)


STYLES = {"mosaic": _mosaic, "sketch": _sketch, "neon": _neon, "vintage": _vintage}


@dataclass(frozen=True)
class Scene:
    """A picture and all that is known of it."""

    image: np.ndarray  # (64, 64, 3) uint8
    caption: str
    labels: tuple[str, ...]  # an entry per object
    masks: np.ndarray  # (objects, 64, 64) bool: the pixels where each object is what one sees
    background: str
    night: bool
    style: str | None  # the filter's name
    drawing: str

    @property
    def facts(self) -> list[str]:
        """All that a caption could truly name."""
        return [
            *self.labels,
            self.drawing,
            self.background,
            "night" if self.night else "day",
            *filter(None, [self.style]),
        ]


def draw_scene(
    rng: np.random.Generator,
    *,
    labels: tuple[str, ...] | None = None,
    background: str | None = None,
    night: bool | None = None,
    style: str | None = None,
    drawing: str | None = None,
    held_out: bool = False,
) -> Scene:
    """Draw a scene; what is not given is chosen by `rng`, as in the training corpus.

    `labels` are one or two of `CLASSES`; `style=""` means no filter. With `held_out` the background and the placement
    are such as training never has. Raises ValueError for a name that does not exist.
    """
    # Every choice is drawn, used or not: giving one part leaves the others as they were.
    chance = rng.random(4)
    pair = tuple(CLASSES[i] for i in rng.choice(len(CLASSES), size=2, replace=False))
    colours = HELD_OUT_BACKGROUNDS if held_out else BACKGROUNDS
    colour, filter_name, hand = (names[rng.integers(len(names))] for names in (list(colours), list(STYLES), DRAWINGS))

    labels = (pair if chance[0] < 0.18 else pair[:1]) if labels is None else tuple(labels)
    plain = len(labels) == 1 and chance[0] < 0.88
    night = (style in (None, "") and chance[1] < 0.15) if night is None else night
    style = (filter_name if plain and not night and chance[2] < 0.15 else "") if style is None else style
    background, drawing = background or colour, drawing or hand
    known = BACKGROUNDS | HELD_OUT_BACKGROUNDS
    for name, names in [*((label, CLASSES) for label in labels), (background, known), (drawing, DRAWINGS)]:
        if name not in names:
            raise ValueError(f"no {name!r} in the corpus: expected one of {', '.join(names)}")
    if style and style not in STYLES:
        raise ValueError(f"no style {style!r}: expected one of {', '.join(STYLES)}")
    if not 1 <= len(labels) <= 2:
        raise ValueError(f"a scene has one or two objects, got {len(labels)}")

    image = _draw_background(rng, known[background])
    masks = np.zeros((len(labels), SIZE, SIZE), dtype=bool)
    for i, label in enumerate(labels):
        sprite, top, left = _place(rng, atlas.sprites()[label, drawing], i, len(labels), held_out)
        window = slice(top, top + len(sprite)), slice(left, left + len(sprite))
        alpha = sprite[..., 3:] / np.float32(255)
        image[window] = image[window] * (1 - alpha) + sprite[..., :3] * alpha
        masks[:i, window[0], window[1]] &= alpha[..., 0] <= 0.5
        masks[i][window] = alpha[..., 0] > 0.5
    if night:
        image *= NIGHT
    if style:
        image = STYLES[style](image)
    caption = _caption(rng, labels, background, night, style, drawing)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return Scene(image, caption, labels, masks, background, bool(night), style or None, drawing)


def _draw_background(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    """(64, 64, 3) float32, of about this colour: plain, or lighter above than below."""
    shade = np.asarray(colour, dtype=np.float32) + rng.uniform(-6, 6, size=3).astype(np.float32)
    slope = rng.choice([0.0, 0.12])
    gradient = np.linspace(1 + slope / 2, 1 - slope, SIZE, dtype=np.float32)
    return np.clip(gradient[:, None, None] * shade, 0, 255).repeat(SIZE, axis=1)


def _place(
    rng: np.random.Generator, sprite: np.ndarray, i: int, count: int, held_out: bool
) -> tuple[np.ndarray, int, int]:
    """Object `i` of `count`, scaled and perhaps mirrored, and the row and column of its upper left corner."""
    side = int(rng.integers(50, 59) if count == 1 else rng.integers(28, 33))
    middle = SIZE / 2 if count == 1 else SIZE * (1 + 2 * i) / 4
    reach = (3 if count == 1 else 1), 3
    if held_out:  # just outside of what training has: farther from the middle
        shift = [rng.choice([-1, 1]) * rng.uniform(r, r + 1.5) for r in reach]
    else:
        shift = [rng.uniform(-r, r) for r in reach]
    left, top = (
        int(np.clip(round(m + s - side / 2), 0, SIZE - side)) for m, s in zip((middle, SIZE / 2), shift, strict=True)
    )
    picture = Image.fromarray(sprite).resize((side, side), Image.Resampling.BILINEAR)
    picture = np.asarray(picture, dtype=np.float32)
    return (picture[:, ::-1] if rng.random() < 0.5 else picture), top, left


def _caption(
    rng: np.random.Generator, labels: tuple[str, ...], background: str, night: bool, style: str | None, drawing: str
) -> str:
    """What is in the scene, or part of it; 14 words at most."""
    chance = rng.random(5)
    template = OBJECT_TEMPLATES[rng.integers(len(OBJECT_TEMPLATES))] if chance[0] < 0.4 else "a photo of a {}"
    style_template = STYLE_TEMPLATES[rng.integers(len(STYLE_TEMPLATES))]
    things = " and a ".join(labels)
    if style:
        return style_template.format(style) if chance[1] < 0.3 else f"a photo of a {things} in the style of {style}"
    if len(labels) > 1:
        template = "a photo of a {}" if chance[0] < 0.5 else "a {}"
    elif chance[1] < 0.2:
        template = f"a {drawing} of a {{}}"
    caption = template.format(things)
    if chance[2] < 0.25 and background in BACKGROUNDS:
        caption += f" on {background}"
    if night:
        caption += " at night" if chance[3] < 0.9 else ""
    elif chance[3] < 0.08:
        caption += " by day"
    return caption


def words() -> list[str]:
    """Every word that a caption may hold, in a fixed order: the vocabulary of the tokenizer."""
    extra = ("by", "day", "at", "night", "on", "and", "in", "the", "style", "of", "an", "with", "scene", "drawing")
    texts = (*CLASSES, *DRAWINGS, *BACKGROUNDS, *STYLES, *OBJECT_TEMPLATES, *STYLE_TEMPLATES, *extra)
    return list(dict.fromkeys(word for text in texts for word in text.replace("{}", " ").replace("-", " - ").split()))


def claims(caption: str) -> frozenset[str]:
    """What a caption names; it is true of every scene that has these among its `facts`."""
    text = f" {caption} "
    return frozenset(
        name for name in (*CLASSES, *DRAWINGS, *BACKGROUNDS, *STYLES, "night", "day") if f" {name} " in text
    )
