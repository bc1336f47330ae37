"""Every notebook runs from top to bottom, as somebody who opens it would run it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PLAYGROUND = Path(__file__).parents[1] / "playground"
# What each says when it runs, and how many pictures it shows
SAYS = {
    "token_reduction": (
        [f"{method}@2:64" for method in ("fastv", "himap", "text_weighted", "custom_selection", "condensation", "random")]
        + ["[576, 576, 64, 64", "[576, 576, 16, 16"],
        2,
    ),
    "compare_methods": (["576 visual tokens", "137 visual tokens", "times fewer FLOPs"], 2),
    "add_a_method": (["outliers@2:64", "64 visual tokens", "largest difference between dropping and hiding", "of 8 right"], 0),
    "qwen2_5_vl": (["192 tokens", "[192, 192, 48, 48", "[48, 48, 48, 48", "the same bits: True"], 2),
}  # fmt: skip


def run(name: str) -> nbformat.NotebookNode:
    """The notebook with what it says on this machine."""
    notebook = nbformat.read(PLAYGROUND / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(PLAYGROUND)}}).execute()
    return notebook


def said(notebook: nbformat.NotebookNode) -> tuple[str, int]:
    """All that the cells have printed, and how many pictures they show."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    return printed, sum("image/png" in output.get("data", {}) for output in outputs)


def test_every_notebook_is_run():
    assert {path.stem for path in PLAYGROUND.glob("*.ipynb")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_a_notebook_runs_and_is_stored_with_what_it_said(name):
    words, pictures = SAYS[name]
    stored = nbformat.read(PLAYGROUND / f"{name}.ipynb", as_version=4)
    for printed, shown in (said(run(name)), said(stored)):
        assert [word for word in words if word not in printed] == []
        assert shown == pictures
