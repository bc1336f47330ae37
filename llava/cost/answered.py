"""What the last prompt that a model answered has cost, from the rows that really entered every layer."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from llava.model.hosts import last_outcome
from llava.model.hosts.call import Sight
from llava.model.hosts.layout import SEPARATOR
from llava.model.hosts.parts import base_of
from llava.reduction import Cost
from llava.reduction.cost import Read, decoder_flops, kv_bytes, selector_flops
from llava.reduction.stage import CROP_SITES

from .families.base import FAMILIES, Family, Picture
from .vit import crop_grid


def model_cost(model: Any) -> list[Cost]:
    """One entry per row of the last prompt a model was given: tokens layer by layer, FLOPs by part, bytes of the cache.

    ``model`` is one of ours (then beams of a prompt are one entry), or a stock model of transformers that has answered a
    prompt with an image inside ``reduced(...)``. The tower and the projector are counted whole. Raises ValueError where there
    was no such prompt, and for a family whose tower is not counted.
    """
    if hasattr(model, "last_cost"):
        return model.last_cost()
    model = base_of(model)
    outcome, config = last_outcome(model), model.config
    ledgers = outcome.record.ledgers
    if not ledgers:
        raise ValueError("no prompt with an image has been answered under a plan; run the model inside reduced(...)")
    family, text = _family(config), config.get_text_config()
    visual = torch.stack([ledger.visual_counts().cpu() for ledger in ledgers]).T.tolist()
    entered = torch.stack([ledger.row_counts().cpu() for ledger in ledgers]).T.tolist()
    costs = []
    for row in range(outcome.rows):
        pictures = [_picture(family, sight) for sight in outcome.sights if sight.row == row and family is not None]
        costs.append(
            Cost(
                visual_per_layer=visual[row],
                rows_per_layer=entered[row],
                tower_flops=sum(family.tower_flops(picture, []) for picture in pictures if family is not None),
                projector_flops=sum(family.projector_flops(picture, []) for picture in pictures if family is not None),
                selector_flops=_selection(outcome, row, text.hidden_size, family),
                llm_flops=decoder_flops(text, entered[row]),
                kv_bytes=kv_bytes(text, entered[row], next(model.parameters()).element_size()),
            )
        )
    return costs


def _family(config: Any) -> Family | None:
    """How the tower of a family is counted; None for a decoder alone."""
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type](config, {})
    if not hasattr(config, "vision_config"):
        return None
    raise ValueError(f"the tower of model_type={config.model_type!r} is not counted; counted are {', '.join(FAMILIES)}")


def _picture(family: Family, sight: Sight) -> Picture:
    layout = sight.layout
    merge = getattr(family.vision, "spatial_merge_size", None)
    if merge is None:
        grids = (crop_grid(family.vision),) * layout.crops
    else:
        grids = tuple((merge * grid[0], merge * grid[1]) for grid in layout.grids if grid is not None)
    separators = int((layout.part == SEPARATOR).sum())
    return Picture(len(layout.part) - separators, separators, grids, layout.crops)


def _selection(outcome: Any, row: int, width: int, family: Family | None) -> float:
    """What the stages computed for one row: a record's rows are parts of pictures, pictures, or prompts."""
    pictures = [number for number, sight in enumerate(outcome.sights) if sight.row == row]
    owners, patches = [], []
    for sight in outcome.sights:
        grids = [] if family is None else _picture(family, sight).grids
        for part in range(len(sight.layout.grids)):
            crops = sight.layout.crop[sight.layout.part == part].unique().tolist()
            if crops:
                owners.append(sight.row)
                patches.append([prod(grids[crop]) for crop in crops] if grids else [])
    parts = [number for number, owner in enumerate(owners) if owner == row]
    total = 0.0
    for record in outcome.record.trace:
        if family is None or record.site not in CROP_SITES:
            total += selector_flops([record], {"layer": [row], "prompt": pictures}.get(record.site, parts), width)
        else:
            seen = family.vision_width
            chosen = seen if record.site == "features" else width
            total += selector_flops([record], parts, chosen, Read(seen, patches))
    return total
