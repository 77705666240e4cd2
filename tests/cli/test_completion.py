"""Completion: what Tab offers in bash, zsh and fish, without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_help import imported

ROOT = Path(__file__).parents[2]


def complete(line: str, shell: str = "fish") -> list[str]:
    """The words that `shell` would be given for the line; nothing heavy may be imported for them."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "_UCD_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": line.replace(" ", "\n"),
        "COMP_CWORD": str(line.count(" ")),
    }
    printed, heavy = imported("sys.argv = ['ucd']; from concepts_cli.cli import main; main()", environment)
    assert heavy == []
    return printed.split()


def test_recipes(workplace):
    (workplace / "mine.yaml").touch()
    (workplace / "mining").mkdir()
    assert complete("ucd train quick") == ["quickstart"]
    assert complete("ucd train min") == [
        "mini-s2",
        "mini-s3",
        "mini-s4",
        "mini-scenes",
        "mini-styles",
        "mine.yaml",
        "mining/",
    ]


def test_files_that_hold_or_list_images_do_for_a_recipe(workplace):
    for name in ("photos.csv", "photos.tar", "photos.txt"):
        (workplace / name).touch()
    assert complete("ucd train ph") == ["photos.csv", "photos.tar"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_it_is_installed_by_its_own_option(workplace):
    """In a home of its own: a new bash then completes a command, through the script `ucd`."""
    script = workplace / "bin" / "ucd"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom concepts_cli.__main__ import main\nmain()\n")
    script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), os.environ["PATH"]])
    environment = os.environ | {"HOME": str(workplace), "PYTHONPATH": str(ROOT), "PATH": path}

    def bash(line: str) -> str:
        ran = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=True)
        return ran.stdout

    assert "completion installed" in bash("ucd --install-completion; true")
    words = "COMP_WORDS=(ucd train quick); COMP_CWORD=2; _ucd_completion ucd; echo ${COMPREPLY[@]}"
    assert bash(f"source ~/.bashrc; {words}") == "quickstart\n"


def test_runs_and_concepts(tiny_run):
    assert complete("ucd sample --run t") == ["tiny"]
    assert complete("ucd sample --concept ") == ["t1", "t2", "all"]
    assert complete("ucd visualize --run tiny --term t") == ["t1", "t2", "tiny:"]
    assert complete("ucd compose tiny:t") == ["tiny:t1", "tiny:t2"]
    assert complete("ucd sample --run nowhere --concept ") == ["all"]
    assert complete("ucd sample --run runs/") == ["runs/tiny/"]


def test_settings_and_choices(workplace):
    assert complete("ucd train quickstart --set concepts.c") == ["concepts.count=", "concepts.count_at_most="]
    assert complete("ucd evaluate --metric c") == ["clip", "classification", "composition"]
    assert complete("ucd sample --precision ") == ["fp32", "fp16", "bf16"]
    assert complete("ucd train quickstart --set train.mixed_precision=") == [
        f"train.mixed_precision={value}" for value in ("no", "fp16", "bf16")
    ]
    assert complete("ucd train quickstart --set train.tf32=t") == ["train.tf32=true"]
    assert complete("ucd train quickstart --set train.seed=") == []


def test_image_files(workplace):
    (workplace / "cat.png").touch()
    (workplace / "cats").mkdir()
    assert complete("ucd encode ca") == ["cat.png", "cats/"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell(workplace, shell):
    assert "quickstart" in " ".join(complete("ucd train q", shell))


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("bash"), reason="needs bash")
def test_in_a_real_bash(workplace):
    """The script that --show-completion prints, as bash runs it."""
    command = workplace / "ucd"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m concepts_cli "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": os.pathsep.join([str(workplace), os.environ["PATH"]])}
    script = """
        eval "$(ucd --show-completion bash)"
        COMP_WORDS=(ucd train van) COMP_CWORD=2
        _ucd_completion ucd
        echo "${COMPREPLY[@]}"
    """
    # Told by name: typer otherwise asks which shell its parent process is.
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["van-gogh"], result.stderr
