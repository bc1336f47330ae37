"""The names of tensors in llava-hf's layouts and in LLaVA's own."""

from __future__ import annotations

import re
from collections.abc import Iterable

TOWER = "model.vision_tower.vision_tower."

# llava-hf/* names its tensors differently, and transformers 5 differently again.
HF_LAYOUT = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
    r"^(?:model\.)?vision_tower\.(?:vision_model\.)?": TOWER,
    r"^(?:model\.)?multi_modal_projector\.linear_1\.": "model.mm_projector.0.",
    r"^(?:model\.)?multi_modal_projector\.linear_2\.": "model.mm_projector.2.",
    r"^(?:model\.)?image_newline$": "model.image_newline",
}

# The reverse, as transformers' own class names its modules.
_TO_HF = (
    (TOWER, "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.image_newline", "model.image_newline"),
    ("model.", "model.language_model."),
)

# Buffers that older versions of transformers saved.
_RECOMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids)$")


def is_hf(names: Iterable[str]) -> bool:
    """Whether a checkpoint with these tensors is in llava-hf's layout."""
    return any("multi_modal_projector." in name for name in names)


def own_name(name: str) -> str:
    """The name of a tensor or module in LLaVA's layout, from either layout."""
    if name.startswith(TOWER):
        return TOWER + name.removeprefix(TOWER).removeprefix("vision_model.")
    return next((re.sub(old, new, name) for old, new in HF_LAYOUT.items() if re.search(old, name)), name)


def hf_name(name: str) -> str:
    """The name of a tensor or module in transformers' own LLaVA, from LLaVA's layout."""
    return next((new + name.removeprefix(old) for old, new in _TO_HF if name.startswith(old)), name)


def is_recomputed(name: str) -> bool:
    """Whether a tensor of an old checkpoint is one that the model computes itself."""
    return _RECOMPUTED.search(name) is not None
