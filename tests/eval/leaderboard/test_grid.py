"""The grid of a leaderboard is read strictly, and the shipped one is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llava.eval.leaderboard.grid import RANDOM, read_grid
from llava.reduction import method_names

SHIPPED = Path(__file__).parents[3] / "configs/leaderboard.yaml"


def test_the_shipped_grid_is_read():
    grid = read_grid(SHIPPED)
    assert set(grid.means) == {192, 128, 64, 32, 16} and len(grid.methods) > 45
    plans = [method.plan for method in grid.methods if method.name == RANDOM]
    assert plans == [f"random@features,seed={seed}" for seed in range(3)]
    assert [method.name for method in grid.methods[:2]] == ["full", "blind"]
    used = {method.plan.split(",")[0].split("@")[0] for method in grid.methods}
    assert used <= set(method_names())


def test_settings_of_a_task_lie_in_a_folder_of_their_own():
    grid = read_grid(SHIPPED)
    settings = grid.settings(grid.models[0], grid.models[0].benchmarks[0])
    assert settings.results == grid.results / "shapes/mme" and settings.task == "mme" and settings.samples == 12


def base() -> dict:
    return {
        "results": "results",
        "means": [64],
        "models": {"tiny": {"path": "tiny", "tasks": {"mme": {"data": "MME"}}}},
        "methods": {"before": {"divprune": "divprune"}},
    }


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("mean", [1], "'mean' is not known; did you mean 'means'"),
        ("means", [64, 64], "different whole numbers"),
        ("means", [0.5], "different whole numbers"),
        ("seeds", 0, "seeds=0 must be at least 1"),
        ("batch_size", "8", "batch_size='8' must be a whole number"),
        ("methods.inside", ["fastv"], "must be a mapping of names to plans"),
        ("methods.inside", {"divprune": "divprune@1"}, "'divprune' is named twice"),
        ("methods.inside", {"random": "random@1"}, "'random' is named twice"),
        ("methods.outside", {}, "'outside' is not known"),
        ("models.tiny.paths", "tiny", "'paths' is not known; did you mean 'path'"),
        ("models.../tiny", {"path": "x", "tasks": {}}, "must be a name that a folder can have"),
        ("models.tiny.tasks.mmme", {"data": "x"}, "task='mmme' is not known; did you mean 'mme'"),
        ("models.tiny.tasks.pope", {}, "needs either data, its folder, or missing"),
        ("models.tiny.tasks.pope", {"data": "x", "missing": "y"}, "needs either data, its folder, or missing"),
        ("models.tiny.tasks.pope", {"data": "x", "means": [64]}, "needs data, means and elsewhere"),
        ("models.tiny.tasks.pope", {"data": "x", "elsewhere": "y"}, "needs data, means and elsewhere"),
        (
            "models.tiny.tasks.pope",
            {"missing": "x", "means": [64], "elsewhere": "y"},
            "needs data, means and elsewhere",
        ),
        ("models.tiny.tasks.pope", {"data": "x", "means": [32], "elsewhere": "y"}, "means=[32] must be among those"),
        (
            "models.tiny.tasks.pope",
            {"data": "x", "means": [], "elsewhere": "y"},
            "pope: means=[] must be different whole numbers",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, place, value, words):
    content = base()
    *way, last = place.split(".") if "../" not in place else ["models", "../tiny"]
    inner = content
    for name in way:
        inner = inner[name]
    inner[last] = value
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError) as raised:
        read_grid(file)
    assert words in str(raised.value) and str(raised.value).startswith(str(file))
