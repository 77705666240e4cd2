"""`ucd recipes`."""

from __future__ import annotations

from concepts_cli.cli.options import Help, Json, Quiet, examples
from concepts_cli.cli.session import command_output

EXAMPLES = examples("ucd recipes", "ucd recipes --json | jq -r .recipes[].path")


def recipes(json: Json = False, quiet: Quiet = False, help_: Help = False) -> None:
    """List the recipes that come with ucd.

    Each trains by its name, and is a file to copy from: `--json` says where it is.
    """
    with command_output(quiet, json) as out:
        from concepts_cli.commands.recipes import recipes as shipped

        found = shipped()
        out.table("", ["recipe", "what it is"], [(recipe.name, recipe.about) for recipe in found])
        out.document({"recipes": found})
