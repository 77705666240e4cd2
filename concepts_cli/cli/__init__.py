"""The `ucd` executable: one command per file (parse, call, print), sharing their options.

May import everything but the interface.
"""

from concepts_cli.cli.app import app, main

__all__ = ["app", "main"]
