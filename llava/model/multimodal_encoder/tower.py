"""A vision tower as LLaVA uses it: one layer's hidden states, without the class token, never trained."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.model.checkpoint import find_folder, no_loading_report
from llava.model.multimodal_encoder.clip_text import CLIPText
from llava.model.multimodal_encoder.families import CLIP, TowerFamily
from llava.model.multimodal_encoder.opening import (
    check_select_layer,
    family_of,
    load_vision_config,
    open_tower,
    vision_config,
)
from llava.model.multimodal_encoder.processor import load_image_processor, processed_side


@dataclass
class TowerOutput:
    """What the tower says about G images of N patches, in front of which F rows stand (class token, registers).

    features: (G, N, D), with the class token in front (N + 1) for select_feature "cls_patch". patches: the same without it.
    hidden: the selected hidden state whole, (G, F + N, D). entered: what went into the layers that were asked for, by their
    number, (G, F + N, D). rows: positions that each layer computed in a pass.
    """

    features: Tensor
    patches: Tensor
    hidden: Tensor
    entered: dict[int, Tensor]
    rows: list[int]


class LayerRunner(Protocol):
    """What runs a layer of the tower in place of the layer's own forward."""

    def __call__(self, number: int, layer: nn.Module, hidden: Tensor) -> Tensor:
        """hidden (G, F + n, D) -> (G, F + n', D)."""
        ...


class VisionTower(nn.Module):
    """A frozen vision model of any family (``families``) and its image processor.

    vision_tower: hub name, local path, or folder relative to the checkpoint. args: a config with
    `mm_vision_select_layer` (which hidden state, e.g. -2) and `mm_vision_select_feature` ("patch" drops the class
    token, "cls_patch" keeps it). Optional on it: `mm_vision_config`, the tower's own config as a dict: then
    the tower is built here, for a checkpoint that carries its weights. delay_load: do not read weights yet;
    `load_model` does.

    The model is a part, not a base class: a subclass would lose the renaming of CLIP's weights that transformers does on
    loading.
    """

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False):
        super().__init__()
        self.vision_tower_name = vision_tower
        self.select_layer = args.mm_vision_select_layer
        self.select_feature = getattr(args, "mm_vision_select_feature", "patch")
        if self.select_feature not in ("patch", "cls_patch"):
            raise ValueError(
                f"mm_vision_select_feature={self.select_feature!r} is unknown; give 'patch' or 'cls_patch'"
            )
        self.image_processor: CLIPImageProcessorPil | None = None
        self.vision_tower: Any = None
        self._config: Any = None
        self._text: CLIPText | None = None
        # Beside the checkpoint that the config was read from.
        folder = Path(str(getattr(args, "_name_or_path", "") or "."))
        self._inside = (folder,) if folder.is_dir() else ()
        carried = getattr(args, "mm_vision_config", None)
        if carried:
            self._adopt(vision_config(carried, "mm_vision_config"))
            self.vision_tower = self.family.kinds[self._config.model_type][1](self._config)
            self._freeze()
        elif not delay_load:
            self.load_model()

    def load_model(
        self,
        device_map: Any = None,
        inside: tuple[Path, ...] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        **hub: Any,
    ) -> None:
        """Reads weights and image processor; only the processor if the weights came with the checkpoint.

        device_map: accepted for LLaVA's sake, the tower is never split. inside: folders its name may be
        relative to; by default that of the checkpoint. hub: as in `find_folder`. Raises FileNotFoundError naming what was
        looked for, ValueError naming weights that are missing or do not fit, or a `mm_vision_select_layer` it does not have.
        """
        inside = self._inside = inside or self._inside
        if self.vision_tower is None:
            folder, config = open_tower(self.vision_tower_name, inside, self.select_layer, **hub)
            self._adopt(config)
            kind = self.family.kinds[config.model_type][1]
            with no_loading_report():
                self.vision_tower = kind.from_pretrained(folder, config=config, dtype=dtype)
            self._freeze()
            self.vision_tower.to(device=device)
        if self.image_processor is None:
            self.image_processor = self._read_processor(inside, **hub)

    def _adopt(self, config: Any) -> None:
        """Takes a tower's own config once it suits what is asked of the tower; raises ValueError where it does not."""
        check_select_layer(self.select_layer, config)
        self._config = config

    def _read_processor(self, inside: tuple[Path, ...], **hub: Any) -> CLIPImageProcessorPil:
        return load_image_processor(self.vision_tower_name, inside, self.config, **hub)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        resized: bool = False,
        watched: Collection[int] = (),
        runner: LayerRunner | None = None,
    ) -> TowerOutput:
        """images (G, 3, H, W) of any dtype -> features and class token in that dtype.

        watched: numbers of layers whose input is wanted, which may include the first that is not run. runner: what runs
        a layer in place of its own forward. resized: they are of another size than the tower's on purpose; its position
        embeddings are interpolated.
        """
        self._check_size(images, resized)
        return self._see(images, images.shape[-2:] != (self.image_size, self.image_size), watched, runner)

    def _check_size(self, images: Tensor, resized: bool = False) -> None:
        """Raises ValueError for images of another size than the tower reads, unless on purpose, and for an unloaded tower."""
        _ = self._loaded
        side = self.image_size
        if images.ndim != 4 or (images.shape[-2:] != (side, side) and not resized):
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit the vision tower; give (n, 3, {side}, {side}), "
                "as process_images does"
            )

    def _see(
        self,
        images: Tensor,
        resized: bool = False,
        watched: Collection[int] = (),
        runner: LayerRunner | None = None,
    ) -> TowerOutput:
        """One pass of the vision model; arguments as in ``encode``.

        The layers are counted here instead of read from `hidden_states`: transformers records those by hooks that another
        model around the tower sets a second time.
        """
        tower, family = self._loaded, self.family
        pixels = images.to(device=self.device, dtype=self.dtype)
        hidden = family.embed(tower, pixels, resized)
        entered, rows = {}, []
        for number, layer in enumerate(family.own_layers(tower)[: self.layers_run]):
            if number in watched:
                entered[number] = hidden
            rows.append(hidden.shape[1])
            hidden = family.run(layer, hidden) if runner is None else runner(number, layer, hidden)
        if self.layers_run in watched:
            entered[self.layers_run] = hidden
        hidden = hidden.to(images.dtype)
        return TowerOutput(self.feature_select(hidden), hidden[:, self.front :], hidden, entered, rows)

    def patches_of(self, images: Tensor) -> int:
        """N, the patches that each of some images (G, 3, H, W) becomes, resized or not."""
        height, width = (side // self.config.patch_size for side in images.shape[-2:])
        return height * width

    @property
    def layers_run(self) -> int:
        """How many layers produce the selected hidden state; 0 is the embeddings, those after it are never run.

        Raises ValueError for a `mm_vision_select_layer` that the tower does not have.
        """
        states = self.config.num_hidden_layers + 1
        if not isinstance(self.select_layer, int) or not -states <= self.select_layer < states:
            raise ValueError(
                f"mm_vision_select_layer={self.select_layer!r} is out of range; a tower of {states - 1} layers has the "
                f"hidden states -{states} to {states - 1}, LLaVA takes -2"
            )
        return self.select_layer % states

    def layer_number(self, layer: int) -> int:
        """The number of a layer that is counted from the end as papers do, -1 the last.

        Raises ValueError for one that the tower does not have, or whose input is never computed because it lies above the
        selected hidden state.
        """
        depth = self.config.num_hidden_layers
        number = layer % depth if -depth <= layer < depth else -1
        if not 0 <= number <= self.layers_run:
            raise ValueError(
                f"layer {layer} of the vision tower cannot be read: it has {depth} layers, of which the first {self.layers_run}"
                f" are run (mm_vision_select_layer={self.select_layer}); give 0 to {min(self.layers_run, depth - 1)}"
            )
        return number

    @property
    def text(self) -> CLIPText:
        """CLIP's text side, read from the tower's folder when it is first asked for. Raises as ``CLIPText.load``.

        ValueError for a tower of another family; SigLIP's own text tower was trained on whole captions of one row and has no
        patches in a shared space.
        """
        if self.family is not CLIP:
            raise ValueError(
                f"the plan asks CLIP's text tower, but vision tower {self.vision_tower_name!r} is a {self.family.name};"
                " compare the question in the language model's embeddings with the method's option relevance=embeddings"
            )
        if self._text is None:
            self._text = CLIPText.load(self.vision_tower_name, self._inside, self.device)
        return self._text

    def feature_select(self, outputs: Tensor | BaseModelOutput) -> Tensor:
        """The selected features of the tower's hidden states (G, F + N, D), or of its whole output, as LLaVA hands it.

        (G, N, D) for "patch"; for "cls_patch" with the class token in front, where the family has one. Raises ValueError for an output without hidden states.
        """
        if isinstance(outputs, Tensor):
            hidden = outputs
        elif outputs.hidden_states is None:
            raise ValueError("the tower's output has no hidden states; call the tower with output_hidden_states=True")
        else:
            hidden = outputs.hidden_states[self.select_layer]
        patches = hidden[:, self.front :]
        if self.select_feature == "patch" or not self.family.has_class_token:
            return patches
        return hidden if self.front == 1 else torch.cat([hidden[:, :1], patches], dim=1)

    def forward(self, images: Tensor | list[Tensor], resized: bool = False) -> Tensor | list[Tensor]:
        """The selected features (G, N, D); of a list of (3, H, W) the list of (1, N, D)."""
        if isinstance(images, list):
            return [self.encode(image.unsqueeze(0), resized).features for image in images]
        return self.encode(images, resized).features

    def _freeze(self) -> None:
        if self.family.is_cut:
            self.family.cut(self._loaded, self.layers_run)
        self._loaded.requires_grad_(False)
        self._loaded.eval()

    def train(self, mode: bool = True) -> VisionTower:
        """Stays in evaluation mode whatever the model around it does."""
        super().train(mode)
        if self.vision_tower is not None:
            self.vision_tower.eval()
        return self

    @property
    def is_loaded(self) -> bool:
        """Whether weights are there and images can be prepared."""
        return self.vision_tower is not None and self.image_processor is not None

    @property
    def config(self) -> Any:
        """The tower's own config, read from its folder if the tower is not loaded yet."""
        if self._config is None:
            folder = find_folder(self.vision_tower_name, "vision tower", self._inside, weights=False)
            self._config = load_vision_config(folder)
        return self._config

    @property
    def family(self) -> TowerFamily:
        """What is known of towers of this kind."""
        return family_of(self.config)

    @property
    def front(self) -> int:
        """F, the rows in front of the patches: class token and registers."""
        return self.family.front(self.config)

    @property
    def passes(self) -> int:
        """How many times the vision model runs for one picture."""
        return 1

    @property
    def image_size(self) -> int:
        """Pixels along a side of the pictures it reads: as its config says, or its image processor where any size will do."""
        if self.family.reads_any_size and self.image_processor is not None:
            return processed_side(self.image_processor)
        return self.config.image_size

    @property
    def dummy_feature(self) -> Tensor:
        """(1, D) zeros."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._loaded.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._loaded.device

    @property
    def _loaded(self) -> Any:
        if self.vision_tower is None:
            raise ValueError(f"vision tower {self.vision_tower_name!r} is not loaded; call load_model() first")
        return self.vision_tower

    @property
    def hidden_size(self) -> int:
        """D, the width of a feature."""
        return self.config.hidden_size

    @property
    def num_patches_per_side(self) -> int:
        """Patches along one side: 24 for patches of 14 pixels in 336."""
        return self.image_size // self.config.patch_size

    @property
    def num_patches(self) -> int:
        """N, the patches of one image."""
        return self.num_patches_per_side**2
