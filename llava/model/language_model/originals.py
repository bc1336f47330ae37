"""The names with which the original programs read and reset their models, on every one of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava.reduction import Ledger, Record

FASTV = ("fastv", "text_weighted")
CUSTOM = ("custom_selection",)


class OriginalNames:
    """What FastV's, HiMAP's and custom selection's programs call a decoder's state; mixed into a ``ReducibleDecoder``.

    All of them are views of the last prefill's trace, and before one they are None, or {} for the metadata.
    ``last_gen_kept_indices`` are the positions of the first sample that the last stage kept, counted from the sequence's
    first (numpy, ascending); after FastV and text-weighted selection they include the text, after custom selection they
    do not. The ``reset_*`` methods forget the last prefill; the knobs need no reset.
    """

    last_trace: list[Record]
    last_ledgers: list[Ledger]
    forget: Callable[[], None]

    def reset_fastv(self) -> None:
        """Forget what the last prefill kept."""
        self.forget()

    def reset_hmapv(self) -> None:
        """Forget what the last prefill kept."""
        self.forget()

    def reset_custom_selection(self) -> None:
        """Forget what the last prefill kept."""
        self.forget()

    @property
    def last_gen_attention_mask(self) -> Tensor | None:
        """Which prompt tokens the layers after FastV's stage can see: (B, S) bool, on the CPU."""
        record = self._last_record(*FASTV)
        if record is None:
            return None
        text = record.ledger.visible & (record.ledger.visual == 0)
        seen = torch.zeros(self.last_ledgers[0].valid.shape, dtype=torch.bool, device=text.device)
        return seen.scatter(1, record.ledger.origin, record.chosen | text).cpu()

    @property
    def last_gen_kept_indices(self) -> np.ndarray | None:
        """Positions of the first sample that are kept."""
        record = self._last_record(*FASTV, *CUSTOM)
        return None if record is None else record.kept_origins(row=0, text=record.name in FASTV).cpu().numpy()

    @property
    def last_selection_metadata(self) -> dict[str, Any]:
        """How FastV chose for the first sample's first image: the method, its head, the heads' importance."""
        record = self._last_record(*FASTV)
        if record is None:
            return {}
        return {key: _plain(value) for key, value in {"method": record.name, **record.note(0)}.items()}

    @property
    def last_selected_positions(self) -> np.ndarray | None:
        """The tokens that custom selection kept of the first sample, counted from the image's first."""
        record = self._last_record(*CUSTOM)
        if record is None:
            return None
        order = self.last_ledgers[0].visual[0].bool().long().cumsum(0) - 1
        return order[record.kept_origins(row=0, text=False)].cpu().numpy()

    def _last_record(self, *methods: str) -> Record | None:
        return next((record for record in reversed(self.last_trace) if record.name in methods), None)


def _plain(value: Any) -> Any:
    """Numbers and numpy arrays in place of tensors."""
    if not isinstance(value, Tensor):
        return value
    return value.cpu().numpy() if value.dim() else value.item()
