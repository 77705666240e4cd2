"""Commands that are killed at any moment leave whole files, and do their work when they are told to again."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from tests.commands import killed_command

COMMANDS = {
    "sample": ["sample", "-n", "3", "--steps", "2", "--grid", "--force"],
    "compose": ["compose", "t1", "t2=-1", "-n", "3", "--steps", "2", "--grid", "--force"],
    "visualize": ["visualize", "--concept", "t1", "-n", "1", "--steps", "2", "--force"],
    "evaluate": ["evaluate", "--metric", "assignment"],
    "encode": ["encode", "images", "--steps", "3", "--output", "run/weights.csv", "--force"],
    "export": ["export", "--for", "comfyui", "--force"],
    "report": ["report", "--force"],
}


def read_whole(path: Path) -> None:
    """Read a file to its end. Raises what reading raises if it is cut."""
    match path.suffix:
        case ".png":
            with Image.open(path) as image:
                image.load()
        case ".json":
            json.loads(path.read_text())
        case ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
        case ".safetensors":
            with safe_open(path, "pt") as file:
                assert all(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
        case ".csv":
            assert len({line.count(",") for line in path.read_text().splitlines()}) == 1
        case ".html":
            assert path.read_text().rstrip().endswith("</html>")


def files(folder: Path) -> set[str]:
    """All but hidden ones: locks, and what a killed process had not renamed yet."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if not any(part.startswith(".") for part in path.parts)}


@pytest.fixture
def start(workplace, tiny_run):
    """Starts the command of this name on a small run, in a process of its own."""
    tiny_run.path.rename(workplace / "run")
    server = multiprocessing.get_context("forkserver")  # imports once, then forks: a start takes no seconds
    server.set_forkserver_preload([killed_command.__name__, "diffusers", "transformers"])

    def process(name: str):
        started = server.Process(target=killed_command.run, args=(COMMANDS[name], workplace))
        started.start()
        return started

    return process


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments_it_leaves_whole_files(workplace, start, name, kills):
    folder, chance = workplace / "run", random.Random(name)
    begun, whole = time.monotonic(), start(name)
    whole.join()
    takes = time.monotonic() - begun
    assert whole.exitcode == 0
    made = files(folder)
    for _ in range(kills):
        process = start(name)
        process.join(chance.uniform(0, takes))
        process.kill()
        process.join()
        assert files(folder) <= made
        for path in files(folder):
            read_whole(folder / path)
    last = start(name)
    last.join()
    assert last.exitcode == 0 and files(folder) == made


@pytest.mark.parametrize("name", COMMANDS)
def test_two_at_once_leave_what_one_does(workplace, start, name):
    alone = start(name)
    alone.join()
    made = files(workplace / "run")
    both = [start(name), start(name)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0] and files(workplace / "run") == made
    for path in made:
        read_whole(workplace / "run" / path)
