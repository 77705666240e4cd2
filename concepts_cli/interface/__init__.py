"""What `import concepts_cli as ucd` offers to notebooks and scripts. May import everything but the cli.

Each call runs the same code as the command of that name, prints nothing, and returns what the command would have
written: pictures, tensors, dataclasses.
"""

from concepts_cli.interface.discovery import Discovery, discover
from concepts_cli.interface.results import Evaluation, HeatMap, HeatMaps, Pictures
from concepts_cli.interface.run import Run, open_run

__all__ = ["Discovery", "Evaluation", "HeatMap", "HeatMaps", "Pictures", "Run", "discover", "open_run"]
