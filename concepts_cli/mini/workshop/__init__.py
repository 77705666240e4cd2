"""How the built-in model is made: its corpus on disk, its training stages, its export and its measurements.

May import everything; nothing imports it.
"""
