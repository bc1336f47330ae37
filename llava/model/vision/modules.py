"""The tower and the projector of a decoder: how they are built, filled and found.

Shapes: V the tower's width, D the language model's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from llava.model.checkpoint import check_tensors, headers_of, load_tensors
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.scales import DEFAULT_SCALES
from llava.model.multimodal_encoder.tower import VisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.reduction.evidence import Site

# What the mixin is mixed into
if TYPE_CHECKING:
    from llava.model.hosts.decoder import ReducibleDecoder as _Decoder
else:
    _Decoder = object


class LlavaMetaModel(_Decoder):
    """Adds the vision tower, the projector and, for `*unpad` merging, the learned end of a line to a decoder.

    They are built if the config names a tower. The tower's weights are read by `get_vision_tower().load_model()`, or with
    the rest of the checkpoint if the config has `mm_vision_config`.
    """

    sites = get_args(Site)

    vision_tower: VisionTower | list[VisionTower]
    mm_projector: nn.Module
    image_newline: nn.Parameter
    dtype: torch.dtype
    device: torch.device

    def __init__(self, config: Any):
        super().__init__(config)
        if getattr(config, "mm_vision_tower", None):
            self.vision_tower = build_vision_tower(config, delay_load=True)
            self._build_projection()

    def get_vision_tower(self) -> VisionTower | None:
        """The tower; None for a model without one."""
        tower = getattr(self, "vision_tower", None)
        return tower[0] if isinstance(tower, list) else tower

    def initialize_vision_modules(self, model_args: Any, fsdp: Any = None) -> None:
        """Gives a language model its tower and projector, as training starts.

        model_args: `vision_tower`, `mm_vision_select_layer`, `mm_vision_select_feature`, and optionally
        `mm_projector_type`, `mm_patch_merge_type`, `s2` and `s2_scales` (of a new tower, see ``stated_scales``),
        `pretrain_mm_mlp_adapter` (a projector file to start from). fsdp: accepted for LLaVA's sake. Raises what
        `VisionTower.load_model` and `load_projector` raise.
        """
        config = self.config
        config.mm_vision_tower = model_args.vision_tower
        config.mm_vision_select_layer = model_args.mm_vision_select_layer
        config.mm_vision_select_feature = model_args.mm_vision_select_feature
        config.mm_projector_type = getattr(model_args, "mm_projector_type", "linear")
        config.mm_patch_merge_type = getattr(model_args, "mm_patch_merge_type", "flat")
        config.use_mm_proj = True
        tower = self.get_vision_tower()
        if tower is None:
            if getattr(model_args, "s2", False):
                config.s2, config.s2_scales = True, getattr(model_args, "s2_scales", None) or DEFAULT_SCALES
            tower = self.vision_tower = build_vision_tower(config, delay_load=True)
        if not tower.is_loaded:
            tower.load_model(dtype=self.dtype, device=self.device)
        config.mm_hidden_size = tower.hidden_size
        if getattr(self, "mm_projector", None) is None:
            self._build_projection()
            self.mm_projector.to(device=self.device, dtype=self.dtype)
        self.mm_projector.requires_grad_(True)
        if getattr(model_args, "pretrain_mm_mlp_adapter", None):
            load_projector(self, Path(model_args.pretrain_mm_mlp_adapter))

    def _build_projection(self) -> None:
        self.mm_projector = build_vision_projector(self.config)
        if "unpad" in getattr(self.config, "mm_patch_merge_type", "flat"):
            width = self.config.hidden_size
            self.image_newline = nn.Parameter(torch.randn(width, dtype=self.dtype) / math.sqrt(width))


def load_projector(model: nn.Module, path: Path) -> None:
    """Fills projector and `image_newline` of a decoder from a file of `model.mm_projector.*` tensors.

    Raises ValueError naming the tensors that are missing, of another shape, and those that belong to neither.
    """
    tensors, state = load_tensors(path), model.state_dict()
    own = [name for name in state if name.startswith(("mm_projector.", "image_newline"))]
    wanted = {f"model.{name}": tuple(state[name].shape) for name in own}
    check_tensors(
        path, headers_of(tensors), wanted, hint="; its names must be model.mm_projector.<layer>.<weight|bias>"
    )
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, strict=False)
