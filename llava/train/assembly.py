"""The model of a training: loaded, or a language model that is given a tower and a projector."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM
from llava.model.llava_arch import load_projector
from llava.model.multimodal_encoder.scales import DEFAULT_SCALES, stated_scales

from .arguments import ModelArguments, TrainingArguments
from .trainable import require_tower


def load_model(
    model_args: ModelArguments,
    args: TrainingArguments,
    knobs: dict[str, Any],
    attn_implementation: str | None = None,
) -> tuple[PreTrainedTokenizerBase, LlavaFamilyForCausalLM, Any]:
    """The model to train, with tower and projector: `(tokenizer, model, image_processor)`.

    knobs: reduction knobs of its config. attn_implementation: as `load_pretrained_model` takes it. Raises what `load_pretrained_model` raises, and ValueError for flags that
    contradict the model.
    """
    mostly_frozen = model_args.tune_mm_mlp_adapter or model_args.freeze_backbone or args.lora_enable
    tokenizer, model, image_processor, _ = load_pretrained_model(
        model_args.model_name_or_path,
        # Trainer moves it to its device; quantised weights are made where they stay.
        device=str(args.device) if args.bits < 16 else "cpu",
        torch_dtype=args.weight_dtype if mostly_frozen else torch.float32,
        load_8bit=args.bits == 8,
        load_4bit=args.bits == 4,
        attn_implementation=attn_implementation,
        **knobs,
    )
    if image_processor is None:
        image_processor = _add_vision(model, model_args)
    else:
        _check_vision(model, model_args)
        if model_args.pretrain_mm_mlp_adapter:
            load_projector(model.get_model(), Path(model_args.pretrain_mm_mlp_adapter))
    for name in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        if getattr(model_args, name) is not None:
            setattr(model.config, name, getattr(model_args, name))
    # A projector is saved without embeddings, and loading adds the tokens itself.
    if not model_args.tune_mm_mlp_adapter:
        model.initialize_vision_tokenizer(model.config, tokenizer)
    elif model.config.mm_use_im_start_end:
        raise ValueError(
            "tune_mm_mlp_adapter together with mm_use_im_start_end is not supported, for mm_projector.bin has no "
            "embeddings of the new tokens; pre-train with --mm_use_im_start_end False and set it for tuning"
        )
    return tokenizer, model, image_processor


def _add_vision(model: LlavaFamilyForCausalLM, model_args: ModelArguments) -> Any:
    """Gives a language model a tower and a new projector."""
    if model_args.vision_tower is None:
        raise ValueError(
            f"{model_args.model_name_or_path} has no vision tower; give --vision_tower, e.g. "
            "openai/clip-vit-large-patch14-336"
        )
    tower = Path(model_args.vision_tower).expanduser()
    fresh = {
        # A folder is found again from anywhere, and beside any model.
        "vision_tower": str(tower.resolve()) if tower.is_dir() else model_args.vision_tower,
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "linear",
        "mm_patch_merge_type": "flat",
        "s2": False,
        "s2_scales": DEFAULT_SCALES,
    }
    options = {name: value for name, value in vars(model_args).items() if name in fresh and name != "vision_tower"}
    fresh |= {name: value for name, value in options.items() if value is not None}
    model.get_model().initialize_vision_modules(
        SimpleNamespace(**fresh, pretrain_mm_mlp_adapter=model_args.pretrain_mm_mlp_adapter)
    )
    model.config.mm_use_im_start_end = model.config.mm_use_im_patch_token = False
    return require_tower(model).image_processor


def _check_vision(model: LlavaFamilyForCausalLM, model_args: ModelArguments) -> None:
    """Refuses flags that say something else about tower and projector than the model's config."""
    for name in ("mm_vision_select_layer", "mm_vision_select_feature", "mm_projector_type", "mm_patch_merge_type"):
        options, own = getattr(model_args, name), getattr(model.config, name, None)
        if options is not None and own is not None and options != own:
            raise ValueError(
                f"{name}={options!r}, but {model_args.model_name_or_path} was trained with {own!r}; leave --{name} out"
            )
    if model_args.s2 is not None and stated_scales(model_args) != (own := stated_scales(model.config)):
        raise ValueError(
            f"s2={model_args.s2} with s2_scales={model_args.s2_scales!r}, but {model_args.model_name_or_path} was trained at"
            f" the scales {own or 'of its tower alone'}; leave --s2 and --s2_scales out"
        )
    own, options = model.config.mm_vision_tower, model_args.vision_tower
    if options is None or options == own:
        return
    inside = Path(model_args.model_name_or_path) / own
    if not Path(options).is_dir() or Path(options).resolve() not in (inside.resolve(), Path(own).resolve()):
        raise ValueError(
            f"vision_tower={options!r}, but {model_args.model_name_or_path} sees through {own!r}; leave --vision_tower out"
        )
