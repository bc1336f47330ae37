"""What a stock tower saw: the evidence of stages that choose before the decoder.

Queries and keys are read from what went into the tower's attention, so that no family's code is repeated. Where several
patches make a token, what is known of the patches is averaged over them.

Shapes: g parts of pictures that are asked about, N their tokens, H heads, R rows of the tower, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llava.reduction.evidence.reading import Projections, read

CHUNK = 128  # query rows at a time
NO_TEXT = "this host comes without CLIP's text tower; give relevance=embeddings"


def attention_blocks(tower: nn.Module) -> list[nn.Module]:
    """The attention of every layer of a tower, first to last; none where its layers cannot be told by name."""
    names = ("self_attn", "attn", "attention")
    stacks = [module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(module)]
    found: list[nn.Module] = []
    for stack in stacks:
        owned: list[Any] = [next((getattr(layer, n) for n in names if hasattr(layer, n)), None) for layer in stack]
        if all(isinstance(module, nn.Module) for module in owned) and len(owned) > len(found):
            found = owned
    return found


def layer_number(layer: int, layers: int, made: int) -> int:
    """A layer as papers count, 0 the first, -1 the last, -2 the one that makes the features (here ``made``)."""
    return layer if layer >= 0 else min(layers - 1, made + layer + 2)


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a picture: of each of its tokens the crop (N,) and the cell (N,) on the crop."""

    crop: Tensor
    cell: Tensor


@dataclass(eq=False)
class SeenParts:
    """A tower and what went through its attention: ``TowerEvidence`` for the parts of all pictures of a prompt.

    blocks: the attention of every layer. entered: what went into some of them. cells: tokens of every crop. order: how
    the crops' tokens follow one another after the tower, where it has changed their order. cls: whether a class token
    comes first. grouped: the patches that make a token follow one another. made: the layer that makes the features.
    """

    blocks: list[nn.Module]
    entered: dict[int, list[tuple[tuple, dict]]]
    regions: list[Region]
    cells: list[int]
    cls: bool
    made: int
    grouped: bool = False
    order: Tensor | None = None
    hidden: Tensor | None = None
    _held: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict, init=False, repr=False)

    def cls_attention(self, crops: Tensor, layer: int) -> Tensor:
        """Attention of the class token to itself and to the tokens: (g, H, 1 + N)."""
        self._check_class("saliency=mean_attention")
        whole = self._once("cls", layer, lambda made: _softmax(made.queries[:, :, :1], made)[:, :, 0])
        return self._parts(whole, crops)

    def mean_attention(self, crops: Tensor, layer: int) -> Tensor:
        """Attention that each token receives from all patches, mean over them: (g, H, N)."""
        skip = int(self.cls)

        def received(made: Projections) -> Tensor:
            parts = [_softmax(part, made).sum(2) for part in made.queries[:, :, skip:].split(CHUNK, dim=2)]
            return torch.stack(parts).sum(0) / (made.queries.shape[2] - skip)

        seen = self._parts(self._once("mean", layer, received), crops)
        return seen[..., skip:]

    def keys(self, crops: Tensor, layer: int) -> Tensor:
        """Keys of the tokens: (g, H, N, d)."""
        whole = self._once("keys", layer, lambda made: made.keys.float().transpose(2, 3))  # (G, H, d, R)
        return self._parts(whole, crops)[..., int(self.cls) :].transpose(2, 3)

    def cls_projections(self, crops: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The class token's query, not scaled, and its key: (g, H, d) each."""
        self._check_class("saliency=mean_attention")
        query = self._once("query", layer, lambda made: made.queries[:, :, 0].float())
        key = self._once("key", layer, lambda made: made.keys[:, :, 0].float())
        first = [int(self.regions[part].crop[0]) for part in crops.tolist()]
        return torch.stack([query[crop] for crop in first]), torch.stack([key[crop] for crop in first])

    def cls_row(self, crops: Tensor) -> Tensor:
        """The class token's row of the selected hidden state: (g, V)."""
        self._check_class("another method")
        if self.hidden is None:
            raise ValueError("the class token's row of this host is not known; choose another method")
        return self.hidden[[int(self.regions[part].crop[0]) for part in crops.tolist()], 0]

    def clip_patches(self, crops: Tensor) -> Tensor:
        """Raises ValueError: a checkpoint of a host has no text side of CLIP."""
        raise ValueError(NO_TEXT)

    def clip_text(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Raises ValueError: a checkpoint of a host has no text side of CLIP."""
        raise ValueError(NO_TEXT)

    def clip_words(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Raises ValueError: a checkpoint of a host has no text side of CLIP."""
        raise ValueError(NO_TEXT)

    def _check_class(self, way_out: str) -> None:
        if not self.cls:
            raise ValueError(f"the tower of this host has no class token; use {way_out}")

    def _once(self, what: str, layer: int, make: Callable[[Projections], Tensor]) -> list[Tensor]:
        """Something about every crop (H, ...), made once."""
        number = layer_number(layer, len(self.blocks), self.made)
        if number not in self.entered:
            raise ValueError(
                f"nobody asked for layer {layer} of the tower in time; a method names it in its tower_layers"
            )
        if (what, number) not in self._held:
            pieces = []
            for given, named in self.entered[number]:
                for made in read(self.blocks[number], "both", *given, **named):
                    pieces.append(make(made))
            self._held[what, number] = self._by_crop(pieces, what in ("query", "key"))
        return self._held[what, number]

    def _by_crop(self, pieces: list[Tensor], single: bool) -> list[Tensor]:
        """What belongs to each crop of pieces (G, H, ..., R) as the tower made them, its patches averaged to tokens."""
        crops = [crop for piece in pieces for crop in piece]
        if single:
            return crops
        if self.order is None and len(crops) == len(self.cells):
            return [self._tokens(crop, cells) for crop, cells in zip(crops, self.cells)]
        tokens = self._tokens(torch.cat(crops, dim=-1), sum(self.cells))  # (H, ..., tokens of all crops)
        if self.order is not None:
            tokens = tokens[..., self.order.to(tokens.device)]
        return list(tokens.split(self.cells, dim=-1))

    def _tokens(self, crop: Tensor, cells: int) -> Tensor:
        """What is known of a crop's patches (..., [1 +] P) for its tokens (..., [1 +] cells)."""
        first, patches = crop[..., : int(self.cls)], crop[..., int(self.cls) :]
        count = patches.shape[-1]
        if count != cells:
            patches = patches.unflatten(-1, (cells, -1)).mean(-1) if self.grouped else _pooled(patches, cells)
        return torch.cat([first, patches], dim=-1)

    def _parts(self, whole: list[Tensor], crops: Tensor) -> Tensor:
        """What is about the tokens of some parts, of something about every crop (H, ..., [1 +] cells)."""
        skip, parts = int(self.cls), []
        for part in crops.tolist():
            region = self.regions[part]
            used = region.crop.unique().tolist()
            values = torch.stack([whole[crop] for crop in used])  # (crops, H, ..., [1 +] cells)
            which = torch.searchsorted(torch.tensor(used), region.crop).to(values.device)
            moved = values.movedim(0, -2)  # (H, ..., crops, [1 +] cells)
            tokens = moved[..., which, region.cell.to(values.device) + skip]
            parts.append(torch.cat([moved[..., 0, :skip], tokens], dim=-1))
        return torch.stack(parts)


def _pooled(patches: Tensor, cells: int) -> Tensor:
    """Patches (..., P) on a square, averaged over blocks to (..., cells)."""
    side, small = round(patches.shape[-1] ** 0.5), round(cells**0.5)
    flat = patches.reshape(-1, 1, side, side)
    return nn.functional.adaptive_avg_pool2d(flat, small).reshape(*patches.shape[:-1], cells)


def _softmax(queries: Tensor, made: Projections) -> Tensor:
    return (queries @ made.keys.transpose(-1, -2) * made.scaling).float().softmax(-1)
