"""What became of the last prompt with images that a stock model answered under a plan.

Shapes: S positions, t frames, h rows and w columns of an image's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llava.model.engine import PassRecord
from llava.reduction import Record
from llava.reduction.context import recall

from .call import Sight
from .parts import base_of


@dataclass(eq=False)
class Outcome:
    """The images of a prompt, and what the stages of its plan did. ``rows``: prompts of the batch."""

    sights: list[Sight] = field(default_factory=list)
    record: PassRecord = field(default_factory=PassRecord)
    rows: int = 0


def last_outcome(model: Any) -> Outcome:
    """What the last prompt of this context became; of any context where this one made none."""
    return recall(base_of(model), Outcome())


def model_trace(model: Any) -> list[Record]:
    """Every stage of the last prompt, in order: before the decoder the rows of a record are parts of pictures, or pictures."""
    return model.last_trace if hasattr(model, "last_trace") else last_outcome(model).record.trace


def kept_grids(model: Any, row: int = 0, layer: int = -1) -> list[Tensor]:
    """For each image in a row of a stock model's last prompt, the tokens that a layer was given (default: the last).

    Bool tensors (t, h, w), or (parts, n) for an image whose parts are of several grids, where n is the longest. Raises
    ValueError where no prompt with an image was answered under a plan.
    """
    outcome = last_outcome(model)
    if not outcome.record.ledgers:
        raise ValueError("no prompt with an image has been answered under a plan; run the model inside reduced(...)")
    ledger = outcome.record.ledgers[layer].to(torch.device("cpu"))
    visible = ledger.origin[row][(ledger.visual[row] > 0) & ledger.visible[row]]
    grids = []
    for sight in outcome.sights:
        if sight.row != row:
            continue
        left, layout = torch.isin(sight.columns, visible), sight.layout
        parts = [left[layout.part == part] for part in range(len(layout.grids))]
        time, height, width = layout.whole
        if time:
            grids.append(torch.stack(parts).view(time, height, width))
        else:
            grids.append(torch.nn.utils.rnn.pad_sequence(parts, batch_first=True))
    return grids
