"""Which weights of a model learn, and what is saved of them."""

from __future__ import annotations

from typing import Any, Literal, cast

from llava.model.builder import PROJECTION, UNTRAINED
from llava.model.checkpoint import find_folder, read_json
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM
from llava.model.multimodal_encoder.tower import VisionTower
from llava.utils import installed

from .arguments import ModelArguments, TrainingArguments

# The language model's linear layers, by their whole names: the tower has projections of the same last names.
LORA_TARGETS = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"


def require_tower(model: LlavaFamilyForCausalLM) -> VisionTower:
    """The model's vision tower. Raises ValueError for a model without one."""
    tower = model.get_vision_tower()
    if tower is None:
        raise ValueError(
            f"{model.config.name_or_path} gives no raw_vision_features: it has no vision tower; give a LLaVA"
        )
    return tower


def choose_trained(
    model: LlavaFamilyForCausalLM, model_args: ModelArguments, args: TrainingArguments
) -> tuple[Any, str]:
    """Freezes what does not learn: `(model, layout)`, the model wrapped by peft for a LoRA.

    The tower never learns. What learns becomes float32. With a LoRA the projector learns too, and so do a plan's own
    modules, and the embeddings if tokens were added to them.
    """
    layout = "projector" if model_args.tune_mm_mlp_adapter else "lora" if args.lora_enable else "whole"
    if layout == "lora":
        base_rows = read_json(find_folder(model_args.model_name_or_path, "model") / "config.json").get("vocab_size")
        has_grown = base_rows is not None and base_rows != model.config.vocab_size
        beside = (*PROJECTION, *UNTRAINED, *(("model.embed_tokens.", "lm_head.") if has_grown else ()))
        trained = [weight for name, weight in model.named_parameters() if name.startswith(beside)]
        model = _with_lora(model, args)
    else:
        beside = PROJECTION if layout == "projector" else (*PROJECTION, *UNTRAINED, "lm_head.")
        all_of_it = layout == "whole" and not model_args.freeze_backbone
        trained = [weight for name, weight in model.named_parameters() if all_of_it or name.startswith(beside)]
        model.requires_grad_(False)
    for weight in trained:
        weight.requires_grad_(True)
    require_tower(model).requires_grad_(False)
    if model_args.freeze_mm_mlp_adapter:
        model.get_model().mm_projector.requires_grad_(False)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model, layout


def _with_lora(model: LlavaFamilyForCausalLM, args: TrainingArguments) -> Any:
    """The model frozen under a LoRA of its language model's linear layers."""
    if not installed("peft"):
        raise ImportError("--lora_enable needs peft: pip install 'llava-condense[train]'")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        bias=cast(Literal["none", "all", "lora_only"], args.lora_bias),
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
