"""Pictures made of words, on which the language model learns to look for what it is asked about before it is shown photographs.

Every patch says which thing it shows, and stands in the prompt as the projector is aligned to have it: as the name's own embedding,
and a little of the words for its place. So what is learnt on them is of use on photographs, and it is learnt fast, since nothing is seen
wrongly. From photographs at once, yes/no questions stayed at chance for all the time that they were given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llava.model.language_model.llava_family import LlavaFamilyForCausalLM
from llava.train.trainable import require_tower

from ..world import PATCH, Scene, World, patch_owner
from .align import Words


def draw_words(scene: Scene, world: World) -> Image.Image:
    """A grey picture whose brightness says which thing a patch shows, by its number in the world, or the background.

    Raises ValueError for a world of more than 255 things.
    """
    if len(world.things) > 255:
        raise ValueError(f"{len(world.things)} things do not fit into the 256 shades of a picture; give 255 or fewer")
    numbered = {thing.name: number for number, thing in enumerate(world.things)}
    shown = np.array([numbered[item.name] for item in scene.items] + [len(world.things)], dtype=np.uint8)
    return Image.fromarray(np.kron(shown[patch_owner(scene)], np.ones((PATCH, PATCH), np.uint8)))


def read_words(model: LlavaFamilyForCausalLM, tokenizer: Any, world: World) -> None:
    """Let a model take pictures of words in place of photographs: what they say goes by the tower and the projector."""
    processor: Any = require_tower(model).image_processor
    mean, spread = processor.image_mean[0], processor.image_std[0]
    embeddings: Any = model.get_input_embeddings()
    words, dtype = Words.of(world, tokenizer, embeddings.weight), model.dtype

    def encode_images(pixels: Tensor) -> Tensor:
        """Pixels (G, 3, H, W) of pictures of words -> embeddings (G, N, D)."""
        middle = pixels[:, 0, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].float().flatten(1).cpu()  # as the words are
        names = ((middle * spread + mean) * 255).round().long().clamp(0, len(world.things))  # other pictures: anything
        return words.patches(names, torch.arange(names.shape[1]).expand_as(names)).to(pixels.device, dtype)

    model.encode_images = encode_images  # pyright: ignore[reportAttributeAccessIssue]  which a model allows
