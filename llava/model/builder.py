"""`load_pretrained_model`: from a folder or hub name, in any layout LLaVA was published in, to a model that answers.

Which layout a folder has is read from its files, never from its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.conversation import get_conversation
from llava.model.checkpoint import HUB_KEYWORDS, find_folder, has_weights, weight_names
from llava.model.language_model.knobs import plan_from_config
from llava.model.language_model.llava_family import LlavaFamilyConfig, LlavaFamilyForCausalLM
from llava.model.language_model.reduction_knobs import REDUCTION_KNOBS, active_flags
from llava.model.llava_arch import load_projector
from llava.model.loading.config import context_length, read_config
from llava.model.loading.layout import own_name
from llava.model.loading.lora import LORA_FILE, NON_LORA_FILE, check_peft, fill_beside, grow_vocabulary, merge_lora
from llava.model.loading.placement import dtype_of, leave_odd_shapes_unpacked, placement, quantization
from llava.model.loading.weights import PROJECTION, PROJECTOR_FILE, UNTRAINED, check_finite, load_tower, load_whole
from llava.model.multimodal_encoder.opening import check_tower
from llava.model.tokenizer import load_tokenizer
from llava.reduction import check_plan, did_you_mean
from llava.reduction.environment import with_environment

__all__ = [
    "LORA_FILE",
    "NON_LORA_FILE",
    "PROJECTION",
    "PROJECTOR_FILE",
    "UNTRAINED",
    "context_length",
    "load_pretrained_model",
    "read_config",
]

# Keywords handed to transformers' from_pretrained as they are.
PASSED_ON = ("max_memory", "offload_folder")
# Keywords of LLaVA's and transformers' callers that change nothing here.
TOLERATED = ("multimodal", "low_cpu_mem_usage", "trust_remote_code")

# Tokens with which chat templates end an answer, besides the end of a text.
ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>")

# What a documented method needs besides its switch, and may be given after loading.
_HIMAP = ("hmap_v_attn_txt_layer", "hmap_v_attn_txt_rank", "hmap_v_attn_img_layer", "hmap_v_attn_img_rank")
NUMBERS = {
    "use_fast_v": ("fast_v_attention_rank",),
    "use_hmap_v": _HIMAP,
    "use_token_condensation": (*_HIMAP, "condensation_layers", "condensation_ranks"),
}


def load_pretrained_model(
    model_path: str | Path,
    model_base: str | Path | None = None,
    model_name: str | None = None,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: Any = "auto",
    device: str | torch.device | None = None,
    use_flash_attn: bool = False,
    *,
    torch_dtype: torch.dtype | str | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    conv_mode: str | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedTokenizerBase, LlavaFamilyForCausalLM, CLIPImageProcessorPil | None, int]:
    """Loads a LLaVA: `(tokenizer, model, image_processor, context_len)`.

    model_path: a folder or hub name of a whole model (liuhaotian's v1.5 and v1.6 layout, LLaVA-NeXT's, or llava-hf's; over
    Llama, Mistral or Qwen2, with a tower of CLIP, SigLIP or DINOv2), of a LoRA, or of a projector only. model_base: the language model that a LoRA or projector belongs to. model_name: accepted as LLaVA's
    callers give it; files decide, not names. load_8bit, load_4bit: through bitsandbytes. device_map: accelerate's
    placement on GPUs. device: "cuda" where there is one, else "cpu"; one with a number, such as "cuda:1", holds all of
    the model. torch_dtype (or dtype): float16 on CUDA and float32 on the CPU unless given; tower and language model
    always agree. attn_implementation: "eager", "sdpa", "flash_attention_2" (also by use_flash_attn). conv_mode: the
    prompt template that `model.config.conv_mode` is to name in place of the checkpoint's own.

    Other keywords are reduction knobs of the config, e.g. `reduction="fastv@2:64"` or `use_fast_v=True,
    fast_v_attention_rank=144` (without any, the plan in the environment variable LLAVA_REDUCTION, else the checkpoint's own);
    `cache_dir`, `token`, `revision` (of model_path), `local_files_only` and
    `trust_remote_code=False` for the hub, whose code is never run; and `max_memory` and `offload_folder` for accelerate. image_processor is None for a model without a tower; context_len is
    the number of positions the model reads.

    Raises FileNotFoundError for a missing folder, file or tower; ValueError for a damaged file, weights that are missing,
    unexpected, of another shape or not finite (named), an unknown keyword, or an impossible plan; ImportError naming
    the extra to install.
    """
    options = {name: kwargs.pop(name) for name in PASSED_ON if name in kwargs}
    hub = {name: kwargs.pop(name) for name in HUB_KEYWORDS if name in kwargs}
    knobs = _knobs(kwargs)
    options["device_map"], device = placement(device_map, device)
    options["dtype"] = dtype_of(torch_dtype if dtype is None else dtype, device)
    options["attn_implementation"] = "flash_attention_2" if use_flash_attn else attn_implementation
    if load_8bit or load_4bit:
        options["quantization_config"] = quantization(load_8bit, load_4bit, options["dtype"])

    folder = find_folder(model_path, "model", **hub)
    hub.pop("revision", None)
    base = None if model_base is None else find_folder(model_base, "model_base", **hub)
    layout = _layout(folder, base)
    lora_base = base if layout == LORA_FILE else None
    # peft alone saves no config next to an adapter.
    config = read_config(folder if lora_base is None or (folder / "config.json").is_file() else lora_base)
    if conv_mode is not None:
        get_conversation(conv_mode)
        config.conv_mode = conv_mode
    _set_knobs(config, with_environment(knobs))
    tokenizer = load_tokenizer(base or folder)
    model = _load_weights(folder, base, layout, config, options, hub)
    if load_4bit:
        leave_odd_shapes_unpacked(model)
    if config.mm_vision_tower:
        model.initialize_vision_tokenizer(config, tokenizer)
    _repair_generation_config(model, tokenizer)
    tower = model.get_vision_tower()
    model.text_tokenizer = tokenizer
    return tokenizer, model.eval(), None if tower is None else tower.image_processor, context_length(config)


# ------------------------------------------------------------------------------------------------------------ keywords


def _knobs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords that are reduction knobs; an unknown one raises ValueError with the nearest name."""
    for name in kwargs:
        if name not in (*REDUCTION_KNOBS, *TOLERATED):
            known = (*REDUCTION_KNOBS, *PASSED_ON, *HUB_KEYWORDS, *(load_pretrained_model.__kwdefaults__ or ()))
            raise ValueError(
                f"load_pretrained_model does not know {name!r}{did_you_mean(name, known)}; "
                f"beside LLaVA's own keywords there are {', '.join((*REDUCTION_KNOBS, *PASSED_ON, *HUB_KEYWORDS))}"
            )
    if kwargs.get("trust_remote_code"):
        raise ValueError("trust_remote_code=True: no code of a checkpoint is ever run here; leave it out")
    return {name: value for name, value in kwargs.items() if name in REDUCTION_KNOBS}


def _set_knobs(config: LlavaFamilyConfig, knobs: dict[str, Any]) -> None:
    """Writes the knobs into the config and checks the plan they spell, before any weight is read.

    The documented use of a method switches it on at loading and gives its layers and ranks afterwards: a method whose
    numbers are not all there yet is checked when it is used.
    """
    for name, value in knobs.items():
        setattr(config, name, value)
    try:
        check_plan(plan_from_config(config), config.num_hidden_layers)
    except ValueError:
        if not _is_unfinished(config):
            raise


def _is_unfinished(config: LlavaFamilyConfig) -> bool:
    """Whether a documented method is switched on, alone and without its numbers."""
    flags = active_flags(config)
    if len(flags) != 1 or config.reduction:
        return False
    return any(getattr(config, name) is None for name in NUMBERS.get(flags[0], ()))


# ------------------------------------------------------------------------------------------------------------- weights


def _layout(folder: Path, base: Path | None) -> str | None:
    """The file that tells what a folder holds: LORA_FILE, PROJECTOR_FILE, or None for a whole model.

    Raises ValueError where a base is missing or not needed.
    """
    for file, what in ((LORA_FILE, "a LoRA"), (PROJECTOR_FILE, "a projector")):
        if not (folder / file).is_file() or base is None and has_weights(folder):
            continue
        if base is None:
            raise ValueError(f"{folder} holds only {what} ({file}); give the model it belongs to as model_base")
        return file
    if base is not None:
        raise ValueError(
            f"model_base={str(base)!r} is given, but {folder} holds neither {LORA_FILE} nor {PROJECTOR_FILE}; "
            "leave model_base out for a whole model"
        )
    return None


def _load_weights(
    folder: Path,
    base: Path | None,
    layout: str | None,
    config: LlavaFamilyConfig,
    options: dict[str, Any],
    hub: dict[str, Any],
) -> LlavaFamilyForCausalLM:
    """The model with its tower, projector and adapter; each is checked before anything large is read."""
    inside = (folder,) if base is None else (folder, base)
    source = base or folder
    rows = config.vocab_size
    lora_base = base if layout == LORA_FILE else None
    if lora_base is not None:
        check_peft(folder)
        config.vocab_size = read_config(lora_base).vocab_size
    names = {own_name(name) for name in weight_names(source)}
    if config.mm_vision_tower and not any(name.startswith("model.vision_tower.") for name in names):
        check_tower(config, inside, **hub)
    model = load_whole(source, config, options, optional=PROJECTION if base else ())
    if lora_base is not None:
        grow_vocabulary(model, rows, folder)
        fill_beside(model, folder, lora_base, names)
    elif layout == PROJECTOR_FILE:
        load_projector(model.get_model(), folder / PROJECTOR_FILE)
    load_tower(model, inside, hub)
    if lora_base is not None:
        model = merge_lora(model, folder, lora_base)
    check_finite(model, folder)
    return model


def _repair_generation_config(model: LlavaFamilyForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Published files combine greedy decoding with sampling values, which transformers refuses to save again.

    They may also name only the end of a text, where an answer ends with the mark of a turn.
    """
    settings = model.generation_config
    ends, marks = settings.eos_token_id, {str(mark): token for token, mark in tokenizer.added_tokens_decoder.items()}
    named = list(ends) if isinstance(ends, list) else [] if ends is None else [ends]
    turn_ends = [marks[mark] for mark in ENDS_OF_TURN if mark in marks and marks[mark] not in named]
    if turn_ends:
        settings.eos_token_id = [*named, *turn_ends]
    if not settings.do_sample:
        settings.temperature = settings.top_p = settings.top_k = None
    if settings.pad_token_id is None:
        eos = settings.eos_token_id
        settings.pad_token_id = eos[0] if isinstance(eos, list) else eos
