"""`ucd doctor`."""

from __future__ import annotations

from concepts_cli.cli.options import Help, Json, Quiet, examples
from concepts_cli.cli.session import command_output

EXAMPLES = examples("ucd doctor", "ucd doctor --json | jq '.findings[] | select(.works | not)'")


def doctor(json: Json = False, quiet: Quiet = False, help_: Help = False) -> None:
    """Show what works on this machine, and how to get the rest.

    Versions, devices and their memory, models and caches, the login of the Hugging Face Hub, and optional programs.
    """
    with command_output(quiet, json) as out:
        out.loading("looking around")
        from concepts_cli.commands.doctor import doctor as examine

        findings = examine()
        rows = [(finding.what, "yes" if finding.works else "no", finding.here, finding.how) for finding in findings]
        out.table("", ["what", "works", "here", "how to get it"], rows)
        out.document({"findings": findings})
