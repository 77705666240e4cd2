"""Commands, and the one mistake that each shows."""

from __future__ import annotations

from typer.testing import CliRunner

from concepts_cli.cli import app

VERBS = {
    "sample": ["-n", "1", "--steps", "1"],
    "compose": ["t1", "-n", "1"],
    "visualize": ["-n", "1"],
    "evaluate": ["--metric", "naming"],
    "encode": ["images"],
    "export": ["--for", "comfyui"],
    "report": [],
}


def ucd(*arguments, code: int) -> str:
    """The command's one mistake, as shown on stderr."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code and isinstance(result.exception, SystemExit), result.output
    assert result.stderr.startswith("ucd: ") and "Traceback" not in result.stderr
    return result.stderr
