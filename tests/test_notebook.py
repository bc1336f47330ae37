"""The notebook runs from top to bottom, as somebody who opens it would run it."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

PLAYGROUND = Path(__file__).parents[1] / "playground"


def test_the_notebook_runs_and_shows_what_every_method_kept():
    notebook = nbformat.read(PLAYGROUND / "token_reduction.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(PLAYGROUND)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    for method in ("fastv", "himap", "text_weighted", "custom_selection", "condensation", "random"):
        assert f"{method}@2:64" in printed
    assert "[576, 576, 64, 64" in printed and "[576, 576, 16, 16" in printed
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2  # the picture, and what was kept of it
