"""The studio in a real browser: `ucd studio` as a process, and headless Chromium, driven by playwright.

Needs Gradio (the `studio` extra) and a chromium in the path (Debian: apt install chromium) or named by $CHROMIUM.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.data.records import read_images
from concepts_cli.models import SOLE_ENCODER
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium here (Debian: apt install chromium; or $CHROMIUM)"),
]
DONE = ".keep:enabled"  # there is a finished picture


@pytest.fixture(scope="module")
def studio(tmp_path_factory, tiny_folder):
    """The address of a studio of two runs, and its process."""
    pytest.importorskip("gradio", reason="Gradio is in the `studio` extra")
    place = tmp_path_factory.mktemp("studio")
    rng = np.random.default_rng(0)
    (place / "images").mkdir()
    for n in range(6):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(place / "images" / f"{n}.png")
    records = read_images(sorted((place / "images").glob("*.png")))
    for name, count in (("one", 3), ("two", 2)):
        (place / f"{name}.yaml").write_text(
            f"model: {tiny_folder}\ndata: {{images: images}}\nconcepts: {{count: {count}}}\nsample: {{steps: 12}}\n"
        )
        run = Run(place / "runs" / name)
        run.begin(load_recipe(place / f"{name}.yaml"), records)
        words, weights = torch.randn(count, 32, generator=torch.manual_seed(count)), torch.rand(6, count)
        run.save_concepts([f"<t{k + 1}>" for k in range(count)], {SOLE_ENCODER: words}, weights)
    command = [sys.executable, "-m", "concepts_cli", "studio", "one", "two", "--json", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
    document = ""
    while not document.endswith("}\n"):
        line = process.stdout.readline()
        assert line, "the studio ended before it said where it is"
        document += line
    yield json.loads(document)["address"], process
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


@pytest.fixture
def open_page(studio):
    """Opens the page at a size and theme, and notes all that goes wrong and all that it asks for."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the `test` extra")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        pages = []

        def open_at(width=1440, height=900, theme="light"):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            page = context.new_page()
            page.troubles, page.asked = [], []
            page.on("console", lambda message: page.troubles.append(message.text))
            page.on("pageerror", lambda error: page.troubles.append(str(error)))
            page.on("request", lambda request: page.asked.append(request.url))
            page.goto(studio[0])
            page.pane = page.locator(".pane").first
            page.pane.locator(DONE).wait_for()
            pages.append(page)
            return page

        yield open_at
        for page in pages:
            assert page.troubles == []
            elsewhere = [url for url in page.asked if not url.startswith(("data:", "blob:", studio[0]))]
            assert elsewhere == []
        browser.close()


def settled(page):
    """Wait for the picture of the mix as it is now."""
    page.pane.locator(DONE).wait_for()
    return page.pane.locator(".picture").get_attribute("src")


def weights(page):
    return [float(box.input_value()) for box in page.pane.locator(".slider input[type=number]").all()]


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_and_follows_the_theme(open_page, width, theme):
    page = open_page(width, theme=theme)
    assert page.locator(".pane").count() == 2 and "one" in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    brightness = "getComputedStyle(document.body).backgroundColor"
    before = sum(map(float, re.findall(r"[\d.]+", page.evaluate(brightness))[:3]))
    assert before > 600 if theme == "light" else before < 100
    page.click("#theme")
    after = sum(map(float, re.findall(r"[\d.]+", page.evaluate(brightness))[:3]))
    assert after < 100 if theme == "light" else after > 600


def test_the_sliders_make_pictures_as_they_are_denoised(open_page):
    page = open_page()
    before = settled(page)
    page.evaluate(
        """() => { window.shown = []; new MutationObserver(() => shown.push(document.querySelector(".picture").src))
        .observe(document.querySelector(".picture"), { attributeFilter: ["src"] }); }"""
    )
    second = page.pane.locator(".slider input[type=range]").nth(1)
    second.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    after = settled(page)
    assert weights(page)[1] == -0.5 and after != before
    assert len(page.evaluate("[...new Set(shown)]")) > 3  # it appeared by and by
    page.pane.locator(".add input").fill("a cat")
    page.keyboard.press("Enter")
    assert settled(page) != after and "a cat" in page.pane.locator(".status").inner_text()
    page.pane.locator(".clear").click()
    page.pane.locator(".status", has_text="Nothing in the mix").wait_for()


def test_an_image_is_looked_into_and_starts_the_mix(open_page):
    page = open_page()
    page.pane.locator(".images .tile").nth(2).click()
    parts = page.pane.locator(".parts button")
    assert parts.count() == 3
    parts.nth(1).press("Enter")
    page.pane.locator(".looking.mapped").wait_for()
    assert parts.nth(1).get_attribute("aria-pressed") == "true"
    page.pane.locator(".looking .start").click()
    settled(page)
    first = weights(page)
    page.pane.locator(".images .tile").nth(4).drag_to(page.pane.locator(".mixer"))
    page.wait_for_function(
        "first => document.querySelector('.slider input[type=number]').value !== first", arg=str(first[0])
    )
    settled(page)
    assert all(each > 0 for each in first) and weights(page) != first


def test_a_mix_is_kept_and_exported(open_page):
    page = open_page()
    page.pane.locator(".slider input[type=number]").nth(2).fill("2.5")
    picture = settled(page)
    page.pane.locator(".keep").click()
    page.pane.locator(".kept .tile").first.wait_for()
    kept = weights(page)
    page.pane.locator(".clear").click()
    page.pane.locator(".kept .tile").first.click()
    assert settled(page) == picture and weights(page) == kept
    page.pane.locator(".take").click()
    assert page.pane.locator(".export code").inner_text().startswith("ucd compose t1=7.5 t3=2.5 ")
    with page.expect_download() as download:
        page.pane.locator(".export button[value=embedding]").click()
    assert download.value.suggested_filename == "mix.safetensors"


def test_concepts_are_renamed_and_dropped_and_a_mistake_is_said(open_page):
    page = open_page()
    page.pane.locator(".slider .name").nth(1).click()
    page.pane.locator(".rename input").fill("t1")
    page.keyboard.press("Enter")
    page.locator("#problem:visible").wait_for()
    assert "is the name of another concept" in page.inner_text("#problem p")
    page.pane.locator(".slider .name").nth(1).click()
    page.pane.locator(".rename input").fill("tower")
    page.keyboard.press("Enter")
    page.pane.locator(".slider b", has_text="tower").wait_for()
    settled(page)
    page.pane.locator(".slider .name").nth(1).click()
    page.pane.locator(".lose button").click()
    page.locator("h2", has_text="one-without-tower").wait_for()
    settled(page)
    assert len(weights(page)) == 2


def test_two_tabs_make_their_own_pictures_on_one_model(open_page):
    one, other = open_page(), open_page()
    one.pane.locator(".seed input").fill("3")
    other.pane.locator(".seed input").fill("4")
    pictures = {settled(one), settled(other)}
    assert len(pictures) == 2
    other.pane.locator(".seed input").fill("3")
    assert settled(other) in pictures


def test_everything_has_a_name_for_screen_readers(open_page):
    page = open_page()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select")].filter((each) => each.checkVisibility()
        && !(each.ariaLabel || each.labels?.length || each.textContent.trim())).map((each) => each.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("path", ["", "wrong/", "wrong/gradio_api/call/describe", "config"])
def test_a_wrong_token_is_refused(studio, path):
    address = studio[0].rstrip("/").rpartition("/")[0]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/{path}")
    assert refused.value.code == 403 and b"no token, or a wrong one" in refused.value.read()


def test_only_this_machine_is_served(studio):
    assert studio[0].startswith("http://127.0.0.1:")
    policy = urllib.request.urlopen(studio[0]).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy
