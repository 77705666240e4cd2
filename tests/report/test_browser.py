"""The page of a run in a real browser: headless Chromium, driven by playwright.

Needs a chromium in the path (Debian: apt install chromium) or named by $CHROMIUM.
"""

import os
import re
import shutil

import pytest
import torch

from concepts_cli.commands.report import report
from concepts_cli.runs.files import write_png

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium here (Debian: apt install chromium; or $CHROMIUM)")

WEIGHTS = [[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.95, 0.05], [0.5, 0.5]]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the `test` extra")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page_file(tiny_run):
    """A page with samples, and with a prompt and a file name that would like to be a script."""
    from PIL import Image

    tiny_run.weights = torch.tensor(WEIGHTS)
    for n in range(2):
        said = {"prompt": "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"}
        write_png(tiny_run.path / "samples" / "t1" / f"{n:05d}.png", Image.new("RGB", (32, 32), "teal"), said)
    for step in (0, 3):
        write_png(
            tiny_run.path / "previews" / f"step-{step:06d}.png", Image.new("RGB", (96, 96), (80 * step, 0, 0)), {}
        )
    return report(tiny_run).resolve().as_uri()


@pytest.fixture
def open_page(browser, page_file):
    """Opens the page at a size and theme, and notes all that goes wrong and all that it asks for."""
    contexts = []

    def open_at(width=1280, height=900, theme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.troubles, page.asked = [], []
        page.on("console", lambda message: page.troubles.append(message.text))
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(page_file)
        return page

    yield open_at
    for context in contexts:
        context.close()


def order(page):
    return [int(row.get_attribute("data-place")) for row in page.query_selector_all("#weights tbody tr")]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_renders_with_no_error_and_no_request(open_page, page_file, width, theme):
    page = open_page(width, theme=theme)
    assert page.troubles == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page_file]
    assert page.title().endswith("2 concepts in 6 images")  # and not what the samples' prompt wanted
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing runs over the side
    sizes = page.eval_on_selector_all(".grid .pic", "all => all.map(one => [one.offsetWidth, one.offsetHeight])")
    assert len(sizes) == 6 and all(w > 30 and abs(w - h) <= 1 for w, h in sizes)
    pictures = page.eval_on_selector_all(".grid .pic", "all => all.map(one => getComputedStyle(one).backgroundImage)")
    assert all(picture.startswith('url("data:image/') for picture in pictures)


def test_it_sorts(open_page):
    page = open_page()
    assert order(page) == [0, 1, 2, 3, 4, 5]
    page.click("th[data-sort='0'] button")
    assert order(page) == [4, 1, 3, 5, 2, 0]
    assert page.get_attribute("th[data-sort='0']", "aria-sort") == "descending"
    page.click("th[data-sort='0'] button")
    assert order(page) == [0, 2, 5, 3, 1, 4]
    page.click("th[data-sort='1'] button")
    assert order(page) == [0, 2, 5, 3, 1, 4]
    assert page.get_attribute("th[data-sort='0']", "aria-sort") == "none"
    page.click("#by-concept")
    assert order(page) == [4, 1, 3, 5, 0, 2]
    page.click("th[data-sort='place'] button")
    assert order(page) == [0, 1, 2, 3, 4, 5]
    assert page.troubles == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_switches_theme(open_page, theme):
    page = open_page(theme=theme)

    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3])

    before = brightness()
    page.click("#theme")
    after = brightness()
    assert (before > 600 and after < 100) if theme == "light" else (before < 100 and after > 600)
    page.click("#theme")
    assert brightness() == before and page.troubles == []


def test_a_picture_opens_and_closes(open_page):
    page = open_page(390, 844)
    page.click(".grid .pic >> nth=2")
    assert page.is_visible("dialog") and page.inner_text("dialog p").startswith("2.png")
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog")
    page.click("#commands .copy >> nth=0")
    page.wait_for_function("document.querySelector('#commands .copy').textContent !== 'copy'")
    assert page.troubles == []


def test_the_map_leaves_only_a_concepts_images(open_page):
    page = open_page()
    page.click(".map .spot >> nth=0")
    faint = "all => all.filter((one) => one.classList.contains('faint')).map((one) => one.dataset.strongest)"
    assert page.eval_on_selector_all(".map .pic", faint) == ["1", "1"]
    page.click(".map .spot >> nth=0")
    assert page.eval_on_selector_all(".map .pic", faint) == [] and page.troubles == []
    box, inside = page.locator(".map").bounding_box(), page.locator(".map .pic").all()
    places = [one.bounding_box() for one in inside]
    assert len(places) == 6 and all(box["x"] <= p["x"] <= box["x"] + box["width"] for p in places)


def test_the_slider_goes_through_the_previews(open_page):
    page = open_page()
    shown = "getComputedStyle(document.querySelector('.previews .now .pic')).backgroundImage"
    after = page.evaluate(shown)
    page.focus("#step")
    page.keyboard.press("Home")
    assert page.inner_text(".previews output") == "0" and page.evaluate(shown) != after
    page.keyboard.press("End")
    assert page.inner_text(".previews output") == "3" and page.evaluate(shown) == after and page.troubles == []


def test_it_prints_with_its_pictures_and_without_what_can_only_be_clicked(open_page):
    page = open_page(theme="dark")
    page.emulate_media(media="print")
    assert not page.is_visible(".top") and not page.is_visible(".copy >> nth=0") and not page.is_visible("#step")
    assert page.evaluate("getComputedStyle(document.querySelector('.pic')).printColorAdjust") == "exact"
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) > 600  # paper is light
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert page.pdf(format="A4").count(b"/Subtype /Image") >= 6
