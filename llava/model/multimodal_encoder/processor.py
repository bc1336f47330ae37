"""How pictures are prepared for a vision tower: by its folder's file, or as its family usually is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.model.checkpoint import errors_naming, find_folder, read_json
from llava.model.multimodal_encoder.families import TowerFamily
from llava.model.multimodal_encoder.opening import family_of

logger = logging.getLogger(__name__)


def load_image_processor(
    name: str, inside: tuple[Path, ...], config: Any, side: int | None = None, **hub: Any
) -> CLIPImageProcessorPil:
    """The processor of the tower's folder, else of the checkpoint's, else the hub's, else CLIP's at the tower's size.

    side: pixels along a side of the pictures that it is to make instead of those that the tower reads. It is the PIL one by
    name: which processor the plain name means depends on whether torchvision is installed.
    """
    for folder in (*(folder / name for folder in inside), Path(name), *inside):
        if file := _processor_file(folder):
            return _processor(file, config, side)
    try:
        downloaded = find_folder(name, "vision tower", inside, weights=False, **hub)
    except FileNotFoundError:
        downloaded = None
    if downloaded and (file := _processor_file(downloaded)):
        return _processor(file, config, side)
    size, family = config.image_size if side is None else side, family_of(config)
    logger.warning(
        "no preprocessor_config.json for %s; images are prepared as %s does, at %d pixels", name, family.name, size
    )
    return CLIPImageProcessorPil(**_usual(family, size))


def _usual(family: TowerFamily, side: int) -> dict[str, Any]:
    """How a family's pictures are prepared where no file says it."""
    usual = _square(family.crops, side) | {"do_center_crop": family.crops}
    if family.look is not None:
        usual["image_mean"], usual["image_std"] = family.look
    return usual


def _square(crops: bool, side: int) -> dict[str, Any]:
    """The fields of a processor that cuts pictures to a square, or squeezes them into one."""
    square = {"height": side, "width": side}
    return {"size": {"shortest_edge": side} if crops else square, "crop_size": square}


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


def _processor(file: Path, config: Any, side: int | None) -> CLIPImageProcessorPil:
    """The processor in a file, at another size where a side is given, tried on a picture.

    Raises ValueError naming the file where it does not suit the tower.

    CLIP's does what those of the other families do: it resizes, crops or not, and normalises by the file's numbers.
    """
    raw, family = read_json(file), family_of(config)
    raw = raw.get("image_processor", raw)
    # What SigLIP's file leaves out is not what CLIP's would mean by it.
    crops = raw.get("do_center_crop", family.crops)
    told = {"do_center_crop": crops} | ({} if side is None else _square(crops, side))
    with errors_naming(file):
        processor = CLIPImageProcessorPil.from_pretrained(file.parent, **told)
        shape = processor(Image.new("RGB", (2, 2)), return_tensors="pt")["pixel_values"].shape
    height, width = shape[-2:]
    if side is None and family.reads_any_size:
        suits, wanted = height % config.patch_size == 0, f"squares of whole patches of {config.patch_size}"
    else:
        side = side or config.image_size
        suits, wanted = height == side, f"{side}x{side}"
    if height != width or not suits:
        raise ValueError(
            f"{file} makes pictures of {width}x{height} pixels, but the vision tower reads {wanted}; "
            "correct its size and crop_size"
        )
    return processor
