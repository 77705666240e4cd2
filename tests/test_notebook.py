"""The notebook runs from top to bottom, as a reader would run it on Colab without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)


def test_it_holds_no_output_of_somebodys_machine(notebook):
    pytest.importorskip("nbformat").validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 8 and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_on_the_built_in_model(notebook, workplace, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    resources = {"metadata": {"path": str(workplace)}}
    nbclient.NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 5 and kinds.count("text/html") >= 3  # pictures, maps, tables, the report
    assert not [output for output in outputs if output.output_type == "error"]
    assert (workplace / "runs" / "notebook" / "report.html").is_file()
    assert "needs a GPU" in "".join(output.get("text", "") for output in outputs)
