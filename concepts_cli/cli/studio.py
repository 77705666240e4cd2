"""`ucd studio`."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from concepts_cli.cli.completion import complete_runs
from concepts_cli.cli.options import WHERE, Device, Help, Json, Quiet, RunFolder, examples, number
from concepts_cli.cli.session import command_output

EXAMPLES = examples("ucd studio", "ucd studio quickstart mini-styles", "ucd studio runs/demo --port 8000")


def studio(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            show_default=False,
            help="Run folder, or its name in runs/; several side by side. Default: that of --run.",
            autocompletion=complete_runs,
        ),
    ] = None,
    port: Annotated[
        int | None,
        number("--port", help="Port. Default: 7860, or any that is free.", panel=WHERE, at_least=1, at_most=65535),
    ] = None,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Play with a run on a page: mix concepts and watch the picture appear, see where each concept is, and rename or
    merge concepts.

    Prints the page's address, and serves it until Ctrl-C. It is on this machine only, and only for those who know the
    token in the address. Needs Gradio: pip install 'concepts-cli[studio]'
    """
    with command_output(quiet, json, lower="close other programs, or use --device cpu") as out:
        from concepts_cli.runs.find import find_run

        named = [*([run] if run else []), *(runs or [])]
        first, *others = [find_run(name) for name in named or (None,)]
        for opened in (first, *others):
            _ = opened.tokens  # raises for one that is not finished
        out.loading(f"{first.path}: loading {first.recipe.model}")
        from concepts_cli.studio.server import HOST, build_page, check_installed, open_socket, serve

        check_installed()
        listener, token = open_socket(port), secrets.token_urlsafe(16)
        page = build_page([opened.path for opened in (first, *others)], token, device=device)
        address = f"http://{HOST}:{listener.getsockname()[1]}/{token}/"
        out.result(address)
        out.document({"address": address, "runs": [opened.path for opened in (first, *others)]})
        out.note("open it in a browser; Ctrl-C ends it")
        serve(page, listener)
