"""From the settings of a model to a ``Chat``: this package's own LLaVA, or transformers' class of the checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from llava.cli.loading import load_model
from llava.cli.settings import ModelSpec
from llava.conversation import conversation_mode, get_conversation
from llava.reduction.environment import environment_plan
from llava.reduction.plan import Spec

from .llava_chat import LlavaChat
from .stock_chat import StockChat


def own_chat(spec: ModelSpec, name: str | None = None, picture_cache: int = 0, **knobs: Any) -> LlavaChat:
    """This package's LLaVA of a checkpoint. name: for clients (default: its folder's); picture_cache: as ``LlavaChat`` has it;
    knobs: those of ``load_model``. Raises what ``load_model`` does, and ValueError for an unknown template.
    """
    tokenizer, model, image_processor, _ = load_model(spec, **knobs)
    mode = conversation_mode(spec.name, model.config, spec.conv_mode)
    return LlavaChat(name or spec.name, tokenizer, model, image_processor, get_conversation(mode), picture_cache)


def stock_chat(spec: ModelSpec, name: str | None = None, reduction: Spec = None) -> StockChat:
    """Transformers' own class and processor of a checkpoint.

    reduction: the plan of questions that name none (default: that of ``LLAVA_REDUCTION``, else the field ``reduction`` of the
    checkpoint's config). Raises ValueError for a part of ``spec`` that such a model has no use for, and what ``StockChat`` does.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    for field, value in {"base": spec.base, "conv_mode": spec.conv_mode, "bits": spec.bits}.items():
        if value is not None:
            raise ValueError(f"{field}={value!r} has no effect on a stock model; leave it out")
    device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = AutoModelForImageTextToText.from_pretrained(
        spec.path,
        dtype=spec.dtype or ("float32" if device == "cpu" else "float16"),
        attn_implementation=spec.attn,
    )
    processor = AutoProcessor.from_pretrained(spec.path)
    if reduction is None:
        reduction = environment_plan()
    if reduction is None:
        reduction = getattr(model.config, "reduction", None)
    return StockChat(name or spec.name, model.to(device).eval(), processor, reduction)
