"""What plan stands in each cell: budgets that have the mean, or the reason why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.cli.settings import ModelSpec
from llava.eval.ask.opening import open_checkpoint
from llava.eval.leaderboard.cells import FILE, Cell, jobs, read_cells, spelled, write_cells
from llava.eval.leaderboard.grid import Method, Model

SHAPES = Path(__file__).parents[3] / "playground/checkpoints/llava-shapes-v1"
MODEL = Model("shapes", ModelSpec(SHAPES), (), {"layer": 1, "relevance": "embeddings"})


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(MODEL.spec)


def plans(checkpoint, *methods: Method, means=(64, 16)) -> dict[tuple[str, int | None], Cell]:
    return {(job.cell.name, job.cell.mean): job.cell for job in jobs(MODEL, checkpoint, methods, means)}


def test_budgets_are_those_that_have_the_mean(checkpoint):
    """Behind layer 1 of 14: (576 + 13 k) / 14 = 64 for k = 24.6, so 25; before the language model k is the mean."""
    found = plans(
        checkpoint,
        Method("full", "full", "control"),
        Method("divprune", "divprune", "before"),
        Method("cdpruner", "cdpruner,relevance={relevance}", "before"),
        Method("fastv", "fastv@{layer}", "inside"),
    )
    assert found["full", None].plan == "full" and ("full", 64) not in found
    assert found["divprune", 64].plan == "divprune-64" and found["divprune", 16].plan == "divprune-16"
    assert found["cdpruner", 64].plan == "cdpruner-64_relevance=embeddings"
    assert found["fastv", 64].plan == "fastv@1-25"
    assert found["fastv", 16].plan is None
    assert found["fastv", 16].reason == "its nearest mean is 41.1 tokens, with fastv@1:0"


def test_a_smaller_picture_has_the_nearest_square(checkpoint):
    found = plans(checkpoint, Method("downsample", "downsample", "control"), means=(128, 32))
    assert found["downsample", 128].plan == "downsample-121" and found["downsample", 32].plan == "downsample-36"


def test_a_plan_that_cannot_keep_everything_is_spelled_with_less(checkpoint):
    """v2drop as a mean over the layers has at most 0.69 of the tokens."""
    found = plans(checkpoint, Method("v2drop", "v2drop", "inside"), means=(64,))
    assert found["v2drop", 64].plan == "v2drop-77"


def test_a_layer_that_the_model_lacks_is_a_reason(checkpoint):
    found = plans(checkpoint, Method("fastv", "fastv@20", "inside"))
    assert [cell.plan for cell in found.values()] == [None, None]
    assert all("layer=20" in (cell.reason or "") for cell in found.values())


def test_cells_go_mean_by_mean_and_know_their_share(checkpoint):
    made = jobs(MODEL, checkpoint, [Method("full", "full", "control"), Method("scope", "scope", "before")], (16, 192))
    assert [(job.cell.name, job.cell.mean) for job in made] == [("full", None), ("scope", 16), ("scope", 192)]
    full, few, many = (job.share for job in made)
    assert full == 1.0 and few < many < 1.0


def test_a_typing_error_raises(checkpoint):
    with pytest.raises(ValueError, match="did you mean 'divprune'"):
        jobs(MODEL, checkpoint, [Method("divprun", "divprun", "before")], (64,))
    with pytest.raises(ValueError, match="values of shapes do not hold; they hold layer, relevance"):
        spelled(Method("fastv", "fastv@{layers}", "inside"), MODEL)


def test_a_budget_of_its_own_stays():
    assert spelled(Method("two", "fastv@{layer}:0.5+fastv@4:0.25", "inside"), MODEL) == "fastv@1:0.5+fastv@4:0.25"
    assert spelled(Method("one", "fastv@{layer},rope=false", "inside"), MODEL, "0.5") == "fastv@1:0.5,rope=false"


def test_cells_are_read_as_they_were_written(tmp_path):
    cells = [Cell("full", "control", None, "full"), Cell("tome", "before", 16, "tome-16", "at least 36 are left")]
    write_cells(tmp_path / "shapes/mme", "llava-shapes-v1", "mme", (64, 16), cells)
    head, found = read_cells(tmp_path / "shapes/mme" / FILE)
    assert found == cells and (head["model"], head["task"], head["means"]) == ("llava-shapes-v1", "mme", [64, 16])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds a list"),
        ('{"format": 1}', "lacks model"),
        ('{"format": 2, "model": "a", "task": "b", "means": [], "cells": []}', "is of format 2"),
        ('{"format": 1, "model": "a", "task": "b", "means": [], "cells": [{"name": 1}]}', "cell 1"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, text, words):
    file = tmp_path / FILE
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as raised:
        read_cells(file)
    assert str(file) in str(raised.value)
