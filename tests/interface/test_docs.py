"""The code of docs/python.md runs, top to bottom, as a reader would run it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from concepts_cli.recipe import dump_recipe, load_recipe, loading, shipped_recipes

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
QUICK = {
    "concepts.start": "table",
    "train.max_steps": 3,
    "train.batch_size": 2,
    "sample.steps": 2,
    "sample.num_images": 2,
    "evaluate.held_out": None,
}


@pytest.fixture
def quick_recipes(workplace, monkeypatch) -> None:
    """The shipped recipes, with a quickstart that does everything in a few steps."""
    shipped = shipped_recipes()
    quick = workplace / "quickstart.yaml"
    quick.write_text(dump_recipe(load_recipe("quickstart", QUICK)))
    monkeypatch.setattr(loading, "shipped_recipes", lambda: shipped | {"quickstart": quick})


def test_the_page_runs_and_prints_only_what_it_says(workplace, quick_recipes, monkeypatch, capfd):
    images = sorted((Path(__file__).parents[2] / "recipes/data/quickstart/images").glob("*.png"))[:4]
    (workplace / "photos").mkdir()
    for image in images:
        shutil.copy(image, workplace / "photos")
    assert len(BLOCKS) > 8
    names: dict = {"__name__": "notebook"}
    for number, block in enumerate(BLOCKS):
        block = block.replace('"train.max_steps": 100, "train.seed"', '"train.max_steps": 3, "train.seed"')
        exec(compile(block, f"{PAGE.name}, block {number + 1}", "exec"), names)
    printed = capfd.readouterr()
    assert printed.err == ""
    assert "('t1', 't2', 't3', 't4', 't5')\ntorch.Size([25, 5])\n0 " in printed.out
    assert "torch.Size([3, 5])\n" in printed.out
    assert "no concept 't9' |" in printed.out
    for file in ("t3.png", "composed.png", "where-t1-is.png", "words.png", "runs/demo/report.html"):
        assert (workplace / file).is_file(), file
