"""The `ucd` executable: one command per file (parse, call, print), sharing their options. May import everything."""

from concepts_cli.cli.app import app, main

__all__ = ["app", "main"]
