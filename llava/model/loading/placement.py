"""Where a model is put, in which type, and whether its weights are packed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from llava.utils import installed


def placement(device_map: Any, device: str | torch.device | None) -> tuple[Any, torch.device]:
    """(device_map for from_pretrained, the device where images and prompts go)."""
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise ValueError(
            f"device={device!r} is unknown; give 'cuda', one with a number such as 'cuda:1', or 'cpu'"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, but torch sees no CUDA device; leave device out or give 'cpu'")
    if device.type == "cuda" and device.index is None or isinstance(device_map, dict):
        return device_map, device
    return {"": device}, device


def dtype_of(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The dtype by name, or float16 on CUDA and float32 elsewhere. Raises ValueError for one no model computes in."""
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    named = str(dtype).removeprefix("torch.")
    if named not in ("float64", "float32", "float16", "bfloat16"):
        raise ValueError(f"torch_dtype={dtype!r} is no type of a model; give 'float32', 'float16' or 'bfloat16'")
    return getattr(torch, named)


def quantization(load_8bit: bool, load_4bit: bool, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How bitsandbytes packs the decoder's weights. Raises ValueError for both at once, ImportError without the library."""
    if load_8bit and load_4bit:
        raise ValueError("load_8bit and load_4bit are both set; choose one")
    if not installed("bitsandbytes"):
        raise ImportError("load_8bit and load_4bit need bitsandbytes: pip install 'llava-condense[quantize]'")
    # What turns pixels into tokens is small, and most sensitive to rounding.
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


def leave_odd_shapes_unpacked(model: nn.Module) -> None:
    """Has 4 bit weights of odd shapes computed as on any CPU.

    On CPUs with AVX512-BF16 bitsandbytes packs weights a second time when they are first used, in blocks of 32 rows and of
    as many columns as share a scale, and raises for a shape that these do not divide.
    """
    module: Any  # a linear layer of bitsandbytes
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            block = module.weight.quant_state.blocksize
            module.support_avx512bf16_for_cpu = not (module.out_features % 32 or module.in_features % block)
