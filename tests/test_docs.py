"""The documentation: generated pages match the code, links lead somewhere, and the README stays short."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from concepts_cli.models.interface import DiffusionModel

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["commands.md", "recipe.md"])
def test_generated_pages_match_the_code(name):
    expected = generator().PAGES[name]()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == expected, f"docs/{name} is stale: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, f"{page.name} links to {target}"


def test_every_page_is_linked_from_the_readme_or_its_pages():
    linked = {name for page in PAGES for name in re.findall(r"\]\((?:docs/)?([\w-]+\.md)", page.read_text())}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= linked


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_files_that_contributors_are_sent_to_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:concepts_cli|tests|docs|recipes)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_the_guide_to_a_new_family_names_everything_it_must_have():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    required = DiffusionModel.__abstractmethods__ | set(DiffusionModel.__annotations__)
    assert not [name for name in required if f"`{name}`" not in guide]
