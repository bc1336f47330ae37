"""A picture whose dropped patches fade."""

from __future__ import annotations

import numpy as np

DIMMED = 0.25  # how much of a dropped patch still shines through
DARK = 0.15  # and the grey it fades to


def faded(picture: np.ndarray, kept: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The picture (H, W, 3) in [0, 1] with every patch dark that is not kept.

    kept: indices in raster order into the rows and columns of ``grid``, which divides the picture evenly.
    """
    rows, columns = grid
    light = np.full(rows * columns, DIMMED)
    light[kept] = 1
    height, width = picture.shape[:2]
    places = np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)
    light = light.reshape(rows, columns)[places][..., None]
    return picture * light + DARK * (1 - light)
