"""From pictures and prompts to tensors: LLaVA's image layouts, the image token, and stopping at a keyword."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any, Literal, cast, overload

import torch
from PIL import Image
from torch import BoolTensor, Tensor
from transformers import StoppingCriteria

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IMAGE_PLACEHOLDER,
    IMAGE_TOKEN_INDEX,
)
from llava.files import SURROGATE
from llava.pictures import Size, to_rgb
from llava.pictures import load_image as load_image  # LLaVA's users look for them here
from llava.pictures import load_image_from_base64 as load_image_from_base64

ANYRES = "anyres"  # what the image_aspect_ratio of a model that cuts pictures into crops begins with
LEAST_SIDE = 2048  # pixels: a square or a strip up to here is made at full size, whatever the picture's proportions
MOST_SIDE = 8192  # pixels: no square is larger


def get_model_name_from_path(model_path: str) -> str:
    """The last part of a path or hub name; `checkpoint-*` folders take their parent's name along."""
    parts = str(model_path).strip("/").split("/")
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]


# ------------------------------------------------------------------------------------------------------------ images


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

    images: PIL pictures of any mode (`llava.pictures.to_rgb`), whose `size` is the one that goes into `image_sizes`; EXIF
    orientation is a matter of the file, applied by `load_image`. model_cfg.image_aspect_ratio: "pad" squares each on the
    processor's mean colour; "anyres" (also "anyres_max_9") gives each as a stack of crops; anything else lets the processor resize and crop.
    Returns (n, 3, H, W), for anyres (n, 1+crops, 3, H, W); a list where the pictures got different numbers of crops.

    Memory is bounded by the picture's own pixels: one of extreme proportions shrinks before it is squared, or loses
    what the processor would crop before the processor resizes it.
    """
    layout = getattr(model_cfg, "image_aspect_ratio", None)
    if layout is not None and layout.startswith(ANYRES):
        tensors = [process_anyres_image(image, image_processor, model_cfg.image_grid_pinpoints) for image in images]
    elif layout == "pad":
        colour = tuple(int(value * 255) for value in image_processor.image_mean)
        tensors = [_pixels(expand2square(squarable(to_rgb(image)), colour), image_processor) for image in images]
    else:
        tensors = [_pixels(_central_part(to_rgb(image), image_processor), image_processor) for image in images]
    if tensors and all(tensor.shape == tensors[0].shape for tensor in tensors):
        return torch.stack(tensors)
    return tensors


def squarable(image: Image.Image) -> Image.Image:
    """The picture, shrunk where a square of its longer side would have too many pixels.

    Allowed are `LEAST_SIDE` squared and four times the picture's own pixels, but no more than `MOST_SIDE` squared.
    """
    longest = min(max(LEAST_SIDE, 2 * math.isqrt(image.width * image.height)), MOST_SIDE)
    if max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _central_part(image: Image.Image, image_processor: Any) -> Image.Image:
    """The picture without the ends that a processor which crops at the centre would enlarge and then cut off."""
    width, height = image.size
    if not image_processor.do_center_crop:
        return image
    short, crop = min(image.size), max(image_processor.crop_size["height"], image_processor.crop_size["width"])
    # As many times the shorter side as give a strip of LEAST_SIDE squared pixels after the resizing.
    most = short * max(2, (LEAST_SIDE // crop) ** 2)
    if max(image.size) <= most:
        return image
    spare = (max(image.size) - most) // 2 * 2  # the same at both ends
    if width > height:
        return image.crop((spare // 2, 0, width - spare // 2, height))
    return image.crop((0, spare // 2, width, height - spare // 2))


def _pixels(image: Image.Image, image_processor: Any) -> Tensor:
    """One picture through the processor, (3, H, W)."""
    return image_processor.preprocess(image, return_tensors="pt")["pixel_values"][0]


# ------------------------------------------------------------------------------------------------------------ anyres


def select_best_resolution(original_size: Size, possible_resolutions: Sequence[Size]) -> Size:
    """The grid (width, height) that keeps most of a picture's pixels; of equals, the one that wastes the fewest.

    Example: (1000, 500) among (336, 672), (672, 336), (672, 672) -> (672, 336).
    """
    width, height = original_size

    def merit(grid: Size) -> tuple[int, int]:
        scale = min(grid[0] / width, grid[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - grid[0] * grid[1]

    best_width, best_height = max(possible_resolutions, key=merit)
    return best_width, best_height


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
    image = to_rgb(image)
    grid = select_best_resolution(image.size, _grids(grid_pinpoints))
    # A processor that cuts nothing off, such as SigLIP's, squeezes a picture to the size it reads.
    if processor.do_center_crop:
        crop, side = processor.crop_size["height"], processor.size["shortest_edge"]
    else:
        crop = side = processor.size["height"]
    crops = divide_to_patches(resize_and_pad_image(image, grid), crop)
    return torch.stack([_pixels(part, processor) for part in (image.resize((side, side)), *crops)])


def _grids(grid_pinpoints: str | Sequence[Size]) -> list[Size]:
    """Grid sizes from a config, where they may stand as the text of a list."""
    grids = ast.literal_eval(grid_pinpoints) if isinstance(grid_pinpoints, str) else grid_pinpoints
    if not grids:
        raise ValueError("image_grid_pinpoints is empty; give a list of [width, height] in pixels")
    return [(width, height) for width, height in grids]


# ------------------------------------------------------------------------------------------------------------ tokens


def question_with_images(question: str, count: int, config: Any) -> str:
    """A question with its image tokens: in place of every `<image-placeholder>`, else its own, else in lines in front.

    count: how many images there are. config.mm_use_im_start_end: put `<im_start>` and `<im_end>` around every token that
    is added. Raises ValueError where the question then does not have as many tokens as there are images.
    """
    token = DEFAULT_IMAGE_TOKEN
    if getattr(config, "mm_use_im_start_end", False):
        token = DEFAULT_IM_START_TOKEN + token + DEFAULT_IM_END_TOKEN
    text = question.replace(IMAGE_PLACEHOLDER, token)
    if DEFAULT_IMAGE_TOKEN not in text:
        text = f"{token}\n" * count + text
    tokens = text.count(DEFAULT_IMAGE_TOKEN)
    if tokens != count:
        raise ValueError(
            f"the question has {tokens} {DEFAULT_IMAGE_TOKEN} for {count} images; give one for each, or none at all"
        )
    return text


@overload
def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int | None = ..., return_tensors: None = None
) -> list[int]: ...


@overload
def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int | None = ..., *, return_tensors: Literal["pt"]
) -> Tensor: ...


def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int | None = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> list[int] | Tensor:
    """The prompt's ids with one `image_token_index` for every literal `<image>`; None reads `<image>` as words.

    The text around an image is tokenised piece by piece and begins with one BOS at most, whether the tokenizer puts it there,
    the prompt has it (as Llama-3's), or both. return_tensors: None gives a
    list, "pt" a LongTensor (S,). Raises ValueError for anything else, and for half of a surrogate pair in the prompt, which
    is no character.
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"Unsupported tensor type: {return_tensors}; give 'pt' for a Tensor or None for a list")
    if half := SURROGATE.search(prompt):
        raise ValueError(f"the prompt has {half[0]!a}, half of a surrogate pair and no character; take it out")
    texts = [prompt] if image_token_index is None else prompt.split(DEFAULT_IMAGE_TOKEN)
    chunks = [tokenizer(text).input_ids for text in texts]
    bos = tokenizer.bos_token_id
    ids = chunks[0][:1] if chunks[0][:1] == [bos] else []
    for i, chunk in enumerate(chunks):
        first = next((place for place, token in enumerate(chunk) if token != bos), len(chunk))
        ids += [image_token_index] * (i > 0) + chunk[first:]
    return torch.tensor(ids, dtype=torch.long) if return_tensors == "pt" else ids


class KeywordsStoppingCriteria(StoppingCriteria):
    """Ends every row on its own once its answer ends with, or has just written, one of the keywords.

    keywords: strings, e.g. `["###"]`, however they are tokenised in their context. input_ids: the prompt (B, S). Works
    both for a `generate` that returns only new ids and for one that returns the prompt in front: rows that begin with
    their prompt have it taken off. A step costs the decoding of a few ids per row, whatever the answer's length. Raises
    ValueError for an empty keyword.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: Any, input_ids: Tensor):
        self.keywords = list(keywords)
        if not all(self.keywords):
            raise ValueError(f"keywords={self.keywords!r} holds an empty one, at which every answer would end")
        self.tokenizer = tokenizer
        self.prompt = input_ids
        self.keyword_ids: list[list[int]] = []
        for keyword in self.keywords:
            ids = tokenizer(keyword).input_ids
            if len(ids) > 1 and ids[0] == tokenizer.bos_token_id:
                ids = ids[1:]
            self.keyword_ids.append(ids)
        self.max_keyword_len = max(map(len, self.keyword_ids), default=0)
        # An id spells at least one byte, except for a space at the beginning of a decoded text.
        self._spans = [len(keyword.encode()) + keyword[0].isspace() for keyword in self.keywords]

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> BoolTensor:
        """(B,) bool: which rows are done."""
        self.prompt = self.prompt.to(input_ids.device)
        done = [self._is_done(row) for row in input_ids]
        return cast(BoolTensor, torch.tensor(done, dtype=torch.bool, device=input_ids.device))

    def call_for_batch(self, output_ids: Tensor, scores: Any = None, **kwargs: Any) -> bool:
        """Whether every row given, (n, S), is done; LLaVA's name, which it calls with one row at a time."""
        return bool(self(output_ids, scores, **kwargs).all())

    def _is_done(self, row: Tensor) -> bool:
        """Whether the last id of a row completes a keyword."""
        length = self.prompt.shape[1]
        start = length if len(row) >= length and (self.prompt == row[:length]).all(1).any() else 0
        ids = row[max(start, len(row) - max([self.max_keyword_len, *self._spans])) :].tolist()
        # Ids are compared too, since a keyword may be a special token, which the decoded text leaves out.
        return any(ids[-len(alone) :] == alone for alone in self.keyword_ids if alone) or any(
            self._is_completed(keyword, ids[-span:]) for keyword, span in zip(self.keywords, self._spans)
        )

    def _is_completed(self, keyword: str, ids: list[int]) -> bool:
        count = self._text(ids).count(keyword)
        return count > 0 and count > self._text(ids[:-1]).count(keyword)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)
