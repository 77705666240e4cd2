"""Whatever text arrives where a person writes, it is read or refused with a UcdError: no other error, no long wait."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from concepts_cli.core.concepts import concept_tokens
from concepts_cli.core.places import parse_place
from concepts_cli.errors import UcdError
from concepts_cli.pictures.names import file_name
from concepts_cli.pictures.terms import parse_sweep, parse_term
from concepts_cli.recipe import Recipe, load_recipe
from concepts_cli.recipe.fields import leaves
from concepts_cli.runs.run import Run

EARLIER = Path(__file__).parent / "runs" / "earlier_run"
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
NUMBERS = st.one_of(st.integers().map(str), st.floats().map(str), st.sampled_from(["9" * 5000, "1e999", "-0", "0x1"]))
KEYS = st.one_of(st.sampled_from(sorted(leaves(Recipe))), TEXT)
VALUES = st.one_of(NUMBERS, TEXT, st.sampled_from(["[]", "{}", "[a, b]", "null", "&a [*a]", "!!python/x", "<<: 3"]))
TERM_PARTS = st.sampled_from(
    ["t1", "<t2>", "other:", "run:t1", "=", "@", "left", "0,0,1,1", ":", "<", ">", "1", "e9", " "]
)
TERMS = st.one_of(TEXT, st.lists(st.one_of(TERM_PARTS, NUMBERS, TEXT), max_size=6).map("".join))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "earlier"
    shutil.copytree(EARLIER, folder)
    return Run(folder)


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "x.yaml"


@FEW
@given(lines=st.lists(st.tuples(KEYS, VALUES), max_size=4), rest=TEXT)
def test_any_recipe(recipe_path, lines, rest):
    text = "".join(f"{key}: {value}\n" for key, value in lines) + rest
    recipe_path.write_bytes(text.encode(errors="surrogatepass"))
    with suppress(UcdError):
        load_recipe(recipe_path)


@FEW
@given(key=KEYS, value=VALUES)
@example(key="data.repeats", value="9" * 5000)
def test_any_override(key, value):
    try:
        load_recipe("quickstart", [f"{key}={value}"])
    except UcdError as error:
        assert len(error.message) < 1000


@FEW
@given(
    key=KEYS, value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.lists(TEXT, max_size=3))
)
@example(key="train.max_steps", value=10**5000)
def test_any_override_from_python(key, value):
    with suppress(UcdError):
        load_recipe("quickstart", {key: value})


@FEW
@given(text=TERMS)
@example(text="x" * 300 + ":t1")
@example(text="t1=" + "9" * 5000)
@example(text="t1=nan")
def test_any_term(run, text):
    with suppress(UcdError):
        assert abs(parse_term(run, text, 7.5).weight) <= 1000


@FEW
@given(text=TERMS)
@example(text="t1=0:1e308:5")
def test_any_sweep(run, text):
    with suppress(UcdError):
        assert all(abs(weight) <= 1000 for weight in parse_sweep(run, text).weights)


@FEW
@given(text=st.one_of(TEXT, st.lists(NUMBERS, min_size=4, max_size=4).map(",".join)))
@example(text="x" * 300 + ".png")
@example(text="\0.png")
def test_any_place(text):
    with suppress(UcdError):
        parse_place(text)


@FEW
@given(text=st.one_of(TEXT, TERM_PARTS))
def test_any_token(run, text):
    with suppress(UcdError):
        assert run.token(text) in run.tokens
    with suppress(UcdError):
        recipe = load_recipe("quickstart", {"concepts.count": 1, "concepts.tokens": [text]})
        (token,) = concept_tokens(1, recipe.concepts.tokens)
        assert token[0] == "<" and token[-1] == ">" and Path(token[1:-1]).name == token[1:-1]


@FEW
@given(text=st.text(st.characters(codec="utf-8"), max_size=300))
@example(text="grid.png")
def test_any_prompt_is_a_plain_file_name(text):
    name = file_name(text)
    assert Path(name).name == name and len(name.encode()) < 250 and not name.startswith(".") and name != "grid.png"
