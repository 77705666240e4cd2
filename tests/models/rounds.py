"""A recipe for a round of all commands on a tiny model of some family."""

from __future__ import annotations

import json
from pathlib import Path


def write_recipe(path: Path, model: Path) -> Path:
    """Two concepts of the six images in `images/` beside it, and their labels."""
    labels = {f"{n}.png": ["cat" if n < 3 else "dog"] for n in range(6)}
    (path.parent / "labels.json").write_text(json.dumps(labels))
    path.write_text(
        f"""model: {model}
data: {{images: images}}
concepts: {{count: 2, initial: [cat, dog]}}
train:
  {{max_steps: 2, batch_size: 2, gradient_accumulation: 2, log_every: 1, learning_rate: 0.01,
    scale_learning_rate: false}}
sample: {{num_images: 1, steps: 2}}
evaluate: {{class_names: [cat, dog], labels: labels.json}}
"""
    )
    return path
