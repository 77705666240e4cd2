"""Wrong numbers are refused where they are typed: finite, within limits that the message names, and never repeated
whole.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import get_type_hints

import pytest
import typer.main
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.encode import encode
from concepts_cli.commands.evaluate import evaluate
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.pictures import plan
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.recipe import Recipe, load_recipe
from concepts_cli.recipe.fields import expected_words, override
from concepts_cli.recipe.numbers import MOST, number_words, parse_number
from concepts_cli.runs.run import Run

QUIET = Output(quiet=True)
DIGITS = "9" * 5000
WRONG = ("nan", "inf", "-inf", "1e30", DIGITS, "-1000000000000", "x", "")
HUGE = "9999999999999999999999999999999999999999…99999999999999999999"
RECIPE = "model: mini\ndata: {images: pictures}\n"


def ucd(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def refusal(*overrides: str) -> str:
    with pytest.raises(UcdError) as caught:
        load_recipe("quickstart", overrides)
    return caught.value.message


@pytest.mark.parametrize("command", typer.main.get_command(app).commands.values(), ids=lambda command: command.name)
def test_every_option_that_takes_a_number_refuses_wrong_ones(command):
    options = [option for option in command.params if option.metavar in ("N", "X", "PX", "FIRST LAST")]
    without = ("report", "export", "import", "init", "runs", "rename", "recipes", "doctor")
    assert options or command.name in without
    named = ["x"] * any(parameter.required for parameter in command.params)
    for option, wrong in itertools.product(options, WRONG):
        values = [wrong] * (2 if option.metavar == "FIRST LAST" else 1)
        with pytest.raises(typer.BadParameter) as caught:
            command.make_context(command.name, [*named, option.opts[0], *values])
        assert "expected a" in caught.value.message and len(caught.value.message) < 200, option.name


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["sample", "-n", "1000000000"], "got 1000000000, expected a whole number from 1 to 100,000"),
        (["sample", "--steps", DIGITS], f"got {HUGE}, expected a whole number from 1 to 10,000"),
        (["encode", "a.png", "--steps", "1000000000000"], "expected a whole number from 1 to 10,000"),
        (["evaluate", "--threshold", "nan"], "got nan, expected a number from -1,000 to 1,000"),
        (["visualize", "--threshold", "nan"], "got nan, expected a number from 0 to 1"),
        (["visualize", "--timesteps", "0", DIGITS], f"got {HUGE}"),
        (["train", "quickstart", "--num-processes", "1000000"], "expected a whole number from 1 to 1,024"),
        (["train", "quickstart", "--dry-run", "--set", f"train.max_steps={DIGITS}"], "expected a whole number"),
        (["train", "quickstart", "--dry-run", "--set", f"{DIGITS}=1"], "unknown key"),
    ],
)
def test_an_option_says_what_it_takes(workplace, arguments, problem):
    result = ucd(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    error = getattr(result.exception, "format_message", lambda: result.stderr)()
    assert problem in " ".join((result.stderr or error).replace("│", " ").split()) and DIGITS not in result.stderr


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("data.repeats=1000000000000000", "got 1000000000000000, expected a whole number from 1 to 10,000"),
        ("train.preview_images=1000000000", "expected a whole number from 1 to 1,000"),
        ("train.batch_size=1000000000", "expected a whole number from 1 to 10,000"),
        ("weights.initial=1e30", "expected a number from -1,000 to 1,000"),
        ("weights.initial=nan", "expected a number from -1,000 to 1,000"),
        ("evaluate.clip_threshold=nan", "expected a number from -1,000 to 1,000 or null"),
        ("train.learning_rate=1e30", "expected a number above 0 and at most 1,000"),
        ("train.adam_betas=[0.9, 1]", "expected a number of at least 0 and below 1"),
        ("train.max_steps=1000000000000", "expected a whole number from 1 to 1,000,000,000 or null"),
        (f"train.seed={DIGITS}", f"got {HUGE}, expected a whole number from 0 to 4,294,967,295"),
        (f"concepts.prompt={DIGITS}", f"got {HUGE}, expected text"),
        (f"{'x' * 5000}=1", "unknown key"),
        (f"train.mixed_precision={'x' * 5000}", "expected one of no, fp16, bf16"),
        (f"data.images=*{'x' * 5000}", "data.images"),
        ("name=" + "é" * 150, "expected at most 200 bytes"),
    ],
)
def test_a_setting_says_what_it_takes(setting, problem):
    message = refusal(setting) if "*" not in setting else problem
    assert problem in message and len(message) < 500


def test_every_number_of_a_recipe_has_limits():
    def numbers(cls, prefix=""):
        for field in dataclasses.fields(cls):
            hint = get_type_hints(cls)[field.name]
            if dataclasses.is_dataclass(hint):
                yield from numbers(hint, f"{prefix}{field.name}.")
            elif "number" in (words := expected_words(hint, field.metadata)) and "FACTOR" not in words:
                yield prefix + field.name

    found = list(numbers(Recipe))
    assert len(found) > 40
    wrong = [f"{key}={value}" for key in found for value in ("nan", "inf", "1e30", "-1e30", DIGITS)]
    for setting in wrong:
        assert "expected " in refusal(setting), setting


def test_numbers_are_read_as_people_write_them():
    assert parse_number(int, "+7", {"at_least": 1}) == 7 and parse_number(int, "7.0", {}) is None
    assert parse_number(float, "5e-3", {"above": 0}) == 0.005 and parse_number(float, "0", {"above": 0}) is None
    assert parse_number(float, "1", {"at_least": 0, "below": 1}) is None
    assert parse_number(int, str(MOST), {}) == MOST and parse_number(int, str(MOST + 1), {}) is None
    assert number_words(int, {}) == "a whole number from -1,000,000,000 to 1,000,000,000"


def test_of_many_mistakes_the_first_are_shown_and_the_rest_are_counted(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(RECIPE + "".join(f"key{n}: 1\n" for n in range(20_000)))
    start = time.monotonic()
    with pytest.raises(UcdError) as caught:
        load_recipe(path)
    lines = caught.value.message.splitlines()
    assert len(lines) == 21 and "x.yaml:3: key0: unknown key" in lines[0] and lines[-1] == "and 19,980 more mistakes"
    assert time.monotonic() - start < 20  # 38 s when each got a hint


def test_numbers_given_in_python_are_refused_too(workplace):
    run, settings = Run(workplace), load_recipe("quickstart").sample
    for refused in (
        lambda: encode(run, ["a.png"], steps=10**12, out=QUIET),
        lambda: encode(run, ["a.png"], rows=0, out=QUIET),
        lambda: evaluate(run, metrics=["clip"], threshold=float("nan"), out=QUIET),
        lambda: MapSettings(threshold=float("nan")),
        lambda: override(settings, {"num_images": 10**5000}, as_options=False),
    ):
        with pytest.raises(UcdError, match="got .*, expected a"):
            refused()


def test_no_plan_has_more_pictures_than_anyone_wants(monkeypatch):
    monkeypatch.setattr(plan, "MOST_PICTURES", 3)
    assert len(plan.planned(iter([None] * 3))) == 3
    with pytest.raises(UcdError, match="more than 3 pictures at once"):
        plan.planned(iter([None] * 4))
