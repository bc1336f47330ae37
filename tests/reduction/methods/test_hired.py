"""HiRED's shares of a budget, by hand."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import make_stage
from llava.reduction.views import Views, reduce_images
from tests.reduction.methods.golden import GivenTower


def kept(
    marked: list[int], crops: int, keep: int, grid: tuple[int, int] | None, alpha: float = 0.5, **options
) -> list[int]:
    """How many of 16 tokens each crop keeps, when the whole picture attends to these most."""
    attention = torch.rand(crops, 2, 17, generator=torch.Generator().manual_seed(0)) / 100
    attention[0, :, torch.tensor(marked) + 1] += 1
    tower = GivenTower(cls_attention=attention)
    grids = {} if grid is None else {0: grid}
    views = Views(
        [torch.zeros(16, 2)] * crops, torch.arange(crops), (4, 4), owners=[0] * crops, tower=tower, crop_grids=grids
    )
    _, (record,) = reduce_images([make_stage("hired", keep=keep, alpha=alpha, **options)], "features", views)
    return record.after.tolist()


def test_crops_are_quadrants_where_they_lie_so():
    """Of 4 x 4 the right upper quadrant is tokens 2, 3, 6, 7; half of 16 is in it and half in the left lower one."""
    marked = [2, 3, 6, 7, 8, 9, 12, 13]
    assert kept(marked, 5, 16, (2, 2)) == [8, 0, 4, 4, 0]
    assert kept(marked, 5, 16, (2, 2), mode="code") == [8, 2, 2, 2, 2]  # runs of four tokens


@pytest.mark.parametrize(("crops", "grid"), [(5, (2, 2)), (3, (2, 1)), (3, (1, 2)), (4, None)])
@pytest.mark.parametrize("keep", [1, 7, 23, 40, 47])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_whole_budget_is_given_out(crops, grid, keep, alpha):
    torch.manual_seed(keep)
    marked = torch.randperm(16)[:6].tolist()
    each = kept(marked, crops, keep, grid, alpha)
    assert sum(each) == keep and max(each) <= 16


def test_one_crop_keeps_its_own():
    assert kept([3], 1, 5, None) == [5]
