"""What `import concepts_cli as ucd` offers to notebooks and scripts. May import everything but the cli.

Each call runs the same code as the command of that name, prints nothing, and returns what the command would have
written: pictures, tensors, dataclasses.
"""

from concepts_cli.interface.discovery import Discovery, discover
from concepts_cli.interface.importing import import_concepts
from concepts_cli.interface.results import Evaluation, HeatMap, HeatMaps, Pictures
from concepts_cli.interface.run import Run, open_run
from concepts_cli.interface.silence import silenced
from concepts_cli.models import load_model as _load_model

load_model = silenced()(_load_model)

__all__ = [
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
]
