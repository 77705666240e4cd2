"""`ucd rename`."""

from __future__ import annotations

from typing import Annotated

import typer

from concepts_cli.cli.completion import complete_concepts
from concepts_cli.cli.options import Help, Json, Quiet, RunFolder, examples
from concepts_cli.cli.session import chosen_run, command_output, say_next

EXAMPLES = examples("ucd rename t3 dog", "ucd rename dog poodle --run runs/quickstart")


def rename(
    concept: Annotated[
        str,
        typer.Argument(
            metavar="CONCEPT", show_default=False, help="Concept such as t3.", autocompletion=complete_concepts
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Its new name, such as dog.")],
    run: RunFolder = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Give a concept a name of your own, good everywhere: in files, prompts, pages and embeddings.

    Prints the name. In a text it needs brackets: `ucd sample dog '<dog> at night'`.
    """
    with command_output(quiet, json) as out:
        source = chosen_run(run, out)
        from concepts_cli.commands.rename import rename as give_name
        from concepts_cli.runs.run import bare_name

        renamed = give_name(source, concept, name, out=out)
        new = bare_name(renamed.tokens[source.tokens.index(source.token(concept))])
        out.result(new)
        out.document({"run": renamed.path, "concept": new, "concepts": list(map(bare_name, renamed.tokens))})
        say_next(out, f"{bare_name(source.token(concept))} of {source.path} is {new}", f"ucd sample {new}")
