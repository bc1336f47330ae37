"""How the visual tokens of an image lie: on which part of the picture, on which grid, from which crop of the tower.

Shapes: n tokens of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, image_size_to_num_patches
from transformers.vision_utils import get_vision_window_index

SEPARATOR = -1  # the part of a token that is no patch: the end of a row


@dataclass(frozen=True, eq=False)
class Layout:
    """For each token of an image its part (n,), and the cell (n,) of the crop (n,) of the tower that it came from.

    ``grids``: height and width of every part's tokens, None where they lie on none. ``crops``: how many crops of the
    tower the image has, ``cells`` how many tokens each of them makes. ``is_video``: the parts are frames.
    """

    part: Tensor
    crop: Tensor
    cell: Tensor
    grids: list[tuple[int, int] | None]
    crops: int
    cells: int
    is_video: bool = False

    @property
    def whole(self) -> tuple[int, int, int]:
        """Time, height and width of all tokens, zeros where they do not lie on one grid."""
        first = self.grids[0]
        same = first is not None and all(grid == first for grid in self.grids)
        if first is None or not same or not (self.is_video or len(self.grids) == 1):
            return 0, 0, 0
        return len(self.grids), *first


def _equal_parts(parts: int, grid: tuple[int, int] | None, each: int, is_video: bool = False) -> Layout:
    number, cell = torch.arange(parts).repeat_interleave(each), torch.arange(each).repeat(parts)
    return Layout(number, number, cell, [grid] * parts, parts, each, is_video)


def _side(tokens: int) -> tuple[int, int] | None:
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else None


def square(core: Any, encoded: Any, kind: str, number: int, tokens: int) -> Layout:
    """One crop, whose tokens lie on a square."""
    return _equal_parts(1, _side(tokens), tokens)


def tiles(core: Any, encoded: Any, kind: str, number: int, tokens: int) -> Layout:
    """Several tiles of equally many tokens, in the order in which the tower saw them."""
    each = encoded.tile_tokens
    return _equal_parts(tokens // each, _side(each), each)


def frames(core: Any, encoded: Any, kind: str, number: int, tokens: int) -> Layout:
    """Frames whose grid the processor gives in patches, several of which make a token."""
    time, height, width = encoded.arguments[f"{kind}_grid_thw"][number].tolist()
    merge = core.visual.spatial_merge_size
    height, width = height // merge, width // merge
    return _equal_parts(time, (height, width), height * width, kind == "video")


def anyres(core: Any, encoded: Any, kind: str, number: int, tokens: int) -> Layout:
    """The whole picture, then its crops put together, cut to the picture and with a token at the end of every row.

    The host is asked to do to the features' numbers what it does to features, so crops, cutting and row ends are its
    own.
    """
    if kind == "video":
        count = encoded.pixels(kind).shape[1]
        each = (tokens - 1) // count
        layout = _equal_parts(count, _side(each), each, is_video=True)
        return _with_row_end(layout)
    config = core.config
    side = config.vision_config.image_size // config.vision_config.patch_size
    size = encoded.arguments["image_sizes"][number]
    crops = 1
    if tokens > side * side + 1:
        crops = image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    marks = torch.stack([row.flatten(), column.flatten()], dim=-1).float()  # (side * side, 2)
    each = torch.arange(crops)[:, None, None].expand(-1, side * side, 1).float()
    features = torch.cat([each, marks.expand(crops, -1, -1)], dim=-1)  # (crops, side * side, 3)
    if crops > 1:
        features = torch.cat([features[:1], _on_canvas(features[1:], side, size, config)], dim=0)
    newline = torch.full((3,), float(SEPARATOR))
    options = {"vision_aspect_ratio": config.vision_aspect_ratio} if hasattr(config, "vision_aspect_ratio") else {}
    if not options:
        options = {"vision_feature_select_strategy": "full"}
    packed = core.pack_image_features([features], size[None], image_newline=newline, **options)[0][0]  # (n, 3)
    if len(packed) != tokens:
        raise ValueError(
            f"{tokens} placeholders stand for an image that becomes {len(packed)} tokens; use its processor"
        )
    return _from_marks(packed, side, crops)


def _on_canvas(marks: Tensor, side: int, size: Tensor, config: Any) -> Tensor:
    """Rows and columns counted over all crops of the picture, so that shrinking it keeps their meaning."""
    across = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)[1]
    crop = marks[..., 0] - 1
    row, column = marks[..., 1] + crop // across * side, marks[..., 2] + crop % across * side
    return torch.stack([torch.full_like(row, float(across)), row, column], dim=-1)


def _from_marks(marks: Tensor, side: int, crops: int) -> Layout:
    ends = marks[:, 0] < 0
    base = torch.arange(len(marks)) < side * side
    row, column = marks[:, 1].round().long(), marks[:, 2].round().long()
    across = marks[:, 0].round().long().clamp(min=1)
    crop = torch.where(base, torch.zeros_like(row), 1 + row // side * across + column // side)
    cell = row % side * side + column % side
    part = torch.where(ends, SEPARATOR, (~base).long())
    grids: list[tuple[int, int] | None] = [(side, side)]
    rest = int((part == 1).sum())
    if rest:
        height = int(ends[side * side :].sum())
        grids.append((height, rest // height))
    return Layout(part, crop * ~ends, cell * ~ends, grids, crops, side * side)


def _with_row_end(layout: Layout) -> Layout:
    def end(values: Tensor, value: int) -> Tensor:
        return torch.cat([values, values.new_tensor([value])])

    return replace(layout, part=end(layout.part, SEPARATOR), crop=end(layout.crop, 0), cell=end(layout.cell, 0))


def window_order(tower: Any, grids: Tensor) -> Tensor:
    """Where each token stands after a tower that has sorted them by windows, of pictures with grids (pictures, 3)."""
    index: Any = get_vision_window_index(
        grids,
        spatial_merge_size=tower.spatial_merge_size,
        window_size=tower.window_size,
        patch_size=tower.patch_size,
    )[0]
    return torch.as_tensor(index).argsort()
