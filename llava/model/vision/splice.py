"""Prompts in which every image token becomes the image's features, as one batch.

Shapes: B rows, S positions, D the language model's width, n features of an image.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX

logger = logging.getLogger(__name__)


@dataclass
class Spliced:
    """A batch of prompts in which every image token has become the image's features.

    inputs_embeds (B, S, D). attention_mask (B, S) bool, False for padding. position_ids (B, S), 0 for padding. labels
    (B, S), IGNORE_INDEX for images and padding; all of it if no labels were given. visual (B, S): 0 for text and
    padding, i for what belongs to the row's i-th image. sample_seed (B,): a number that depends on the row's pixels only.
    token_size (B, S): how many tokens each position stands for, None where all stand for one. grids (B, I, 2): height and width of
    each image's tokens on the picture, zero where they have none.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    visual: Tensor
    sample_seed: Tensor
    token_size: Tensor | None
    grids: Tensor


@dataclass(frozen=True)
class VisualTokens:
    """The tokens (n, D) that stand for one picture, how many each stands for (n,) if not one, their grid if they have one."""

    tokens: Tensor
    sizes: Tensor | None = None
    grid: tuple[int, int] = (0, 0)


@dataclass
class Row:
    """One spliced prompt: embeds (S, D), labels (S,), visual (S,), sizes (S,) if not all one, and the grids of its images."""

    embeds: Tensor
    labels: Tensor
    visual: Tensor
    sizes: Tensor | None
    grids: list[tuple[int, int]]

    def cut(self, limit: int) -> Row:
        """Its first ``limit`` positions."""
        sizes = None if self.sizes is None else self.sizes[:limit]
        return Row(self.embeds[:limit], self.labels[:limit], self.visual[:limit], sizes, self.grids)


def splice_row(embed: nn.Embedding, ids: Tensor, target: Tensor, images: list[VisualTokens]) -> Row:
    """One prompt (S,) with its labels, and the tokens of its images in order."""
    is_image = ids == IMAGE_TOKEN_INDEX
    text = embed(ids.masked_fill(is_image, 0))
    cuts = is_image.nonzero().flatten().tolist()
    embeds, visual, labels, sizes = [], [], [], []
    start = 0
    for number, (cut, image) in enumerate(zip(cuts, images, strict=True), start=1):
        count = len(image.tokens)
        embeds += [text[start:cut], image.tokens.to(text)]
        labels += [target[start:cut], target.new_full((count,), IGNORE_INDEX)]
        visual += [ids.new_zeros(cut - start), ids.new_full((count,), number)]
        own = torch.ones(count, device=ids.device) if image.sizes is None else image.sizes.float()
        sizes += [torch.ones(cut - start, device=ids.device), own]
        start = cut + 1
    embeds.append(text[start:])
    labels.append(target[start:])
    visual.append(ids.new_zeros(len(ids) - start))
    sizes.append(torch.ones(len(ids) - start, device=ids.device))
    sized = torch.cat(sizes) if any(image.sizes is not None for image in images) else None
    return Row(torch.cat(embeds), torch.cat(labels), torch.cat(visual), sized, [image.grid for image in images])


def cut_rows(rows: list[Row], limit: int | None) -> list[Row]:
    """Rows of at most ``limit`` positions, with a warning where one is longer."""
    longest = max(len(row.embeds) for row in rows)
    if limit is None or longest <= limit:
        return rows
    logger.warning("a prompt of %d positions is cut to tokenizer_model_max_length=%d", longest, limit)
    return [row.cut(limit) for row in rows]


def pad_rows(rows: list[Row], side: str, sample_seed: Tensor) -> Spliced:
    """Rows of any length as one batch, padded with zeros on ``side``."""
    if side not in ("left", "right"):
        raise ValueError(f"padding side {side!r} is unknown; give 'left' or 'right'")
    first = rows[0].embeds
    lengths = [len(row.embeds) for row in rows]
    longest = max(lengths)
    batch = Spliced(
        inputs_embeds=first.new_zeros(len(rows), longest, first.shape[-1]),
        attention_mask=torch.zeros(len(rows), longest, dtype=torch.bool, device=first.device),
        position_ids=sample_seed.new_zeros(len(rows), longest),
        labels=sample_seed.new_full((len(rows), longest), IGNORE_INDEX),
        visual=sample_seed.new_zeros(len(rows), longest),
        sample_seed=sample_seed,
        token_size=None,
        grids=_padded_grids(rows).to(sample_seed.device),
    )
    if any(row.sizes is not None for row in rows):
        batch.token_size = torch.ones(len(rows), longest, device=first.device)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        columns = slice(longest - length, longest) if side == "left" else slice(0, length)
        batch.inputs_embeds[i, columns] = row.embeds
        batch.attention_mask[i, columns] = True
        batch.position_ids[i, columns] = torch.arange(length, device=first.device)
        batch.labels[i, columns] = row.labels
        batch.visual[i, columns] = row.visual
        if batch.token_size is not None and row.sizes is not None:
            batch.token_size[i, columns] = row.sizes
    return batch


def _padded_grids(rows: list[Row]) -> Tensor:
    """Height and width of the grid of every image of every row, zero where there is none: (B, I, 2)."""
    most = max(len(row.grids) for row in rows)
    grids = [[*row.grids, *[(0, 0)] * (most - len(row.grids))] for row in rows]
    return torch.tensor(grids, dtype=torch.long).view(len(rows), most, 2)
