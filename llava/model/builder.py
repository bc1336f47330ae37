"""`load_pretrained_model`: from a folder or hub name, in any layout LLaVA was published in, to a model that answers.

Which layout a folder has is read from its files, never from its name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.model.checkpoint import find_folder, has_weights, load_tensors, read_json, weight_names
from llava.model.language_model.himap_configuration_llama import REDUCTION_KNOBS
from llava.model.language_model.knobs import plan_from_config
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM, variant
from llava.model.llava_arch import load_projector
from llava.model.multimodal_encoder.clip_encoder import load_vision_config
from llava.model.tokenizer import load_tokenizer
from llava.reduction import check_plan, did_you_mean
from llava.utils import installed

logger = logging.getLogger(__name__)

PROJECTOR_FILE = "mm_projector.bin"
LORA_FILE = "adapter_config.json"
NON_LORA_FILE = "non_lora_trainables.bin"

# What may be absent from a language model that gets its projector from elsewhere.
PROJECTION = ("model.mm_projector.", "model.image_newline")

# Modules that are the identity until they are trained.
UNTRAINED = ("model.condensation.",)

# Decoders that compute what Llama computes. Mistral does as long as its attention has no window.
MODEL_TYPES = ("llava", "llava_llama", "llama", "llava_mistral", "mistral")

# llava-hf/* names its tensors differently, and transformers 5 differently again.
HF_LAYOUT = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
    r"^(?:model\.)?vision_tower\.(?:vision_model\.)?": "model.vision_tower.vision_tower.",
    r"^(?:model\.)?multi_modal_projector\.linear_1\.": "model.mm_projector.0.",
    r"^(?:model\.)?multi_modal_projector\.linear_2\.": "model.mm_projector.2.",
    r"^(?:model\.)?image_newline$": "model.image_newline",
}
# Keywords handed to transformers' from_pretrained as they are.
PASSED_ON = ("max_memory", "offload_folder")
# Keywords of LLaVA's callers that change nothing here.
TOLERATED = ("multimodal", "low_cpu_mem_usage")


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
    **kwargs: Any,
) -> tuple[PreTrainedTokenizerBase, LlavaLlamaForCausalLM, CLIPImageProcessorPil | None, int]:
    """Loads a LLaVA: `(tokenizer, model, image_processor, context_len)`.

    model_path: a folder or hub name of a whole model (liuhaotian's v1.5 and v1.6 layout or llava-hf's), of a LoRA, or of a
    projector only. model_base: the language model that a LoRA or projector belongs to. model_name: accepted as LLaVA's
    callers give it; files decide, not names. load_8bit, load_4bit: through bitsandbytes. device_map: accelerate's
    placement on GPUs. device: "cuda" where there is one, else "cpu"; one with a number, such as "cuda:1", takes all of
    the model. torch_dtype (or dtype): float16 on CUDA and float32 on the CPU unless given; tower and language model
    always agree. attn_implementation: "eager", "sdpa", "flash_attention_2" (also by use_flash_attn).

    Other keywords are reduction knobs of the config, e.g. `reduction="fastv@2:64"` or `use_fast_v=True,
    fast_v_attention_rank=144`. image_processor is None for a model without a tower; context_len is the number of
    positions the model reads.

    Raises FileNotFoundError for a missing folder, file or tower; ValueError for a damaged file, missing or unexpected
    weights (named), an unknown keyword, or a plan that cannot be; ImportError naming the extra to install.
    """
    load = {name: kwargs.pop(name) for name in PASSED_ON if name in kwargs}
    knobs = _knobs(kwargs)
    load["device_map"], device = _placement(device_map, device)
    load["dtype"] = _dtype(torch_dtype if dtype is None else dtype, device)
    load["attn_implementation"] = "flash_attention_2" if use_flash_attn else attn_implementation
    if load_8bit or load_4bit:
        load["quantization_config"] = _quantization(load_8bit, load_4bit, load["dtype"])

    folder = find_folder(model_path, "model")
    base = None if model_base is None else find_folder(model_base, "model_base")
    loader = _loader(folder, base)
    config = read_config(folder)
    _set_knobs(config, knobs)
    tokenizer = load_tokenizer(folder if base is None else base)
    model = loader(folder, base, config, load)
    if load_4bit:
        _leave_odd_shapes_unpacked(model)

    if config.mm_vision_tower:
        model.initialize_vision_tokenizer(config, tokenizer)
    image_processor = _load_tower(model, (folder,) if base is None else (folder, base))
    _repair_generation_config(model)
    return tokenizer, model.eval(), image_processor, context_length(config)


# ------------------------------------------------------------------------------------------------------------ options


def _knobs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords that are reduction knobs; an unknown one raises ValueError with the nearest name."""
    for name in kwargs:
        if name not in (*REDUCTION_KNOBS, *TOLERATED):
            known = (*REDUCTION_KNOBS, *PASSED_ON, *load_pretrained_model.__kwdefaults__)
            raise ValueError(
                f"load_pretrained_model does not know {name!r}{did_you_mean(name, known)}; "
                f"beside LLaVA's own keywords there are {', '.join(REDUCTION_KNOBS)}"
            )
    return {name: value for name, value in kwargs.items() if name in REDUCTION_KNOBS}


def _set_knobs(config: LlavaConfig, knobs: dict[str, Any]) -> None:
    """Writes the knobs into the config and checks the plan they spell, before any weight is read."""
    for name, value in knobs.items():
        setattr(config, name, value)
    check_plan(plan_from_config(config), config.num_hidden_layers)


def _placement(device_map: Any, device: str | torch.device | None) -> tuple[Any, torch.device]:
    """(device_map for from_pretrained, the device where images and prompts go)."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, but torch sees no CUDA device; leave device out or give 'cpu'")
    if device.type == "cuda" and device.index is None or isinstance(device_map, dict):
        return device_map, device
    return {"": device}, device


def _dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The dtype by name, or float16 on CUDA and float32 elsewhere."""
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"torch_dtype={dtype!r} is no floating point type; give 'float32', 'float16' or 'bfloat16'")
    return found


def _quantization(load_8bit: bool, load_4bit: bool, dtype: torch.dtype) -> BitsAndBytesConfig:
    if load_8bit and load_4bit:
        raise ValueError("load_8bit and load_4bit are both set; choose one")
    if not installed("bitsandbytes"):
        raise ImportError("load_8bit and load_4bit need bitsandbytes: pip install 'llava-condense[quantize]'")
    # What turns pixels into tokens is small and feels rounding most.
    whole = ["lm_head", "model.vision_tower", "model.mm_projector"]
    if load_8bit:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
        llm_int8_skip_modules=whole,
    )


def _leave_odd_shapes_unpacked(model: LlavaLlamaForCausalLM) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes packs 4 bit weights anew when first used, in blocks of 32 rows and of as many
    columns as share a scale; a shape that these do not divide raises there, and is computed as on any other CPU here.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            block = module.weight.quant_state.blocksize
            module.support_avx512bf16_for_cpu = not (module.out_features % 32 or module.in_features % block)


# ------------------------------------------------------------------------------------------------------------- config


def read_config(folder: Path) -> LlavaConfig:
    """The config of a checkpoint in liuhaotian's or llava-hf's layout, as ours. Raises ValueError for another model."""
    path = folder / "config.json"
    raw = read_json(path)
    if "text_config" in raw:
        raw = _flattened(raw, path)
    kind = raw.pop("model_type", None)
    if kind not in MODEL_TYPES:
        raise ValueError(f"{path}: model_type {kind!r} is not supported; there are {', '.join(MODEL_TYPES)}")
    if "mistral" in kind and raw.get("sliding_window") is not None:
        raise ValueError(f"{path}: sliding_window={raw['sliding_window']} is not supported; only full attention is")
    config = LlavaConfig.from_dict(raw)
    config.architectures = [LlavaLlamaForCausalLM.__name__]
    config.mm_vision_tower = getattr(config, "mm_vision_tower", None)
    # LLaVA reads a config that does not mention them so.
    config.mm_use_im_start_end = getattr(config, "mm_use_im_start_end", False)
    config.mm_use_im_patch_token = getattr(config, "mm_use_im_patch_token", True)
    return config


def _flattened(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """llava-hf's nested config as liuhaotian's flat one; the tower's config is kept, for its weights are inside."""
    vision = raw.get("vision_config", {})
    if raw.get("model_type") not in ("llava", "llava_next"):
        raise ValueError(f"{path}: model_type {raw.get('model_type')!r} is not supported; there are llava, llava_next")
    flat = {
        "model_type": "llama",
        **raw["text_config"],
        "mm_vision_tower": ".",
        "mm_vision_config": {**vision, "model_type": "clip_vision_model"},
        "mm_hidden_size": vision.get("hidden_size", 1024),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": raw.get("vision_feature_layer", -2),
        "mm_vision_select_feature": "cls_patch" if raw.get("vision_feature_select_strategy") == "full" else "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_patch_merge_type": "flat",
        # The processor beside these weights crops; the weights were trained on padded pictures.
        "image_aspect_ratio": "pad",
        "tie_word_embeddings": raw["text_config"].get("tie_word_embeddings", raw.get("tie_word_embeddings", False)),
    }
    if raw["model_type"] == "llava_next":
        flat |= {
            "image_aspect_ratio": "anyres",
            "mm_patch_merge_type": "spatial_unpad",
            # There (height, width).
            "image_grid_pinpoints": [[width, height] for height, width in raw["image_grid_pinpoints"]],
        }
    return flat


def context_length(config: LlavaConfig) -> int:
    """How many positions, image tokens included, the model reads."""
    names = ("max_sequence_length", "tokenizer_model_max_length", "max_position_embeddings")
    return next(value for name in names if (value := getattr(config, name, None)))


def _repair_generation_config(model: LlavaLlamaForCausalLM) -> None:
    """Published files combine greedy decoding with sampling values, which transformers refuses to save again."""
    settings = model.generation_config
    if not settings.do_sample:
        settings.temperature = settings.top_p = settings.top_k = None
    if settings.pad_token_id is None:
        eos = settings.eos_token_id
        settings.pad_token_id = eos[0] if isinstance(eos, list) else eos


# ------------------------------------------------------------------------------------------------------------ weights


def _loader(folder: Path, base: Path | None) -> Any:
    """Which of the three loaders a folder's files ask for."""
    for file, what, loader in (
        (LORA_FILE, "a LoRA", _load_lora),
        (PROJECTOR_FILE, "a projector", _load_projector_only),
    ):
        if not (folder / file).is_file() or base is None and has_weights(folder):
            continue
        if base is None:
            raise ValueError(f"{folder} holds only {what} ({file}); give the model it belongs to as model_base")
        return loader
    if base is not None:
        raise ValueError(
            f"model_base={str(base)!r} is given, but {folder} holds neither {LORA_FILE} nor {PROJECTOR_FILE}; "
            "leave model_base out for a whole model"
        )
    return _load_whole


def _load_whole(
    folder: Path, base: Path | None, config: LlavaConfig, load: dict[str, Any], optional: tuple[str, ...] = ()
) -> LlavaLlamaForCausalLM:
    """All weights of one folder; those that begin with one of `optional` may be missing."""
    names = weight_names(folder)
    _expect_tower(folder, names, config)
    model, info = variant(config).from_pretrained(
        folder,
        config=config,
        key_mapping=HF_LAYOUT if any("multi_modal_projector." in name for name in names) else None,
        output_loading_info=True,
        **load,
    )
    _check_complete(folder, info["missing_keys"], info["unexpected_keys"], optional)
    return model


def _load_projector_only(folder: Path, base: Path, config: LlavaConfig, load: dict[str, Any]) -> LlavaLlamaForCausalLM:
    """A language model from `base`, the projector from `folder`."""
    model = _load_whole(base, None, config, load, optional=PROJECTION)
    load_projector(model.get_model(), folder / PROJECTOR_FILE)
    return model


def _load_lora(folder: Path, base: Path, config: LlavaConfig, load: dict[str, Any]) -> LlavaLlamaForCausalLM:
    """A language model from `base`, with the LoRA and the separately trained weights of `folder` merged in."""
    if not installed("peft"):
        raise ImportError(f"{folder} is a LoRA, which needs peft: pip install 'llava-condense[lora]'")
    from peft import PeftModel

    rows = config.vocab_size
    config.vocab_size = read_json(base / "config.json").get("vocab_size", rows)
    model = _load_whole(base, None, config, load, optional=PROJECTION)
    if rows != config.vocab_size:
        model.resize_token_embeddings(rows)
    _load_non_lora(model, folder / NON_LORA_FILE)
    return PeftModel.from_pretrained(model, folder).merge_and_unload()


def _load_non_lora(model: LlavaLlamaForCausalLM, path: Path) -> None:
    """Fills what was trained beside a LoRA, at least the projector; a name that fits nothing raises ValueError."""
    tensors = {name.removeprefix("base_model."): tensor for name, tensor in load_tensors(path).items()}
    if any(name.startswith("model.model.") for name in tensors):
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    own = set(model.state_dict())
    projection = {name for name in own if name.startswith(PROJECTION)}
    _check_complete(path, projection - set(tensors), set(tensors) - own)
    model.load_state_dict(tensors, strict=False)


def _check_complete(
    source: Path, missing: Iterable[str], unexpected: Iterable[str], optional: tuple[str, ...] = ()
) -> None:
    """Raises ValueError that names the weights a source lacks, and those no part of the model asked for."""
    missing = sorted(name for name in missing if not name.startswith((*optional, *UNTRAINED)))
    unexpected = sorted(unexpected)
    if missing or unexpected:
        raise ValueError(
            f"{source} does not fit the model its config describes: "
            f"missing {_listed(missing)}; not understood {_listed(unexpected)}"
        )


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"


# -------------------------------------------------------------------------------------------------------------- tower


def _expect_tower(folder: Path, names: set[str], config: LlavaConfig) -> None:
    """Has the tower built with the model if, and only if, the checkpoint carries its weights."""
    carried = any(name.startswith(("vision_tower.", "model.vision_tower.")) for name in names)
    if not carried:
        config.mm_vision_config = None
    elif not getattr(config, "mm_vision_config", None):
        if config.mm_vision_tower is None:
            raise ValueError(f"{folder} carries a vision tower's weights, but its config names no mm_vision_tower")
        place = find_folder(config.mm_vision_tower, "vision tower (its config)", (folder,), weights=False)
        config.mm_vision_config = load_vision_config(place).to_dict()


def _load_tower(model: LlavaLlamaForCausalLM, inside: tuple[Path, ...]) -> CLIPImageProcessorPil | None:
    """Reads a tower that the checkpoint does not carry, beside the language model and in its dtype."""
    tower = model.get_vision_tower()
    if tower is None:
        return None
    like = model.get_input_embeddings().weight
    if like.is_meta:
        raise ValueError("device_map offloads model.embed_tokens; images are spliced beside it, so keep it on a device")
    tower.load_model(inside=inside, dtype=like.dtype, device=like.device)
    return tower.image_processor
