"""The work of each command, one verb per file; no verb imports another. May import everything but the cli."""
