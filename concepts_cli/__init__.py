"""Discover the visual concepts in unlabelled images with a frozen text-to-image diffusion model.

    import concepts_cli as ucd

    run = ucd.discover("photos/", count=5, model="mini").finish()
    run.sample("t1", n=4)

Importing the package imports nothing heavy: each name below is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concepts_cli.version import __version__

if TYPE_CHECKING:
    from concepts_cli.commands.doctor import doctor as doctor
    from concepts_cli.commands.init import init as init
    from concepts_cli.commands.recipes import recipes as recipes
    from concepts_cli.commands.runs import list_runs as list_runs
    from concepts_cli.core.discovery import Step as Step
    from concepts_cli.core.watching import Frame as Frame
    from concepts_cli.errors import UcdError as UcdError
    from concepts_cli.interface import Discovery as Discovery
    from concepts_cli.interface import Evaluation as Evaluation
    from concepts_cli.interface import HeatMap as HeatMap
    from concepts_cli.interface import HeatMaps as HeatMaps
    from concepts_cli.interface import Pictures as Pictures
    from concepts_cli.interface import Run as Run
    from concepts_cli.interface import discover as discover
    from concepts_cli.interface import import_concepts as import_concepts
    from concepts_cli.interface import load_model as load_model
    from concepts_cli.interface import open_run as open_run
    from concepts_cli.models.interface import Selection as Selection
    from concepts_cli.pictures.overlays import MapSettings as MapSettings
    from concepts_cli.recipe import Recipe as Recipe
    from concepts_cli.recipe import load_recipe as load_recipe

_HOMES = {
    "interface": (
        "Discovery",
        "Evaluation",
        "HeatMap",
        "HeatMaps",
        "Pictures",
        "Run",
        "discover",
        "import_concepts",
        "load_model",
        "open_run",
    ),
    "commands.doctor": ("doctor",),
    "commands.init": ("init",),
    "commands.recipes": ("recipes",),
    "commands.runs": ("list_runs",),
    "core.discovery": ("Step",),
    "core.watching": ("Frame",),
    "errors": ("UcdError",),
    "models.interface": ("Selection",),
    "pictures.overlays": ("MapSettings",),
    "recipe": ("Recipe", "load_recipe"),
}
_HOME = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
