"""Writes a checkpoint in the layout of llava-hf, which transformers' own LLaVA classes read.

    python -m llava.model.convert playground/checkpoints/llava-shapes-v1 out --to llava-hf

A LoRA or a projector is merged with `--model-base`. What is written is a folder for `AutoModelForImageTextToText` and
`AutoProcessor`: weights, config, generation config, image processor and a tokenizer that knows `<image>`.
"""

from __future__ import annotations

import argparse
import copy
import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AddedToken,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
)
from transformers import LlamaTokenizer as HfLlamaTokenizer
from transformers import LlavaConfig as HfLlavaConfig
from transformers import LlavaNextConfig as HfLlavaNextConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.tokenization_utils_sentencepiece import SPIECE_UNDERLINE

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import SeparatorStyle, get_conversation
from llava.files import read_json, write_json
from llava.model.builder import load_pretrained_model, read_config
from llava.model.checkpoint import find_folder
from llava.model.language_model.knobs import plan_from_config
from llava.model.language_model.llava_family import LlavaFamilyConfig, LlavaFamilyForCausalLM
from llava.model.loading.layout import hf_name
from llava.model.multimodal_encoder.families import CLIP
from llava.model.multimodal_encoder.scales import stated_scales
from llava.model.multimodal_encoder.tower import VisionTower
from llava.model.tokenizer import LlamaTokenizer, load_tokenizer
from llava.utils import exit_code

logger = logging.getLogger(__name__)

LAYOUTS = ("llava-hf",)

# What transformers' processors share with CLIP's.
_IMAGE_FIELDS = (
    "crop_size",
    "do_center_crop",
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
)

# A dialogue in which user and assistant end their turns with separators of their own.
_CHAT = (
    "{{{{ {system!r} }}}}{{% for message in messages %}}{{% set asks = message['role'] == 'user' %}}"
    "{{{{ ({user!r} if asks else {assistant!r}) + ': ' }}}}"
    "{{% if message['content'] is string %}}{{{{ message['content'] }}}}{{% else %}}"
    "{{% for part in message['content'] %}}"
    "{{{{ '<image>\n' if part['type'] == 'image' else part['text'] }}}}"
    "{{% endfor %}}{{% endif %}}"
    "{{{{ {sep!r} if asks else {sep2!r} }}}}{{% endfor %}}"
    "{{{{ {assistant!r} + ':' if add_generation_prompt }}}}"
)


def to_llava_hf(
    source: str | Path,
    output: str | Path,
    model_base: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
) -> None:
    """Writes the checkpoint `source` to the folder `output` in llava-hf's layout; answers stay the same.

    source, model_base: as in `load_pretrained_model`. dtype: of the written weights; by default as the config says,
    else float32. The plan of a reduction is not written, since transformers' classes have none. Memory: the model once,
    on the CPU.

    Raises what `load_pretrained_model` raises, and ValueError for an output folder that holds something, or a model that
    transformers' classes cannot express.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} holds something already; give a new or empty folder")
    folder = find_folder(source, "model")
    if model_base is None or (folder / "config.json").is_file():
        config = read_config(folder)
    else:
        config = read_config(find_folder(model_base, "model_base"))
    stored = dtype or config.dtype or "float32"
    tokenizer, model, *_ = load_pretrained_model(folder, model_base, device="cpu", torch_dtype=stored)
    is_next = _is_next(model.config)
    if plan_from_config(model.config):
        logger.warning("the reduction in the config of %s is left out; transformers' classes know none", source)
    tokenizer = _with_image_token(tokenizer)
    image_token = tokenizer.get_vocab()[DEFAULT_IMAGE_TOKEN]
    hf_model = _hf_model(model, image_token, is_next)
    processor = _processor(model, tokenizer, is_next)
    hf_model.save_pretrained(output)
    processor.save_pretrained(output)


def _is_next(config: LlavaFamilyConfig) -> bool:
    """Whether pictures are read in crops. Raises ValueError for what transformers' classes cannot express."""
    if not config.mm_vision_tower:
        raise ValueError(
            "the model has no vision tower (its config has no mm_vision_tower); there is nothing to convert"
        )
    if scales := stated_scales(config):
        raise ValueError(
            f"the vision tower sees {len(scales)} scales (s2=true), which transformers' own classes cannot; the checkpoint runs"
            " with load_pretrained_model alone"
        )
    kind = getattr(config, "mm_projector_type", None) or "linear"
    if kind != "mlp2x_gelu":
        raise ValueError(f"mm_projector_type={kind!r} has no counterpart in llava-hf's layout; only 'mlp2x_gelu' has")
    shape = getattr(config, "image_aspect_ratio", None), getattr(config, "mm_patch_merge_type", None) or "flat"
    if shape == ("anyres", "spatial_unpad"):
        return True
    if (shape[0] or "").startswith("anyres") or shape[1] != "flat":
        raise ValueError(
            f"image_aspect_ratio={shape[0]!r} with mm_patch_merge_type={shape[1]!r} has no counterpart in llava-hf's layout; "
            "'anyres' with 'spatial_unpad' has, and 'pad' or 'square' with 'flat'"
        )
    return False


# ----------------------------------------------------------------------------------------------------------- the model


def _hf_model(model: LlavaFamilyForCausalLM, image_token: int, is_next: bool) -> Any:
    """transformers' own model over the same weights; embeddings get rows up to that of the image token."""
    rows = max(model.config.vocab_size, image_token + 1)
    kind = LlavaNextForConditionalGeneration if is_next else LlavaForConditionalGeneration
    with torch.device("meta"):
        hf_model = kind(_hf_config(model, image_token, rows, is_next))
    weights = {hf_name(name): tensor for name, tensor in model.state_dict().items()}
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = _grown(weights[name], rows)
    hf_model.load_state_dict(weights, assign=True)
    hf_model.tie_weights()
    hf_model.generation_config = copy.deepcopy(model.generation_config)
    return hf_model


def _grown(weight: Tensor, rows: int) -> Tensor:
    """A matrix with more rows, each the mean of the old ones: as a token's logit it is never the highest."""
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])


def _hf_config(model: LlavaFamilyForCausalLM, image_token: int, rows: int, is_next: bool) -> Any:
    """The config of transformers' own class."""
    config, (tower, _) = model.config, _tower_parts(model)
    kind: Any = next(kind for kind in (MistralConfig, Qwen2Config, LlamaConfig) if isinstance(config, kind))
    described = kind().to_dict().keys() - {
        "architectures",
        "model_type",
        "transformers_version",
        "_name_or_path",
    }
    text = {name: value for name, value in config.to_dict().items() if name in described}
    is_full = tower.select_feature == "cls_patch"
    fields: dict[str, Any] = {
        "text_config": kind.from_dict(text | {"vocab_size": rows}),
        "vision_config": CLIPVisionConfig.from_dict(tower.config.to_dict()),
        "image_token_index": image_token,
        "vision_feature_layer": tower.select_layer,
        "vision_feature_select_strategy": "full" if is_full else "default",
        "image_seq_length": tower.num_patches + is_full,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": model.dtype,
        # Fields of LLaVA that transformers keeps without reading them.
        "conv_mode": getattr(config, "conv_mode", None),
        "image_aspect_ratio": getattr(config, "image_aspect_ratio", "square"),
    }
    if is_next:
        return HfLlavaNextConfig(**fields, image_grid_pinpoints=_hf_grids(config))
    return HfLlavaConfig(**fields)


def _tower_parts(model: LlavaFamilyForCausalLM) -> tuple[VisionTower, CLIPImageProcessorPil]:
    """The model's tower and image processor, which transformers' LLaVA always has."""
    tower = model.get_vision_tower()
    if tower is None or tower.image_processor is None:
        raise ValueError("the model has no vision tower with an image processor; there is nothing to convert")
    if tower.family is not CLIP:
        raise ValueError(
            f"vision tower {tower.vision_tower_name!r} is a {tower.family.name}; only models with a CLIP are written in"
            " llava-hf's layout"
        )
    return tower, tower.image_processor


def _hf_grids(config: LlavaFamilyConfig) -> list[list[int]]:
    """The sizes a picture may be cut at, (height, width) as transformers has them."""
    return [[height, width] for width, height in config.image_grid_pinpoints]


# ------------------------------------------------------------------------------------------------------- the processor


def _with_image_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer as one `tokenizer.json`, in which `<image>` is a token and the text after it begins like a text."""
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as converted:
        tokenizer.save_pretrained(own)
        if isinstance(tokenizer, LlamaTokenizer):
            ends: dict[str, Any] = {"add_bos_token": tokenizer.add_bos_token, "add_eos_token": tokenizer.add_eos_token}
            HfLlamaTokenizer.from_pretrained(own, **ends).save_pretrained(converted)
        else:
            tokenizer.save_pretrained(converted)
        _begin_after_images(Path(converted) / "tokenizer.json")
        tokenizer = load_tokenizer(converted)
    tokenizer.add_tokens([AddedToken(DEFAULT_IMAGE_TOKEN, normalized=False, special=True)], special_tokens=True)
    return tokenizer


def _begin_after_images(file: Path) -> None:
    """Puts the space that begins a text after `<image>` too, but not after other special tokens.

    LLaVA tokenises what stands between images piece by piece. Only tokens that are not normalised cut a text before its
    pieces are normalised; `<image>`, added later, is the only one then.
    """
    raw = read_json(file)
    split = raw.get("pre_tokenizer") or {}
    if split.get("type") != "Metaspace" or split.get("prepend_scheme") != "first":
        return
    special = "|".join(re.escape(token["content"]) for token in raw["added_tokens"])
    begin = {"type": "Replace", "pattern": {"Regex": rf"\A(?!{special})(?=[\s\S])"}, "content": SPIECE_UNDERLINE}
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": SPIECE_UNDERLINE}
    raw["pre_tokenizer"], raw["normalizer"] = None, {"type": "Sequence", "normalizers": [begin, blanks]}
    raw["added_tokens"] = [token | {"normalized": True} for token in raw["added_tokens"]]
    write_json(file, raw)


def _processor(model: LlavaFamilyForCausalLM, tokenizer: PreTrainedTokenizerBase, is_next: bool) -> Any:
    """What prepares pictures and prompts for transformers' own class as `process_images` and the tokenizer do here."""
    config, (tower, image_processor) = model.config, _tower_parts(model)
    prepared = {name: value for name, value in image_processor.to_dict().items() if name in _IMAGE_FIELDS}
    if is_next:
        images: Any = LlavaNextImageProcessorPil(**prepared, image_grid_pinpoints=_hf_grids(config))
    elif getattr(config, "image_aspect_ratio", None) == "pad":
        images = LlavaImageProcessorPil(**prepared, do_pad=True)
    else:
        images = image_processor
    return (LlavaNextProcessor if is_next else LlavaProcessor)(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="full" if tower.select_feature == "cls_patch" else "default",
        image_token=DEFAULT_IMAGE_TOKEN,
        num_additional_image_tokens=1,
        chat_template=chat_template(getattr(config, "conv_mode", None)),
    )


def chat_template(conv_mode: str | None) -> str | None:
    """A prompt template as transformers' chat templates are written; None for styles other than Vicuna's."""
    template = None if conv_mode is None else get_conversation(conv_mode)
    if template is None or template.sep_style is not SeparatorStyle.TWO or template.messages:
        return None
    user, assistant = template.roles
    return _CHAT.format(
        system=template.system + template.sep, user=user, assistant=assistant, sep=template.sep, sep2=template.sep2
    )


# --------------------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    """Source, output and layout."""
    flags = argparse.ArgumentParser(
        prog="llava convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("source", help="folder or hub name of the checkpoint")
    flags.add_argument("output", help="new folder")
    flags.add_argument("--to", choices=LAYOUTS, default=LAYOUTS[0], help="layout to write")
    flags.add_argument("--model-base", "--model_base", help="the language model that a LoRA or a projector belongs to")
    flags.add_argument("--dtype", help="float16, bfloat16, float32 (default: as the config says)")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    args = parser().parse_args(arguments)
    return exit_code(lambda: to_llava_hf(args.source, args.output, args.model_base, args.dtype))


if __name__ == "__main__":
    sys.exit(main())
