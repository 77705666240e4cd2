"""What a user installs: the metadata, what the wheel holds, and a command that starts without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from zipfile import ZipFile

import pytest

import concepts_cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "open_clip",
    "timm",
    "sklearn",
    "scipy",
    "numpy",
    "matplotlib",
    "jinja2",
)


def python(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def test_requirements_are_ranges():
    project = PROJECT["project"]
    extras = [need for needs in project["optional-dependencies"].values() for need in needs]
    for need in project["dependencies"] + extras:
        assert need.startswith("concepts-cli[") or re.fullmatch(r"[\w-]+>=[\d.]+", need), need
    assert not any(need.startswith("daam") for need in project["dependencies"] + extras), "daam pins what we need newer"


def test_the_version_is_one_and_the_same():
    assert re.fullmatch(r"\d+\.\d+\.\d+", concepts_cli.__version__)
    assert f"## [{concepts_cli.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    try:
        assert version("concepts-cli") == concepts_cli.__version__
    except PackageNotFoundError:
        pytest.skip("run from a checkout that is not installed")


def test_the_command_leads_to_a_function():
    import concepts_cli.__main__

    module, _, function = PROJECT["project"]["scripts"]["ucd"].partition(":")
    assert module == "concepts_cli.__main__"
    assert callable(getattr(concepts_cli.__main__, function))
    for script in entry_points(group="console_scripts", name="ucd"):
        assert callable(script.load())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"], ["report", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments):
    script = f"""
import sys
sys.argv = ["ucd", *{arguments!r}]
from concepts_cli.cli import main
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    ran = python("-c", script)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1] == "[]"
    assert ran.stdout.strip()


def test_a_recipe_is_checked_without_anything_heavy():
    script = f"""
import sys
from concepts_cli.recipe import load_recipe
load_recipe("quickstart")
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python("-c", script).stdout == "[]\n"


def test_python_m():
    ran = python("-m", "concepts_cli", "--help")
    assert ran.returncode == 0
    assert "train" in ran.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel's files in it, as pip would lay them out."""
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = builder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    ZipFile(wheel).extractall(folder)
    return folder


@pytest.mark.parametrize(
    ("packed", "source"),
    [("_recipes", "recipes"), ("mini", "concepts_cli/mini"), ("report", "concepts_cli/report")],
)
def test_the_wheel_holds_all_that_is_read_at_run_time(installed, packed, source):
    suffixes = {".yaml", ".png", ".json", ".safetensors", ".txt", ".md", ".html", ".css", ".js"}
    wanted = [path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*") if path.suffix in suffixes]
    assert wanted
    assert [path for path in wanted if not (installed / "concepts_cli" / packed / path).is_file()] == []
    assert not (installed / "tests").exists()


def test_an_installed_recipe_finds_its_images(installed, tmp_path):
    script = """
from pathlib import Path
from concepts_cli.recipe import load_recipe
recipe = load_recipe("quickstart")
print(len(list(Path(recipe.data.images[0]).glob("*.png"))), recipe.data.images[0])
"""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith(f"25 {installed}")


def test_no_file_is_ignored_that_the_package_needs():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert not any(pattern.endswith((".safetensors", ".png", ".json", ".yaml", "weights/")) for pattern in ignored)
