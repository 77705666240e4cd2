"""`ucd runs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concepts_cli.cli.options import Help, Json, Quiet, examples
from concepts_cli.cli.session import command_output, say_next

if TYPE_CHECKING:
    from concepts_cli.commands.runs import RunSummary

EXAMPLES = examples("ucd runs", "ucd runs --json | jq -r .runs[].path")
MOST = 8  # concepts, by name


def runs(json: Json = False, quiet: Quiet = False, help_: Help = False) -> None:
    """List the runs in runs/, the newest first.

    Each with its model, images, concepts with the words that `ucd evaluate --metric naming` guesses, and scores.
    """
    with command_output(quiet, json) as out:
        out.loading("reading runs/")
        from concepts_cli.commands.runs import list_runs

        summaries = list_runs(out=out)
        out.document({"runs": summaries})
        if summaries:
            columns = ["run", "date", "model", "images", "concepts", "scores"]
            out.table("", columns, [_row(summary) for summary in summaries])
        else:
            say_next(out, "there are no runs here yet", "ucd train quickstart, or ucd train FOLDER")


def _row(summary: RunSummary) -> tuple[object, ...]:
    names = [" ".join(filter(None, (name, guess))) for name, guess in summary.concepts.items()]
    concepts = ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
    scores = ", ".join(f"{metric} {score:.0%}" for metric, score in summary.scores.items())
    date = summary.date[: len("2026-01-31 12:00")]
    return summary.run, date, summary.model, summary.images, concepts or "not finished", scores
