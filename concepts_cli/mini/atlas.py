"""The sprites: 24 objects in 4 drawing styles, 64 px each, kept in one PNG beside this file.

Reading it needs only Pillow. Building it again needs the npm packages with the drawings, and `resvg-py` for Fluent's
SVGs:

    npm install emoji-datasource-google@16 emoji-datasource-twitter@16 fluentui-emoji@1.3
    python -m concepts_cli.mini.atlas node_modules
"""

import io
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64  # pixels, of a sprite's side
PICTURE = Path(__file__).parent / "atlas.png"
INDEX = Path(__file__).parent / "atlas.json"

# What a caption calls a drawing style, and the emoji set it stands for.
DRAWINGS = {"cartoon": "Noto", "sticker": "Twemoji", "figurine": "Fluent modern", "icon": "Fluent flat"}

# A class, its short name in emoji.json and its file in Fluent.
OBJECTS = {
    "geyser": ("fountain", "fountain"),
    "dog": ("dog2", "dog"),
    "monkey": ("monkey", "monkey"),
    "shopping cart": ("shopping_trolley", "shopping-cart"),
    "mosque": ("mosque", "mosque"),
    "hamster": ("hamster", "hamster"),
    "airplane": ("airplane", "airplane"),
    "castle": ("european_castle", "castle"),
    "llama": ("llama", "llama"),
    "volcano": ("volcano", "volcano"),
    "car": ("car", "automobile"),
    "starfish": ("star", "star"),
    "couch": ("couch_and_lamp", "couch-and-lamp"),
    "elephant": ("elephant", "elephant"),
    "teddy bear": ("teddy_bear", "teddy-bear"),
    "koala": ("koala", "koala"),
    "polar bear": ("polar_bear", "polar-bear"),
    "zebra": ("zebra_face", "zebra"),
    "tiger": ("tiger2", "tiger"),
    "panda": ("panda_face", "panda"),
    "tree": ("deciduous_tree", "deciduous-tree"),
    "house": ("house", "house"),
    "flower": ("sunflower", "sunflower"),
    "frog": ("frog", "frog"),
}


@cache
def sprites() -> dict[tuple[str, str], np.ndarray]:
    """(class, drawing) -> RGBA picture, (64, 64, 4) uint8, cropped to what is drawn and centred."""
    picture = np.asarray(Image.open(PICTURE).convert("RGBA"))
    index = json.loads(INDEX.read_text())
    return {
        (name, drawing): picture[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
        for row, name in enumerate(index["classes"])
        for column, drawing in enumerate(index["drawings"])
    }


def centred(sprite: Image.Image) -> Image.Image:
    """`sprite` cropped to its visible part, then fitted into a 64 px square."""
    sprite = sprite.convert("RGBA")
    sprite = sprite.crop(sprite.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox())
    scale = SIZE / max(sprite.size)
    sprite = sprite.resize([max(1, round(side * scale)) for side in sprite.size], Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(sprite, ((SIZE - sprite.width) // 2, (SIZE - sprite.height) // 2))
    return square


def build(packages: Path) -> None:
    """Draw every object in every style from the npm packages in `packages`, and write the atlas beside this file."""
    import resvg_py

    def datasource(vendor: str, short_name: str) -> Image.Image:
        folder = packages / f"emoji-datasource-{vendor}"
        emoji = next(e for e in json.loads((folder / "emoji.json").read_text()) if e["short_name"] == short_name)
        return Image.open(folder / "img" / vendor / "64" / emoji["image"])

    def fluent(kind: str, name: str) -> Image.Image:
        svg = (packages / "fluentui-emoji" / "icons" / kind / f"{name}.svg").read_text()
        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256))))

    picture = Image.new("RGBA", (len(DRAWINGS) * SIZE, len(OBJECTS) * SIZE))
    for row, (short_name, fluent_name) in enumerate(OBJECTS.values()):
        drawn = (
            datasource("google", short_name),
            datasource("twitter", short_name),
            fluent("modern", fluent_name),
            fluent("flat", fluent_name),
        )
        for column, sprite in enumerate(drawn):
            picture.paste(centred(sprite), (column * SIZE, row * SIZE))
    picture.save(PICTURE, optimize=True)
    INDEX.write_text(json.dumps({"size": SIZE, "classes": list(OBJECTS), "drawings": list(DRAWINGS)}, indent=1) + "\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
