"""The work of each command, one verb per file; no verb imports another. May import report and below."""

# Defaults that the command line and the Python interface share.
PICTURES = 4  # per composition, or per concept with heat maps
INVERSION_STEPS = 50  # as published
