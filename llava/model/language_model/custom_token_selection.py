"""Custom token selection (document 001): centres by similarity, mixed by cosine cross-attention."""

from __future__ import annotations

from .knobs import Knob
from .reducible_llama import ReducibleLlamaModel


class CustomTokenSelection_LlamaModel(ReducibleLlamaModel):  # noqa: N801  public name fixed by the documents
    """Llama that replaces its visual tokens by a few centres, each a mixture of the tokens like it.

    The ``custom_*`` knobs are attributes of the same names, and live: every prefill follows their current values.
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


CustomSelection_LlamaModel = CustomTokenSelection_LlamaModel  # the user's name for the documented class
