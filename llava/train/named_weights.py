"""Weights chosen by name, and saved, as scripts around LLaVA's training do it themselves; the names are LLaVA's."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .trainable import LORA_TARGETS

logger = logging.getLogger(__name__)

Named = Iterable[tuple[str, Any]]  # what model.named_parameters() gives


def rank0_print(*args: object) -> None:
    """Logs its arguments in one line, in the first process of a machine only."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        logger.info(" ".join(map(str, args)))


def maybe_zero_3(param: Any, ignore_status: bool = False, name: str | None = None) -> Tensor:
    """A copy of a weight on the CPU.

    Raises NotImplementedError for one that DeepSpeed's ZeRO-3 has divided among processes. The other arguments are LLaVA's
    and change nothing.
    """
    if hasattr(param, "ds_id"):
        raise NotImplementedError(
            f"{name or 'the weight'} is divided among processes by ZeRO-3; save with trainer.save_model(folder), which gathers it"
        )
    return param.detach().cpu().clone()


def get_peft_state_maybe_zero_3(named_params: Named, bias: str) -> dict[str, Tensor]:
    """The weights of a LoRA. bias: "none", "all" adds every bias, "lora_only" those of the layers that it reaches.

    Raises ValueError for another bias.
    """
    weights = dict(named_params)
    if bias not in ("none", "all", "lora_only"):
        raise ValueError(f"bias={bias!r} is unknown; give 'none', 'all' or 'lora_only'")
    names = [name for name in weights if "lora_" in name]
    reached = {f"{name.split('.lora_')[0]}{layer}.bias" for name in names for layer in ("", ".base_layer")}
    names += [
        name
        for name in weights
        if "lora_" not in name and (bias == "all" and "bias" in name or bias == "lora_only" and name in reached)
    ]
    return {name: maybe_zero_3(weights[name], name=name) for name in names}


def get_peft_state_non_lora_maybe_zero_3(named_params: Named, require_grad_only: bool = True) -> dict[str, Tensor]:
    """The weights that are not a LoRA's, by default only those that learn."""
    return {
        name: maybe_zero_3(weight, name=name)
        for name, weight in named_params
        if "lora_" not in name and (weight.requires_grad or not require_grad_only)
    }


def get_mm_adapter_state_maybe_zero_3(named_params: Named, keys_to_match: Sequence[str]) -> dict[str, Tensor]:
    """The weights whose names contain one of the keys, e.g. "mm_projector"."""
    return {
        name: maybe_zero_3(weight, name=name)
        for name, weight in named_params
        if any(key in name for key in keys_to_match)
    }


def find_all_linear_names(model: nn.Module) -> list[str]:
    """The language model's linear layers, as `target_modules` of a LoRA.

    These are whole names: LLaVA's last parts of names (`q_proj`) also meet the tower's projections, which then learn
    unnoticed. Raises ValueError for a model that has none.
    """
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    names = [name for name in names if re.fullmatch(rf"(base_model\.model\.)?{LORA_TARGETS}(\.base_layer)?", name)]
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no linear layers named {LORA_TARGETS}; give target_modules yourself"
        )
    return names


def safe_save_model_for_hf_trainer(trainer: Any, output_dir: str) -> None:
    """`trainer.save_model(output_dir)`, which writes a projector, a LoRA or a whole model by what was trained."""
    trainer.save_model(output_dir)


def smart_tokenizer_and_embedding_resize(
    special_tokens_dict: dict[str, Any], tokenizer: PreTrainedTokenizerBase, model: Any
) -> None:
    """Adds tokens to a tokenizer and rows for them to a model; the new ones are the mean of the old."""
    if not tokenizer.add_special_tokens(special_tokens_dict):
        return
    old = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(max(len(tokenizer), old), mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight.data[old:] = layer.weight.data[:old].mean(dim=0, keepdim=True)
