import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path):
    """Five PNGs of different sizes and shapes."""
    rng = np.random.default_rng(0)
    paths = []
    for n, size in enumerate([(64, 64), (80, 40), (300, 260), (31, 47), (224, 224)]):
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(paths[-1])
    return paths
