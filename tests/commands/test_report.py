"""`ucd report`: one file that needs no other, true to the run, and safe whatever the run is called."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.compose import compose
from concepts_cli.commands.report import report
from concepts_cli.commands.sample import sample
from concepts_cli.commands.train import train
from concepts_cli.commands.visualize import heat_map_settings, visualize
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.report.chart import loss_chart, read_losses
from concepts_cli.report.page import Page
from concepts_cli.runs.files import png_text, write_png
from concepts_cli.runs.run import Run

HOSTILE = "<img src=x onerror=alert(1)>&\"'</style><script>alert(2)</script>"


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self._inside = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(run) -> str:
    return report(run).read_text(encoding="utf-8")


def paint(run, folder, count=2, prompt="a photo of a <t1>", size=(32, 32), command=""):
    for n in range(count):
        image = Image.new("RGB", size, (40 * n, 90, 120))
        metadata = {"prompt": prompt, "seed": n, "command": command}
        write_png(run.path / folder / f"{n:05d}.png", image, metadata)


def test_a_bare_run_shows_the_commands_for_what_is_missing(tiny_run):
    text = Elements(page_of(tiny_run)).text
    run = tiny_run.path
    for command in (
        f"ucd sample --concept t1 --run {run}",
        f"ucd visualize --training-images --concept t2 --run {run}",
        f"ucd compose t1 t2 --run {run}",
        f"ucd evaluate --metric classification --run {run}",
        f"ucd train {run}/recipe.yaml --output {run}-again",
    ):
        assert command in text, command
    assert "2 concepts in 6 unlabelled images" in text and "3 steps" in text.replace("steps 3", "3 steps")


def test_nothing_comes_from_outside(tiny_run):
    paint(tiny_run, "samples/t1")
    page = page_of(tiny_run)
    elements = Elements(page)
    assert not re.search(r"(src|href|action)\s*=\s*[\"']?(https?:|//|file:)", page) and "@import" not in page
    assert set(re.findall(r"url\(\"?([a-z]+):", page)) == {"data"}
    assert [one for tag in ("script", "img", "iframe", "object") for one in elements.of(tag) if "src" in one] == []
    assert {one["rel"]: one["href"] for one in elements.of("link")} == {"icon": "data:,"}
    (policy,) = (one["content"] for one in elements.of("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'; img-src data:;") and "sha256-" in policy


def test_each_picture_is_in_the_page_once(tiny_run):
    page = page_of(tiny_run)
    assert page.count("data:image/") == 6  # in the cards, the grid and the table


def test_the_weights_are_the_runs(tiny_run):
    tiny_run.weights = torch.tensor([[0.25, -1.5]] * 5 + [[2.0, 0.0]])
    cells = [one for one in Elements(page_of(tiny_run)).of("td") if "data-k" in one]
    assert [float(one["data-w"]) for one in cells] == tiny_run.weights.flatten().tolist()
    assert "negative" in cells[1]["class"] and "strong" in cells[10]["class"].split()
    assert "--s: 75%" in cells[1]["style"] and "--s: 100%" in cells[10]["style"]


def test_samples_heat_maps_and_compositions_are_shown(tiny_run):
    paint(tiny_run, "samples/t1", 3, command="ucd sample --concept t1 --num-images 3")
    paint(tiny_run, "samples/steps=5/t2", 1)
    paint(tiny_run, "heatmaps/t2", 1, "a photo of a <t2>", (60, 40))
    paint(tiny_run, "heatmaps/of-an-image", 1, "elsewhere")
    real = tiny_run.path / "heatmaps" / "images" / "photo-1234"
    write_png(real / "t2.png", Image.new("RGB", (60, 40)), {"prompt": "a photo of a <t2>"})
    write_png(real / "t2-mask.png", Image.new("RGB", (60, 40)), {})
    paint(tiny_run, "compositions/t1=4-at-night=-2.5", 1, command="ucd compose t1=4 'at night=-2.5' --num-images 1")
    page = Page(tiny_run)
    text = Elements(page.render()).text
    assert [shown.note for shown in page.concepts[0]["samples"]] == ["seed 0", "seed 1", "seed 2"]
    assert len(page.concepts[1]["samples"]) == 1, "of other settings, where there are none of the usual"
    assert len(page.concepts[1]["heat_maps"]) == 2  # of a sample, and of a real image
    assert [shown.title for shown in page.pictures.other_heat_maps] == ["elsewhere"]
    assert f"ucd visualize --training-images --concept t1 --run {tiny_run.path}" in text
    assert f"ucd visualize --training-images --concept t2 --run {tiny_run.path}" not in text
    assert "ucd compose t1=4 'at night=-2.5' --num-images 1" in text
    assert "ucd sample --concept t1 --num-images 3" in text


def test_a_card_shows_where_its_concept_is_in_its_strongest_images(tiny_run, monkeypatch):
    tiny_run.weights = torch.tensor([[0.1 * n, 1 - 0.1 * n] for n in range(6)])
    options = {"settings": heat_map_settings(tiny_run, {"steps": 2}, real=True), "device": "cpu"}
    visualize(tiny_run, training_images=True, grid=True, out=Output(quiet=True), **options)
    page = Page(tiny_run)
    for concept, strongest in (("t1", [5, 4, 3, 2, 1, 0]), ("t2", [0, 1, 2, 3, 4, 5])):
        mapped = [png_text(path)["image"] for path in page.pictures.heat_maps[concept]]
        assert mapped == [tiny_run.images[i].sha256 for i in strongest]
    said = f"ucd visualize --training-images --grid --steps 2 --run {tiny_run.path}"
    assert Elements(page.render()).text.count(said) == 3  # on both cards, and in the list
    monkeypatch.setattr("concepts_cli.report.pictures.STRONGEST", 2)
    maps = Page(tiny_run).pictures.heat_maps
    assert [[png_text(path)["image"] for path in maps[name]] for name in ("t1", "t2")] == [
        [tiny_run.images[i].sha256 for i in rows] for rows in ([5, 4], [0, 1])
    ]


def test_sheets_are_shown_as_sheets_and_not_as_samples(tiny_run):
    settings = replace(tiny_run.recipe.sample, num_images=2)
    options = {"settings": settings, "device": "cpu", "out": Output(quiet=True)}
    sample(tiny_run, concepts=["all"], grid=True, **options)
    sample(tiny_run, concepts=["t1"], grid=True, **options)
    compose(tiny_run, ["t1", "t2=2"], grid=True, **options)
    compose(tiny_run, ["t1"], sweeps=["t2=0:4:3"], **options)
    page = Page(tiny_run)
    text = Elements(page.render()).text
    assert [sheet.title for sheet in page.pictures.sheets] == ["grid", "grid-2"]
    assert [len(card["samples"]) for card in page.concepts] == [2, 2]
    grid, sweep = sorted(page.pictures.compositions, key=lambda made: len(made.command))
    assert len(grid.pictures) == 2 and [sheet.title for sheet in grid.sheets] == ["grid"]
    assert sweep.pictures == [] and [sheet.title for sheet in sweep.sheets] == ["sweep"], "tiles have no labels"
    for made in (grid, sweep, page.pictures.sheets[0]):
        assert (getattr(made, "command", "") or made.note) in text
    assert f"ucd sample --concept all --grid --run {tiny_run.path}" in text


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("ucd compose t1 'at night=-2' --run x", "ucd compose t1 'at night=-2' --run x"),
        ("ucd compose $(rm -rf ~) `x`; rm y", "ucd compose '$(rm' -rf '~)' '`x`;' rm y"),
        *((text, "") for text in ("rm -rf ~", "ucd train x", "ucd compose 't1", "ucd", "", "sudo ucd compose t1")),
        *((f"ucd compose t1 {option}", "") for option in ("--force", "--output /etc", "-o /etc", "--output=/etc")),
    ],
)
def test_a_command_from_a_picture_runs_ucd_and_nothing_else(tiny_run, stored, shown):
    paint(tiny_run, "compositions/t1", 1, command=stored)
    (made,) = Page(tiny_run).pictures.compositions
    assert made.command == shown


def measured(**changes):
    concepts = {
        "t1": {"images": 4, "best_class": "cat", "share": 0.75, "matched_class": "dog", "counts": {"cat": 3, "dog": 1}},
        "t2": {"images": 4, "best_class": "cat", "share": 1, "matched_class": "cat", "counts": {"cat": 4, "dog": 0}},
    }
    clip = {"scorer": "CLIP", "threshold": 0.3, "accuracy": 0.5, "kl": None, "matched_accuracy": 0.625, "images": 8}
    clip |= {"classes": ["cat", "dog"], "concepts": concepts, "intervals": {"accuracy": [0.25, 0.75]}}
    return {"metrics": {"clip": clip | changes}}


def test_metrics_are_shown_with_their_intervals(tiny_run):
    (tiny_run.path / "evaluation.json").write_text(json.dumps(measured()))
    page = Page(tiny_run)
    bars = {bar.title: bar for bar in page.measures.figures[0]["bars"]}
    assert (bars["accuracy"].share, bars["accuracy"].low, bars["accuracy"].high) == (50, 25, 75)
    assert bars["KL"].text == "∞" and bars["matched accuracy"].text == "62.5%"
    # The classes are in the order of the concepts that are matched to them.
    (figure,) = page.measures.figures
    assert figure["classes"] == ["dog", "cat"]
    assert [[cell.text for cell in cells] for _, _, cells in figure["confusion"]] == [
        ["1", "3"],
        ["0", "4"],
    ]
    text = Elements(page.render()).text
    assert "ucd evaluate --metric resnet" in text and "50.0% 25.0–75.0" in text


def test_pairs_are_a_matrix(tiny_run):
    found = {"scorer": "CLIP", "both_seen": 0.25, "images": 4, "intervals": {}, "concepts": {"t1": None, "t2": "dog"}}
    composed = found | {"matrix": [[None, 0.25], [0.25, None]]}
    anew = {"scorer": "CLIP", "agreement": 0.5, "overlap": 0.75, "images": 6, "intervals": {}, "concepts": {}}
    metrics = {"metrics": {"composition": composed, "recomposition": anew}}
    (tiny_run.path / "evaluation.json").write_text(json.dumps(metrics))
    pairs, again = Page(tiny_run).measures.figures
    assert pairs["classes"] == ["t1", "t2"]
    assert [[cell.text for cell in cells] for _, _, cells in pairs["confusion"]] == [["", "25%"], ["25%", ""]]
    assert [bar.text for bar in again["bars"]] == ["50.0%", "75.0%"]
    text = Elements(page_of(tiny_run)).text
    assert "How often both concepts of a pair are seen" in text and "both concepts seen" in text


@pytest.mark.parametrize("clip", [{}, measured(accuracy="<script>")["metrics"]["clip"]])
def test_a_metric_of_another_form_is_as_good_as_none_and_hides_no_other(tiny_run, clip):
    anew = {"scorer": "CLIP", "agreement": 0.5, "overlap": 0.75, "images": 6, "intervals": {}, "concepts": {}}
    document = {"metrics": {"clip": clip, "recomposition": anew}}
    (tiny_run.path / "evaluation.json").write_text(json.dumps(document))
    text = Elements(page_of(tiny_run)).text
    assert f"ucd evaluate --metric clip --run {tiny_run.path}" in text and "50.0%" in text


@pytest.mark.parametrize("text", ["{", "[]", '{"metrics": {"clip": 3}}', '{"metrics": NaN}', "[" * 100_000, "{}"])
def test_a_damaged_evaluation_is_refused_with_the_command_that_replaces_it(tiny_run, text):
    (tiny_run.path / "evaluation.json").write_text(text)
    with pytest.raises(UcdError, match=r"evaluation\.json is damaged") as caught:
        report(tiny_run)
    assert "ucd evaluate" in caught.value.hint


def test_hostile_text_stays_text(tiny_run, tmp_path):
    name = "<script>alert(1)</script>&'.png"
    place = tiny_run.images[0].path
    hostile = str(tmp_path / "images" / name.replace("/", "∕"))
    shutil.copy(place, hostile)
    tiny_run.images[0] = replace(tiny_run.images[0], path=hostile)
    paint(tiny_run, "samples/t1", 1, HOSTILE)
    paint(tiny_run, "compositions/<b>&", 1, HOSTILE)
    recipe = tiny_run.recipe
    tiny_run.recipe = replace(recipe, evaluate=replace(recipe.evaluate, class_names=(HOSTILE, "dog")))
    naming = {"seen": [{"word": HOSTILE, "similarity": 0.5}], "neighbours": [], "name": HOSTILE}
    naming |= {"dead": False, "mixed": False, "same_as": [HOSTILE]}
    document = {"metrics": {"naming": {"concepts": {"t1": naming, "t2": naming}, "advice": HOSTILE, "scorer": "x"}}}
    (tiny_run.path / "evaluation.json").write_text(json.dumps(document))
    elements = Elements(page_of(tiny_run))
    assert len(elements.of("script")) == len(elements.of("style")) == 1 and not elements.of("img")
    assert not any(key.startswith("on") for _, attributes in elements.tags for key in attributes)
    assert elements.text.count("<img src=x onerror=alert(1)>") > 5  # as text


def test_training_images_that_are_gone_leave_a_gap(tiny_run, image_folder):
    (image_folder / "0.png").unlink()
    elements = Elements(page_of(tiny_run))
    assert sum("gone" in one.get("class", "") for one in elements.of("span")) >= 2
    assert any("0.png is no longer there" in one.get("title", "") for one in elements.of("span"))


def test_where_it_is_written(tiny_run, tmp_path):
    assert report(tiny_run) == report(tiny_run) == tiny_run.path / "report.html"
    elsewhere = tmp_path / "mine.html"
    assert report(tiny_run, output=elsewhere) == elsewhere
    with pytest.raises(UcdError, match="exists already"):
        report(tiny_run, output=elsewhere)
    report(tiny_run, output=elsewhere, force=True)
    (tmp_path / "folder").mkdir()
    assert report(tiny_run, output=tmp_path / "folder") == tmp_path / "folder" / "report.html"
    with pytest.raises(UcdError, match="is not a folder"):
        report(tiny_run, output=elsewhere / "report.html")
    with pytest.raises(UcdError, match="no concepts yet"):
        unfinished = Run(tmp_path / "unfinished")
        unfinished.begin(tiny_run.recipe, tiny_run.images)
        report(unfinished)


def test_from_the_command_line(tiny_run):
    result = CliRunner().invoke(app, ["report"])
    page = str(Path("runs", "tiny", "report.html"))
    assert (result.exit_code, result.stdout) == (0, f"{page}\n"), result.output
    assert json.loads(CliRunner().invoke(app, ["report", "--json"]).stdout) == {"path": page}


def test_the_loss_curve(tmp_path):
    lines = [json.dumps({"number": n, "loss": 1 / n}) for n in range(1, 41)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"number": 41, "los', '{"number": 42, "loss": NaN}']))
    losses = read_losses(tmp_path / "metrics.jsonl")
    assert losses == [(n, 1 / n) for n in range(1, 41)]
    chart = loss_chart(losses)
    assert len(chart.points) == 40 and chart.points[3][2] == "step 4: 0.2500"
    xs, ys = zip(*((x, y) for x, y, _ in chart.points), strict=True)
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys)  # to the right, and down, which is a larger y
    assert min(xs) > 0 and max(xs) < chart.width and min(ys) > 0 and max(ys) < chart.height
    assert [tick.label for tick in chart.x_ticks] == ["10", "20", "30", "40"]
    assert loss_chart(losses[:1]) is None and read_losses(tmp_path / "gone") == []
    assert loss_chart([(1, 0.5), (2, 0.5)]).y_ticks  # a flat line, too


def test_previews_are_before_and_after_with_a_slider(tiny_run):
    for step in (0, 2, 10):
        write_png(tiny_run.path / "previews" / f"step-{step:06d}.png", Image.new("RGB", (64, 64), (step, 90, 120)), {})
    write_png(tiny_run.path / "previews" / "step-x.png", Image.new("RGB", (64, 64)), {})
    page = Page(tiny_run)
    slider = next(one for one in Elements(page.render()).of("input") if one.get("id") == "step")
    assert slider["data-steps"] == "0|2|10" and slider["max"] == "2"
    assert slider["data-pictures"].split("|") == [shown.picture for _, shown in page.pictures.previews]
    for step in range(100, 200):
        write_png(tiny_run.path / "previews" / f"step-{step:06d}.png", Image.new("RGB", (8, 8)), {})
    steps = [step for step, _ in Page(tiny_run).pictures.previews]
    assert len(steps) == 24 and steps[0] == "0" and steps[-1] == "199"


def test_a_training_with_previews_has_one_from_before_its_first_step(workplace, recipe_file):
    recipe = load_recipe(recipe_file, {"train.preview_every": 2})
    run = train(recipe, device="cpu", out=Output(quiet=True))
    assert [path.name for path in sorted((run.path / "previews").iterdir())] == ["step-000000.png", "step-000002.png"]


def test_pairs_of_concepts_and_images_generated_again_are_shown(tiny_run):
    result = {
        "scorer": "scorer",
        "caveat": None,
        "both_seen": 0.25,
        "intervals": {"both_seen": [0.1, 0.4]},
        "corrector_steps": 0,
        "images": 4,
        "concepts": {"t1": "cat", "t2": None},
        "matrix": [[None, 0.25], [0.25, None]],
    }
    (tiny_run.path / "evaluation.json").write_text(json.dumps({"run": "tiny", "metrics": {"composition": result}}))
    bare = Page(tiny_run)
    assert bare.pairs == ([], []) and bare.again == [] and 'id="composed"' not in bare.render()
    paint(tiny_run, "metrics/pairs/t1+t2", 1)
    for name in ("00003.png", "00099.png", "notes.png"):
        write_png(tiny_run.path / "metrics" / "anew" / name, Image.new("RGB", (32, 32)), {})
    page = Page(tiny_run)
    names, (_, pair) = page.pairs
    assert names == ["t1", "t2"] and pair[0].seen == "25%" and pair[0].shown.picture
    assert [(image.title, made.title) for image, made in page.again] == [("3.png", "3, generated again")]
    assert "Every pair of concepts" in page.render()
