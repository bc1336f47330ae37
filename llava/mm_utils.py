"""From pictures and prompts to tensors: LLaVA's image layouts, the image token, and stopping at a keyword."""

from __future__ import annotations

import ast
import base64
import math
import urllib.request
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import LongTensor, Tensor
from transformers import StoppingCriteria

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

Size = tuple[int, int]  # (width, height) in pixels, as PIL counts


def get_model_name_from_path(model_path: str) -> str:
    """The last part of a path or hub name; `checkpoint-*` folders take their parent's name along."""
    parts = str(model_path).strip("/").split("/")
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]


# ------------------------------------------------------------------------------------------------------------ images


def load_image(source: str | Path) -> Image.Image:
    """The RGB picture in a file or behind an http(s) address, wholly decoded.

    Raises FileNotFoundError for a missing file and ValueError for one that is not a readable picture; both name it.
    """
    source = str(source)
    try:
        if source.startswith(("http://", "https://")):
            with urllib.request.urlopen(source, timeout=60) as response:
                return Image.open(BytesIO(response.read())).convert("RGB")
        with Image.open(source) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"image file {source!r} does not exist") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"image {source!r} cannot be read: {error}") from error


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """The picture that base64 text holds."""
    return Image.open(BytesIO(base64.b64decode(image)))


def expand2square(pil_img: Image.Image, background_color: int | tuple[int, ...]) -> Image.Image:
    """The picture centred on a square of its longer side; a square picture comes back as it is."""
    width, height = pil_img.size
    if width == height:
        return pil_img
    side = max(width, height)
    square = Image.new(pil_img.mode, (side, side), background_color)
    square.paste(pil_img, ((side - width) // 2, (side - height) // 2))
    return square


def process_images(images: Sequence[Image.Image], image_processor: Any, model_cfg: Any) -> Tensor | list[Tensor]:
    """Pictures as the model was trained to see them.

    model_cfg.image_aspect_ratio: "pad" squares each on the processor's mean colour; "anyres" gives each as a stack of
    crops; anything else lets the processor resize and crop. Returns (n, 3, H, W), for anyres (n, 1+crops, 3, H, W); a
    list where the pictures got different numbers of crops.
    """
    layout = getattr(model_cfg, "image_aspect_ratio", None)
    if layout == "anyres":
        tensors = [process_anyres_image(image, image_processor, model_cfg.image_grid_pinpoints) for image in images]
    elif layout == "pad":
        colour = tuple(int(value * 255) for value in image_processor.image_mean)
        tensors = [_pixels(expand2square(image.convert("RGB"), colour), image_processor) for image in images]
    else:
        tensors = [_pixels(image.convert("RGB"), image_processor) for image in images]
    if tensors and all(tensor.shape == tensors[0].shape for tensor in tensors):
        return torch.stack(tensors)
    return tensors


def _pixels(image: Image.Image, image_processor: Any) -> Tensor:
    """One picture through the processor, (3, H, W)."""
    return image_processor.preprocess(image, return_tensors="pt")["pixel_values"][0]


# ------------------------------------------------------------------------------------------------------------ anyres


def select_best_resolution(original_size: Size, possible_resolutions: Sequence[Size]) -> Size:
    """The grid (width, height) that keeps most of a picture's pixels; of equals the one that wastes fewest.

    Example: (1000, 500) among (336, 672), (672, 336), (672, 672) -> (672, 336).
    """
    width, height = original_size

    def merit(grid: Size) -> tuple[int, int]:
        scale = min(grid[0] / width, grid[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - grid[0] * grid[1]

    return tuple(max(possible_resolutions, key=merit))


def resize_and_pad_image(image: Image.Image, target_resolution: Size) -> Image.Image:
    """The picture as large as fits into `target_resolution`, centred on black."""
    width, height = image.size
    target_width, target_height = target_resolution
    across, down = target_width / width, target_height / height
    if across < down:
        size = (target_width, min(math.ceil(height * across), target_height))
    else:
        size = (min(math.ceil(width * down), target_width), target_height)
    canvas = Image.new("RGB", (target_width, target_height), (0, 0, 0))
    canvas.paste(image.resize(size), ((target_width - size[0]) // 2, (target_height - size[1]) // 2))
    return canvas


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """The square crops of side `patch_size`, row by row."""
    width, height = image.size
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, height, patch_size)
        for left in range(0, width, patch_size)
    ]


def get_anyres_image_grid_shape(image_size: Size, grid_pinpoints: str | Sequence[Size], patch_size: int) -> Size:
    """How many crops (across, down) the picture of this size is cut into."""
    width, height = select_best_resolution(image_size, _grids(grid_pinpoints))
    return width // patch_size, height // patch_size


def process_anyres_image(image: Image.Image, processor: Any, grid_pinpoints: str | Sequence[Size]) -> Tensor:
    """The whole picture squeezed into one square, then its crops: (1 + crops, 3, H, W)."""
    image = image.convert("RGB")
    grid = select_best_resolution(image.size, _grids(grid_pinpoints))
    crops = divide_to_patches(resize_and_pad_image(image, grid), processor.crop_size["height"])
    side = processor.size["shortest_edge"]
    return torch.stack([_pixels(part, processor) for part in (image.resize((side, side)), *crops)])


def _grids(grid_pinpoints: str | Sequence[Size]) -> list[Size]:
    """Grid sizes from a config, where they may stand as the text of a list."""
    grids = ast.literal_eval(grid_pinpoints) if isinstance(grid_pinpoints, str) else grid_pinpoints
    if not grids:
        raise ValueError("image_grid_pinpoints is empty; give a list of [width, height] in pixels")
    return [tuple(grid) for grid in grids]


# ------------------------------------------------------------------------------------------------------------ tokens


def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> list[int] | LongTensor:
    """The prompt's ids with one `image_token_index` for every literal `<image>`.

    The text around an image is tokenised piece by piece and begins with one BOS at most. return_tensors: None gives a
    list, "pt" a LongTensor (S,); anything else raises ValueError.
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"Unsupported tensor type: {return_tensors}; give 'pt' for a LongTensor or None for a list")
    chunks = [tokenizer(chunk).input_ids for chunk in prompt.split(DEFAULT_IMAGE_TOKEN)]
    has_bos = bool(chunks[0]) and chunks[0][0] == tokenizer.bos_token_id
    ids = chunks[0][:1] if has_bos else []
    for i, chunk in enumerate(chunks):
        ids += [image_token_index] * (i > 0) + chunk[has_bos:]
    return torch.tensor(ids, dtype=torch.long) if return_tensors == "pt" else ids


class KeywordsStoppingCriteria(StoppingCriteria):
    """Ends every row on its own once its answer ends with, or has just written, one of the keywords.

    keywords: strings, e.g. `["###"]`. input_ids: the prompt (B, S). Works for `generate` of new ids only as for one that
    returns the prompt in front: rows that begin with their prompt have it taken off.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: Any, input_ids: LongTensor):
        self.keywords = list(keywords)
        self.tokenizer = tokenizer
        self.prompt = input_ids
        self.keyword_ids = []
        for keyword in keywords:
            ids = tokenizer(keyword).input_ids
            if len(ids) > 1 and ids[0] == tokenizer.bos_token_id:
                ids = ids[1:]
            self.keyword_ids.append(ids)
        self.max_keyword_len = max(map(len, self.keyword_ids), default=0)

    def __call__(self, output_ids: LongTensor, scores: Any = None, **kwargs: Any) -> Tensor:
        """(B,) bool: which rows are done."""
        beams = max(1, len(output_ids) // len(self.prompt))
        done = [self._ends(ids, self.prompt[i // beams]) for i, ids in enumerate(output_ids)]
        return torch.tensor(done, device=output_ids.device)

    def _ends(self, ids: LongTensor, prompt: LongTensor) -> bool:
        if len(ids) >= len(prompt) and torch.equal(ids[: len(prompt)], prompt.to(ids.device)):
            ids = ids[len(prompt) :]
        tail = ids[max(0, len(ids) - self.max_keyword_len) :].tolist()
        if any(tail[-len(keyword) :] == keyword for keyword in self.keyword_ids if keyword):
            return True
        text = self.tokenizer.decode(tail, skip_special_tokens=True)
        return any(keyword in text for keyword in self.keywords)
