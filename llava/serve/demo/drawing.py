"""Kept patches on the picture, as a data address."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, ImageDraw

from llava.eval.report.fading import faded

from .observing import Kept

LARGEST = 672  # pixels of the longer edge
DOT = 0.18  # radius of the dot on a merged patch, in patches


def drawn(view: np.ndarray, kept: Kept) -> Image.Image:
    """The picture (H, W, 3) in [0, 1]: dropped patches fade, patches that stand for others are dotted."""
    picture = Image.fromarray((255 * view).round().astype(np.uint8))
    scale = LARGEST / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    if not kept.merged:
        light = faded(np.asarray(picture, dtype=np.float32) / 255, kept.patches, kept.grid)
        return Image.fromarray((255 * light).round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    width, height = picture.width / kept.grid[1], picture.height / kept.grid[0]
    radius = max(2.0, DOT * min(width, height))
    for row, column in zip(*np.divmod(kept.patches, kept.grid[1]), strict=True):
        x, y = (column + 0.5) * width, (row + 0.5) * height
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white", outline="black", width=2)
    return picture


def data_address(picture: Image.Image) -> str:
    """A picture as text that an ``img`` can hold."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
