"""How the built-in model is made: its corpus on disk, its training stage by stage, its export, and what it is worth.

May import everything; nothing imports it.
"""
