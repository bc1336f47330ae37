"""What the last prompt of a model kept, layer by layer, what it cost, and the picture as its tower saw it.

Shapes: H, W pixels, h, w patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from llava.cost import model_cost
from llava.eval.ask.record import left_after, merges
from llava.mm_utils import process_images
from llava.model.hosts import kept_grids, model_trace

from ..openai.chat import Chat, Prompt
from ..openai.llava_chat import LlavaChat
from ..openai.stock_chat import StockChat


@dataclass(frozen=True, eq=False)
class Kept:
    """The patches that a layer is given: indices in raster order into a grid (h, w).

    merged: each stands for others too, so that nothing of the picture is lost.
    """

    grid: tuple[int, int]
    patches: np.ndarray
    merged: bool


def depth(chat: Chat) -> int:
    """Layers of the decoder."""
    return _model(chat).config.get_text_config().num_hidden_layers


def prompt_flops(chat: Chat) -> float | None:
    """Operations of the last prompt; None for a family whose tower is not counted."""
    try:
        return model_cost(_model(chat))[0].total_flops
    except ValueError:
        return None


def kept_by_layer(chat: Chat, prompt: Prompt, visual: int) -> list[Kept]:
    """What every layer was given of the only picture of the last prompt; empty where its tokens are no single grid.

    visual: tokens of the picture in the first layer.
    """
    if isinstance(chat, LlavaChat):
        return _of_own(chat, prompt, visual)
    return _of_stock(chat)


def tower_view(chat: Chat, prompt: Prompt, picture: Image.Image) -> np.ndarray | None:
    """The picture under the grid of its patches: (H, W, 3) in [0, 1]; None where the model sees several crops of it."""
    if isinstance(chat, LlavaChat):
        return _unscaled(process_images([picture], chat.image_processor, chat.model.config)[0], chat.image_processor)
    pixels = prompt.inputs.encoded.get("pixel_values") if isinstance(chat, StockChat) else None
    if pixels is None:
        return None
    if pixels.dim() == 2:  # patches of the whole picture, in a row
        return np.asarray(picture, dtype=np.float32) / 255
    if math.prod(pixels.shape[:-3]) != 1:
        return None
    return _unscaled(pixels.reshape(pixels.shape[-3:]), cast(Any, chat).processor.image_processor)


def _model(chat: Chat) -> Any:
    return cast(Any, chat).model


def _of_own(chat: LlavaChat, prompt: Prompt, visual: int) -> list[Kept]:
    if prompt.inputs.images[0].dim() != 3:
        return []
    trace = chat.model.last_trace
    patches = int(trace[0].before[0]) if trace else visual
    side = math.isqrt(patches)
    if side * side != patches:
        return []
    stages = left_after(prompt.inputs.plan, trace, patches)
    layers = []
    for layer in range(depth(chat)):
        passed = [(stage, left) for stage, left in stages if (stage.layer or 0) <= layer]
        left = passed[-1][1] if passed else np.arange(patches)
        layers.append(Kept((side, side), left, any(merges(stage) for stage, _ in passed)))
    return layers


def _of_stock(chat: Chat) -> list[Kept]:
    model, layers = _model(chat), []
    trace = model_trace(model)
    for layer in range(depth(chat)):
        (grid,) = kept_grids(model, layer=layer)
        if grid.dim() != 3 or len(grid) != 1:
            return []
        merged = any(merges(record.stage) for record in trace if (record.layer or 0) <= layer)
        height, width = grid.shape[1:]
        layers.append(Kept((height, width), grid.flatten().nonzero()[:, 0].numpy(), merged))
    return layers


def _unscaled(pixels: torch.Tensor, processor: Any) -> np.ndarray | None:
    """Pixels (3, H, W) as a processor made them, back as a picture; None for several crops."""
    if pixels.dim() != 3:
        return None
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return (pixels.float() * deviation + mean).clamp(0, 1).permute(1, 2, 0).numpy()
