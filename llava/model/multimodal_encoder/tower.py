"""A vision tower as LLaVA uses it: one layer's hidden states, without the class token, never trained."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.files import excerpt
from llava.model.checkpoint import (
    check_depth,
    check_tensors,
    errors_naming,
    find_folder,
    headers_of,
    no_loading_report,
    read_json,
    weight_headers,
)
from llava.model.multimodal_encoder.clip_text import CLIPText
from llava.model.multimodal_encoder.families import CLIP, SUPPORTED, TOWERS, TowerFamily, as_stored, tower_family

logger = logging.getLogger(__name__)

# Parts of a whole CLIP or SigLIP that are not its vision tower.
_NOT_VISION = ("text_model.", "text_projection.", "visual_projection.", "logit_")


@dataclass
class TowerOutput:
    """What the tower says about G images of N patches, in front of which F rows stand (class token, registers).

    features: (G, N, D), with the class token in front (N + 1) for select_feature "cls_patch". hidden: the selected hidden
    state whole, (G, F + N, D). entered: what went into the layers that were asked for, by their number, (G, F + N, D).
    rows: positions that each layer computed.
    """

    features: Tensor
    hidden: Tensor
    entered: dict[int, Tensor]
    rows: list[int]


class LayerRunner(Protocol):
    """What runs a layer of the tower in place of the layer's own forward."""

    def __call__(self, number: int, layer: nn.Module, hidden: Tensor) -> Tensor:
        """hidden (G, F + n, D) -> (G, F + n', D)."""
        ...


class VisionTower(nn.Module):
    """A frozen vision model of any family (``families``) and what it sees the images with.

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
            self._config = vision_config(carried, "mm_vision_config")
            check_select_layer(self.select_layer, self._config)
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
        looked for, ValueError naming weights that are missing or do not fit, or a `mm_vision_select_layer` it has not got.
        """
        inside = self._inside = inside or self._inside
        if self.vision_tower is None:
            folder, config = open_tower(self.vision_tower_name, inside, self.select_layer, **hub)
            self._config = config
            kind = self.family.kinds[config.model_type][1]
            with no_loading_report():
                self.vision_tower = kind.from_pretrained(folder, config=config, dtype=dtype)
            self._freeze()
            self.vision_tower.to(device=device)
        if self.image_processor is None:
            self.image_processor = load_image_processor(self.vision_tower_name, inside, self.config, **hub)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        resized: bool = False,
        watched: Collection[int] = (),
        runner: LayerRunner | None = None,
    ) -> TowerOutput:
        """images (G, 3, H, W) of any dtype -> features and class token in that dtype.

        watched: numbers of layers whose input is wanted, the first that is not run among them. runner: what runs a layer in
        place of its own forward.

        The layers are counted here instead of read from `hidden_states`: transformers records those by hooks that another
        model around the tower sets a second time. resized: they are of another size than the tower's on purpose; its
        position embeddings are interpolated.
        """
        tower, family, side = self._loaded, self.family, self.image_size
        if images.ndim != 4 or (images.shape[-2:] != (side, side) and not resized):
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit the vision tower; give (n, 3, {side}, {side}), "
                "as process_images does"
            )
        pixels = images.to(device=self.device, dtype=self.dtype)
        hidden = family.embed(tower, pixels, images.shape[-2:] != (side, side))
        entered, rows = {}, []
        for number, layer in enumerate(family.own_layers(tower)[: self.layers_run]):
            if number in watched:
                entered[number] = hidden
            rows.append(hidden.shape[1])
            hidden = family.run(layer, hidden) if runner is None else runner(number, layer, hidden)
        if self.layers_run in watched:
            entered[self.layers_run] = hidden
        hidden = hidden.to(images.dtype)
        return TowerOutput(self.feature_select(hidden), hidden, entered, rows)

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


def open_tower(name: str, inside: tuple[Path, ...], select_layer: int, **hub: Any) -> tuple[Path, Any]:
    """The folder of a tower and its config, once its weights are known to fit; none is read.

    select_layer: the hidden state that is wanted, which it must have. Others and errors as in `VisionTower.load_model`.
    """
    folder = find_folder(name, "vision tower", inside, **hub)
    config = load_vision_config(folder)
    check_select_layer(select_layer, config)
    family = family_of(config)
    # Whole CLIPs hold a text tower too; older ones name the vision part, and save buffers that are computed now.
    held = as_stored(
        {
            name: header
            for name, header in weight_headers(folder).items()
            if not name.startswith(_NOT_VISION) and not name.endswith("position_ids")
        }
    )
    depth = select_layer % (config.num_hidden_layers + 1) if family.is_cut else config.num_hidden_layers
    with errors_naming(folder / "config.json"):
        check_depth(folder, held, family.layer_prefix, depth, "num_hidden_layers")
        with torch.device("meta"):
            model = family.kinds[config.model_type][1](config)
        if family.is_cut:
            family.cut(model, depth)
    wanted = {name: header.shape for name, header in as_stored(headers_of(model.state_dict())).items()}
    # A mask is learned only to be trained with; nothing is masked here.
    optional = ("embeddings.mask_token",)
    check_tensors(folder, {name: header for name, header in held.items() if name in wanted}, wanted, optional)
    return folder, config


def check_tower(config: Any, inside: tuple[Path, ...], **hub: Any) -> None:
    """Raises what loading the tower of a config would, before any weight is read, and ValueError for another width.

    config: `mm_vision_tower`, `mm_vision_select_layer`, `mm_hidden_size`. Others as in `VisionTower.load_model`.
    """
    _, tower = open_tower(config.mm_vision_tower, inside, config.mm_vision_select_layer, **hub)
    if config.mm_hidden_size != tower.hidden_size:
        raise ValueError(
            f"mm_hidden_size={config.mm_hidden_size}, but the features of vision tower {config.mm_vision_tower!r} are "
            f"{tower.hidden_size} wide; was the model trained with another tower?"
        )


def check_select_layer(layer: int, config: Any) -> None:
    """Raises ValueError unless the tower has this hidden state: 0 is its embeddings, -1 what the last layer gives."""
    depth = config.num_hidden_layers
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"mm_vision_select_layer={layer}, but the vision tower has {depth} layers; give -{depth + 1} to {depth}"
        )


def load_vision_config(folder: Path) -> Any:
    """The config of the vision tower in a folder, also of a whole CLIP or SigLIP. Raises ValueError for another model."""
    path = folder / "config.json"
    raw = read_json(path)
    vision = raw.get("vision_config", raw)
    if isinstance(vision, dict) and vision is not raw:
        # The vision part of a whole model's config does not always say what it is.
        kind = next((next(iter(family.kinds)) for family in TOWERS if family.whole == raw.get("model_type")), None)
        vision = {**({} if kind is None else {"model_type": kind}), **vision}
    return vision_config(vision, path)


def family_of(config: Any) -> TowerFamily:
    """The family of a tower's config, which ``vision_config`` has read."""
    family = tower_family(config.model_type)
    if family is None:
        raise ValueError(
            f"model_type {excerpt(config.model_type)} is no vision tower that is known; there are {SUPPORTED}"
        )
    return family


def vision_config(raw: Any, source: str | Path) -> Any:
    """A tower's config from its fields. Raises ValueError naming `source` for fields that no tower of its family has."""
    kind = raw.get("model_type", "clip_vision_model") if isinstance(raw, dict) else type(raw).__name__
    family = tower_family(kind)
    if family is None:
        raise ValueError(
            f"{source}: model_type {excerpt(kind)} is no vision tower that is known; there are {SUPPORTED}"
        )
    with errors_naming(source):
        config = family.kinds[kind][0].from_dict({key: value for key, value in raw.items() if key != "model_type"})
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    ):
        value = getattr(config, name, 1)  # a family may measure its feed-forward otherwise
        if type(value) is not int or value < 1:
            raise ValueError(
                f"{source}: {name}={excerpt(value)} of the vision tower must be a whole number of at least 1"
            )
    return config


def load_image_processor(name: str, inside: tuple[Path, ...], config: Any, **hub: Any) -> CLIPImageProcessorPil:
    """The processor of the tower's folder, else of the checkpoint's, else the hub's, else CLIP's at the tower's size.

    It is the PIL one by name: which processor the plain name means depends on whether torchvision is installed.
    """
    for folder in (*(folder / name for folder in inside), Path(name), *inside):
        if file := _processor_file(folder):
            return _processor(file, config)
    try:
        downloaded = find_folder(name, "vision tower", inside, weights=False, **hub)
    except FileNotFoundError:
        downloaded = None
    if downloaded and (file := _processor_file(downloaded)):
        return _processor(file, config)
    side, family = config.image_size, family_of(config)
    logger.warning(
        "no preprocessor_config.json for %s; images are prepared as %s does, at %d pixels", name, family.name, side
    )
    return CLIPImageProcessorPil(**_usual(family, side))


def _usual(family: TowerFamily, side: int) -> dict[str, Any]:
    """How a family's pictures are prepared where no file says it."""
    square = {"height": side, "width": side}
    usual: dict[str, Any] = {"size": {"shortest_edge": side} if family.crops else square, "crop_size": square}
    if family.look is not None:
        usual["image_mean"], usual["image_std"] = family.look
    return usual | {"do_center_crop": family.crops}


def picture_side(name: str, inside: tuple[Path, ...], config: Any, **hub: Any) -> int:
    """Pixels along a side of the pictures that a tower reads, before it is loaded; arguments as in `load_image_processor`."""
    if not family_of(config).reads_any_size:
        return config.image_size
    return processed_side(load_image_processor(name, inside, config, **hub))


def processed_side(processor: Any) -> int:
    """Pixels along a side of the square that an image processor makes."""
    return processor.crop_size["height"] if processor.do_center_crop else processor.size["height"]


def _processor_file(folder: Path) -> Path | None:
    """The file of a folder that says how images are prepared; transformers 5 writes that of a whole processor."""
    for file, field in (
        (folder / "preprocessor_config.json", None),
        (folder / "processor_config.json", "image_processor"),
    ):
        if file.is_file() and (field is None or field in read_json(file)):
            return file
    return None


def _processor(file: Path, config: Any) -> CLIPImageProcessorPil:
    """The processor in a file, tried on a picture. Raises ValueError naming the file where it does not suit the tower.

    CLIP's does what those of the other families do: it resizes, cuts or not, and normalises by the file's numbers.
    """
    raw, family = read_json(file), family_of(config)
    raw = raw.get("image_processor", raw)
    # What SigLIP's file leaves out is not what CLIP's would mean by it.
    unsaid = {} if family.crops else {"do_center_crop": raw.get("do_center_crop", False)}
    with errors_naming(file):
        processor = CLIPImageProcessorPil.from_pretrained(file.parent, **unsaid)
        shape = processor(Image.new("RGB", (2, 2)), return_tensors="pt")["pixel_values"].shape
    height, width = shape[-2:]
    suits = height == width and height % config.patch_size == 0
    if not (suits if family.reads_any_size else (height, width) == (config.image_size, config.image_size)):
        wanted = (
            f"squares of whole patches of {config.patch_size}"
            if family.reads_any_size
            else (f"{config.image_size}x{config.image_size}")
        )
        raise ValueError(
            f"{file} makes pictures of {width}x{height} pixels, but the vision tower reads {wanted}; "
            "correct its size and crop_size"
        )
    return processor
