"""`ucd studio` before there is a page: what it refuses, and where it listens."""

from __future__ import annotations

import socket
from importlib import util

import pytest
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.errors import UcdError
from concepts_cli.pictures.commands import read_command
from concepts_cli.studio import server


def ucd(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_without_gradio_it_says_what_to_install(tiny_run, monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    result = ucd("studio", "tiny")
    hint = "pip install 'concepts-cli[studio]'"
    assert (result.exit_code, result.stderr) == (2, f"ucd: the studio needs Gradio, which is not installed\n  {hint}\n")
    assert result.stdout == ""


def test_a_run_that_is_not_there_or_not_finished_is_refused(tiny_run):
    assert "no run at nowhere" in ucd("studio", "tiny", "nowhere").stderr
    (tiny_run.path / "concepts.safetensors").unlink()
    assert "has no concepts yet" in ucd("studio", "tiny").stderr


def test_it_listens_on_this_machine_only_and_says_if_a_port_is_taken():
    listener = server.open_socket(None)
    host, port = listener.getsockname()
    assert host == "127.0.0.1"
    socket.create_connection((host, port), timeout=5).close()  # before anything is served
    with pytest.raises(UcdError, match=f"port {port}: "):
        server.open_socket(port)
    with server.open_socket(None) as other:  # the usual port or, if it is taken, any other
        assert other.getsockname()[1] != port
    listener.close()


@pytest.mark.parametrize("program", ["ucd", "rm"])
def test_a_command_is_read_again(program):
    read = read_command(f"{program} compose t1=5 'at night=-2' --seed 3 --grid --sweep t2=0:1:2 --run runs/a")
    assert (read is None) == (program == "rm")
    if read:
        assert (read.verb, read.texts) == ("compose", ["t1=5", "at night=-2"])
        assert read.options == {"seed": "3", "grid": "", "sweep": "t2=0:1:2", "run": "runs/a"}


@pytest.mark.parametrize("text", ["", "ucd", "ucd 'compose", "ls"])
def test_what_is_no_command_is_not_read(text):
    assert read_command(text) is None


def test_texts_may_begin_with_a_dash():
    read = read_command("ucd compose --seed 3 --run runs/a -- -x=1 t1=2")
    assert read.texts == ["-x=1", "t1=2"] and read.options["seed"] == "3"
