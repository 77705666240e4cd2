"""Captions: they name all of a scene or a part of it, and say where things are.

"a photo of a dog", as any caption that says what kind of picture it is, names all objects, so nothing else is there. "a
dog" may leave some out: it is true of every scene with a dog in it, whatever else is there. Otherwise no picture of
"a dog" would ever show anything else, and concepts could not be composed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from concepts_cli.mini import atlas
from concepts_cli.mini.filters import KEEP_COLOURS, STYLES
from concepts_cli.recipe.prompts import OBJECT, STYLE

CLASSES: tuple[str, ...] = tuple(atlas.OBJECTS)
DRAWINGS: tuple[str, ...] = tuple(atlas.DRAWINGS)
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 246),
    "grey": (172, 172, 176),
    "yellow": (250, 222, 120),
    "green": (150, 206, 132),
    "blue": (138, 186, 236),
    "pink": (246, 176, 202),
}

# `ucd train` learns concepts in its prompt templates, so captions use these, and a plainer one.
OBJECT_TEMPLATES = (*OBJECT, "a photo of {}")
STYLE_TEMPLATES = tuple(dict.fromkeys(STYLE))

MOST_PARTS = 3  # of a caption that names all of a scene
MOST_WORDS = 18  # in a caption: the text encoder reads 20 tokens, including the start and the end
OPEN = 0.4  # the share of captions that may leave objects out
CLEARLY_APART = 14  # pixels between the middles of two objects, for a caption to say where they are


@dataclass(frozen=True)
class Facts:
    """What a caption could say about a scene. `middles` are the objects' (x, y) in px, in the order of `labels`."""

    labels: tuple[str, ...]
    middles: tuple[tuple[float, float], ...]
    background: str
    night: bool
    style: str | None
    drawing: str

    @property
    def names(self) -> frozenset[str]:
        """The words of `VOCABULARY` that are visibly true of the scene."""
        visible = [*self.labels, self.drawing, "night" if self.night else "day"]
        if self.style:
            visible.append(self.style)
        if self.style in (None, *KEEP_COLOURS):
            visible.append(self.background)
        return frozenset(visible)


def draw_caption(rng: np.random.Generator, facts: Facts) -> str:
    """A true caption of a scene, of at most `MOST_WORDS` words."""
    if rng.random() < 0.05:
        return _setting(rng, facts)
    if facts.style and rng.random() < 0.3:
        return _pick(rng, STYLE_TEMPLATES).format(facts.style)
    named = _some(rng, len(facts.labels)) if (is_open := rng.random() < OPEN) else list(range(len(facts.labels)))
    order = rng.permutation(named).tolist()
    things = " and a ".join(facts.labels[i] for i in order)
    where = _relation(facts, order) if len(order) == 2 and rng.random() < 0.35 else None
    if facts.style:
        return f"{'a' if is_open else 'a photo of a'} {where or things} in the style of {facts.style}"
    template = "a {}" if is_open else _template(rng, facts)
    return _with_setting(rng, facts, template.format(where or things))


def draw_parts(rng: np.random.Generator, facts: Facts) -> list[str]:
    """A caption that names all objects, and its parts: one for each object, perhaps one for what is around them.

    Each part may leave objects out, so both are true of the scene, and a composition of the parts' scores should draw
    what the first caption says. At most `MOST_PARTS` parts.
    """
    whole = f"a photo of a {' and a '.join(facts.labels)}"
    parts = [f"a {label}" for label in facts.labels]
    around = [f"on {facts.background}"] if facts.background in BACKGROUNDS else []
    if facts.style:
        around = [f"in the style of {facts.style}"]
    elif facts.night:
        around += ["at night"] * 3
    if around and len(parts) < MOST_PARTS and rng.random() < (0.8 if facts.style or facts.night else 0.3):
        parts.append(_pick(rng, around))
        whole = f"{whole} {parts[-1]}"
    return [whole, *parts]


def _some(rng: np.random.Generator, count: int) -> list[int]:
    """One or more of a scene's objects."""
    named = 1 + int(rng.choice(count, p={1: [1.0], 2: [0.7, 0.3], 3: [0.25, 0.35, 0.4]}[count]))
    return [int(i) for i in rng.choice(count, named, replace=False)]


def _template(rng: np.random.Generator, facts: Facts) -> str:
    """What kind of picture it is, around the names of all objects."""
    chance = rng.random()
    if chance < 0.35:
        return f"a {facts.drawing} of a {{}}"
    return _pick(rng, OBJECT_TEMPLATES) if len(facts.labels) == 1 and chance < 0.75 else "a photo of a {}"


def _relation(facts: Facts, pair: Sequence[int]) -> str | None:
    """'dog left of a castle', if the first of two objects is clearly to one side of the second."""
    (x, y), (other_x, other_y) = (facts.middles[i] for i in pair)
    across, down = x - other_x, y - other_y
    if max(abs(across), abs(down)) < CLEARLY_APART:
        return None
    sides = ("left of", "right of", across) if abs(across) >= abs(down) else ("above", "below", down)
    side = sides[0] if sides[2] < 0 else sides[1]
    return f"{facts.labels[pair[0]]} {side} a {facts.labels[pair[1]]}"


def _with_setting(rng: np.random.Generator, facts: Facts, caption: str) -> str:
    """`caption`, perhaps followed by the background and the time of day, if there is room."""
    chance = rng.random(3)
    phrases = []
    if chance[0] < 0.35 and facts.background in BACKGROUNDS:
        phrases.append(f" on a {facts.background} background" if chance[1] < 0.4 else f" on {facts.background}")
    if facts.night and chance[2] < 0.85:
        phrases.append(" at night")
    elif not facts.night and chance[2] < 0.08:
        phrases.append(" by day")
    for phrase in phrases:
        if len((caption + phrase).split()) <= MOST_WORDS:
            caption += phrase
    return caption


def _setting(rng: np.random.Generator, facts: Facts) -> str:
    """A caption that names no object, only what is around them or how they are drawn."""
    sayings = ["at night" if facts.night else "by day", f"a {facts.drawing}"]
    if facts.style:
        sayings = [f"in the style of {facts.style}", facts.style]
    elif facts.background in BACKGROUNDS:
        sayings += [f"on {facts.background}", f"on a {facts.background} background", f"a {facts.background} background"]
    if facts.night and not facts.style:
        sayings += ["at night", "a photo at night"]
    return _pick(rng, sayings)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def words() -> list[str]:
    """Every word that a caption may hold, in a fixed order: the vocabulary of the tokenizer."""
    extra = ("by", "day", "at", "night", "on", "and", "in", "the", "style", "of", "an", "with", "scene", "drawing")
    places = ("left", "right", "above", "below", "background")
    texts = (*CLASSES, *DRAWINGS, *BACKGROUNDS, *STYLES, *OBJECT_TEMPLATES, *STYLE_TEMPLATES, *extra, *places)
    return list(dict.fromkeys(word for text in texts for word in text.replace("{}", " ").replace("-", " - ").split()))


# What a judge of pictures can be asked about.
VOCABULARY: tuple[str, ...] = (*CLASSES, *DRAWINGS, *BACKGROUNDS, *STYLES, "night", "day")


def claims(caption: str) -> frozenset[str]:
    """The words of `VOCABULARY` in a caption; all are among the names of its scene."""
    text = f" {caption} "
    return frozenset(name for name in VOCABULARY if f" {name} " in text)
