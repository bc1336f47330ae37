"""Custom token selection (document 001): centres by similarity, mixed by cosine cross-attention."""

from __future__ import annotations

import numpy as np

from llava.reduction import Record

from .knobs import Knob
from .reducible_llama import ReducibleLlamaModel


class CustomTokenSelection_LlamaModel(ReducibleLlamaModel):  # noqa: N801  public name fixed by the documents
    """Llama that replaces its visual tokens by a few centres, each a mixture of what is like it.

    The ``custom_*`` knobs are attributes of the same names, and live: what they say at a prefill is what it does.
    ``custom_placement`` is "zero_fill" as documented (results first, zeros after, nothing saved, not neutral) or "drop",
    which really shortens. After a prefill ``last_selected_positions`` are the first sample's kept tokens, counted from the
    image's first, and ``last_gen_kept_indices`` the same counted from the sequence's first (numpy, ascending); before one:
    None. Raises ValueError as ``LlamaConfig`` does.
    """

    use_custom_selection = Knob()
    custom_sys_length = Knob()
    custom_image_token_length = Knob()
    custom_kept_tokens = Knob()
    custom_agg_layer = Knob()
    custom_selection_method = Knob()
    custom_temperature = Knob()
    custom_placement = Knob()
    custom_cover = Knob()
    custom_semantic = Knob()

    def reset_custom_selection(self) -> None:
        """Forget what the last prefill kept; the knobs need no reset."""
        self.forget()

    @property
    def _last_selection(self) -> Record | None:
        return next((record for record in reversed(self.last_trace) if record.name == "custom_selection"), None)

    @property
    def last_selected_positions(self) -> np.ndarray | None:
        if (record := self._last_selection) is None:
            return None
        places = self.last_ledgers[0].visual[0].bool().long().cumsum(0) - 1
        return places[record.kept_origins(row=0, text=False)].cpu().numpy()

    @property
    def last_gen_kept_indices(self) -> np.ndarray | None:
        record = self._last_selection
        return None if record is None else record.kept_origins(row=0, text=False).cpu().numpy()


CustomSelection_LlamaModel = CustomTokenSelection_LlamaModel  # the user's name for the documented class
