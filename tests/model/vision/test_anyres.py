"""Crops of a picture laid out in the prompt, on numbered features of a crop with 2 x 2 patches of 1 pixel."""

from __future__ import annotations

import pytest
import torch

from llava.model.vision.anyres import CropLayout, unpad_image

WHOLE = [0, 1, 2, 3]


def merge(kind: str, crops: int, size=(4, 2), grids=((4, 2), (2, 4))) -> list[float]:
    """The newline is -1; crop i has the features 10 i to 10 i + 3."""
    layout = CropLayout(kind, 2, 2, [list(grid) for grid in grids], torch.tensor([-1.0]))
    return layout.merge([torch.arange(4.0)[:, None] + 10 * i for i in range(crops)], size).flatten().tolist()


def test_unpad_takes_the_margin_off():
    """A 200 x 100 picture in a 4 x 4 grid lies in its 2 middle lines; 100 x 200 in its 2 middle columns."""
    grid = torch.arange(16).view(4, 4, 1)
    assert unpad_image(grid, (200, 100)).flatten().tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert unpad_image(grid, (100, 200)).flatten().tolist() == [1, 2, 5, 6, 9, 10, 13, 14]
    assert torch.equal(unpad_image(grid, (50, 50)), grid)


def test_merge_flat():
    assert merge("flat", 2) == [*WHOLE, 10, 11, 12, 13]


def test_merge_spatial_reads_the_crops_as_one_grid():
    """Two crops side by side: line 0 is 10 11 | 20 21."""
    assert merge("spatial", 3) == [*WHOLE, 10, 11, 20, 21, 12, 13, 22, 23]
    assert merge("spatial", 3, size=(2, 4)) == [*WHOLE, 10, 11, 12, 13, 20, 21, 22, 23]


def test_merge_spatial_unpad_ends_every_line():
    assert merge("spatial_unpad", 3) == [*WHOLE, 10, 11, 20, 21, -1, 12, 13, 22, 23, -1]
    assert merge("spatial_unpad", 1) == [*WHOLE, -1]


def test_merge_errors():
    with pytest.raises(ValueError, match="image_sizes is None"):
        merge("spatial", 3, size=None)
    with pytest.raises(ValueError, match="2 x 1 crops .* but 3 are given"):
        merge("spatial", 4)
    with pytest.raises(ValueError, match="'maxpool'"):
        merge("maxpool", 3)


def test_crops_that_were_reduced_follow_one_another():
    crops = [torch.full((count, 1), float(count)) for count in (1, 3, 2)]
    for kind in ("flat", "spatial", "spatial_unpad"):
        merged = CropLayout(kind, 2, 2, [[4, 2]]).merge(crops, (4, 2))
        assert merged[:, 0].tolist() == [1, 3, 3, 3, 2, 2]
