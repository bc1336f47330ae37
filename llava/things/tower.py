"""The tower: a DINOv2 under the names that checkpoints have, out of an ONNX file or a folder of transformers.

In an exported graph a tensor of the model keeps its name unless the exporter transposed or interpolated it: the matrices of
the layers are then known by the node that multiplies with them, and the positions by their shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava.model.checkpoint import errors_naming, read_json, stored_tensors
from llava.utils import installed

HEAD_WIDTH = 64  # of every DINOv2
BACKBONE = "backbone"  # the model's place in the exported graph
_PROJECTION = "embeddings.patch_embeddings.projection.weight"


@dataclass(frozen=True)
class Tower:
    """A DINOv2 taken out of its file: config, and tensors by the names of its published checkpoints."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def tower_from_onnx(file: Path) -> Tower:
    """The DINOv2 below ``backbone`` in an exported graph.

    The token of masked patches, which is used only in training, is not part of a graph and becomes zero. Raises
    ImportError without the package onnx, ValueError naming a damaged file or one that holds no such model.
    """
    if not installed("onnx"):
        raise ImportError(f"reading {file} needs onnx: pip install 'llava-condense[things]'")
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load(str(file)).graph
    except DecodeError as error:
        raise ValueError(f"{file} is no ONNX file ({error}); it may be cut short or damaged; fetch it again") from None
    with errors_naming(file):
        stored = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    tensors = {
        name.removeprefix(f"{BACKBONE}."): value for name, value in stored.items() if name.startswith(f"{BACKBONE}.")
    }
    if _PROJECTION not in tensors:
        raise ValueError(f"{file} holds no DINOv2: there is no {BACKBONE}.{_PROJECTION}; give another file")
    width = len(tensors[_PROJECTION])
    positions: dict[str, Tensor] = {}
    for node in graph.node:
        if not node.name.startswith(f"/{BACKBONE}/"):
            continue
        for weight in (stored[name] for name in node.input if name in stored):
            if node.op_type == "MatMul":
                module = node.name.removeprefix(f"/{BACKBONE}/").removesuffix("/MatMul").replace("/", ".")
                tensors[f"{module}.weight"] = weight.T.contiguous()
            elif node.op_type in ("Concat", "Reshape") and weight.dim() == 3 and weight.shape[-1] == width:
                positions[node.op_type] = weight
    if positions.keys() != {"Concat", "Reshape"}:
        raise ValueError(f"{file} holds no DINOv2: its positions are not there; give another file")
    tensors["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
    tensors["embeddings.mask_token"] = torch.zeros(1, width)
    with errors_naming(file, "it holds no DINOv2; give another file"):
        return Tower(_config(tensors), tensors)


def tower_from_folder(folder: Path) -> Tower:
    """The DINOv2 of a folder that transformers wrote, such as a download from the hub. Raises ValueError for another model."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != "dinov2":
        raise ValueError(f"{folder} holds a {config.get('model_type')}; give a DINOv2 without registers")
    return Tower(config, dict(stored_tensors(folder, lambda name: True)))


def _config(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The config that the shapes of the tensors imply, the rest as in every DINOv2 of this kind."""
    width, channels, patch, _ = tensors[_PROJECTION].shape
    side = math.isqrt(tensors["embeddings.position_embeddings"].shape[1] - 1)
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": width,
        "image_size": side * patch,
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "mlp_ratio": len(tensors["encoder.layer.0.mlp.fc1.weight"]) // width,
        "num_attention_heads": width // HEAD_WIDTH,
        "num_channels": channels,
        "num_hidden_layers": len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}),
        "patch_size": patch,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
    }
