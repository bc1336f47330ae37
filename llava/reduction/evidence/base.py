"""Evidence about pictures: what is known of them before the decoder, and what their tower saw.

Shapes: G images of one length, N their tokens, P patches of a tower, H heads, d width of a head, V the tower's width,
E width of CLIP's shared space, T words.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from .needs import TextScope


class TowerEvidence(Protocol):
    """What a vision tower can say about some of the crops that it has seen, ``crops`` (g,).

    Layers are counted as papers do: 0 is the first, -1 the last, -2 the one that makes LLaVA's features. Each raises
    ValueError where the tower has no such thing, naming what may stand for it.
    """

    def cls_attention(self, crops: Tensor, layer: int) -> Tensor:
        """Attention of the class token to itself and to the patches, after the softmax: (g, H, 1 + P)."""
        ...

    def mean_attention(self, crops: Tensor, layer: int) -> Tensor:
        """Attention that each patch receives from all patches, mean over them: (g, H, P)."""
        ...

    def keys(self, crops: Tensor, layer: int) -> Tensor:
        """Keys of the patches: (g, H, P, d)."""
        ...

    def cls_projections(self, crops: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The class token's query, not scaled, and its key: (g, H, d) each."""
        ...

    def cls_row(self, crops: Tensor) -> Tensor:
        """The class token's row of the selected hidden state: (g, V)."""
        ...

    def clip_patches(self, crops: Tensor) -> Tensor:
        """The patches in CLIP's shared space, not normalised: (g, P, E)."""
        ...

    def clip_text(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The question in CLIP's shared space, a row for each 77-token segment, (g, M, E), and which are real (g, M)."""
        ...

    def clip_words(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The question's tokens in CLIP's shared space (g, T, E) and which are real, the end of the text not among them."""
        ...


@dataclass
class Evidence:
    """Evidence about G images of N tokens each; ``notes`` is where a reducer leaves what it found out.

    seeds (G,) one number per picture, the same alone and in a batch. grid (h, w) with h * w = N, or None. question: the
    embeddings (G, T, D) of the words asked about each picture and which of them are real (G, T), None where no stage
    asked. sizes (G, N): how many tokens each one stands for, None for one each. tower: what the tower saw, of which the G
    images are the crops ``crops`` (G,), and their tokens the patches ``origins`` (G, N). crop_grid: how many crops of one
    picture lie below and beside one another, where the evidence is about all of them and the first shows the whole. In the
    decoder it is a ``DecoderEvidence``, which also gives attention and text.
    """

    seeds: Tensor
    grid: tuple[int, int] | None = None
    question: tuple[Tensor, Tensor] | None = None
    sizes: Tensor | None = None
    tower: TowerEvidence | None = None
    crops: Tensor | None = None
    origins: Tensor | None = None
    crop_grid: tuple[int, int] | None = None
    notes: dict = field(default_factory=dict)

    def text(self, scope: TextScope = "after") -> tuple[Tensor, Tensor]:
        """The words asked about each picture (G, T, D) and which of them are real (G, T), in the width of the tokens.

        Before the decoder they are embeddings of the text after the image, whatever the ``scope``. So one method can
        read them both before the decoder and in it.
        """
        if self.question is None:
            raise ValueError("no question was handed in; a method that reads it must name Need.TEXT or Need.QUESTION")
        return self.question

    @property
    def sides(self) -> tuple[int, int]:
        """``grid``, for a reducer that needs it. Raises ValueError where the tokens have none."""
        if self.grid is None:
            raise ValueError(
                "the tokens do not lie on a grid here: the picture has several crops, or an earlier stage has taken some away;"
                " let the stage that reads the grid be the first, or choose a method that reads none"
            )
        return self.grid

    # ------------------------------------------------------------------------------------------------------- the tower

    def cls_attention(self, layer: int = -2, itself: bool = False) -> Tensor:
        """How much the tower's class token attends to each token: (G, H, N), with ``itself`` in front (G, H, 1 + N)."""
        tower, crops = self._seen
        attention = tower.cls_attention(crops, layer)
        tokens = self._patches(attention[..., 1:])
        return torch.cat([attention[..., :1], tokens], dim=-1) if itself else tokens

    def mean_attention(self, layer: int = -2) -> Tensor:
        """How much the tower's patches attend to each token on average: (G, H, N)."""
        tower, crops = self._seen
        return self._patches(tower.mean_attention(crops, layer))

    def tower_keys(self, layer: int = -2) -> Tensor:
        """The tokens' keys in a layer of the tower: (G, H, N, d)."""
        tower, crops = self._seen
        return self._patches(tower.keys(crops, layer).transpose(2, 3)).transpose(2, 3)

    def cls_projections(self, layer: int = -2) -> tuple[Tensor, Tensor]:
        """Query, not scaled, and key of the tower's class token in a layer: (G, H, d) each."""
        tower, crops = self._seen
        return tower.cls_projections(crops, layer)

    def cls_row(self) -> Tensor:
        """The class token's row of the selected hidden state: (G, V)."""
        tower, crops = self._seen
        return tower.cls_row(crops)

    def clip_patches(self) -> Tensor:
        """The tokens in CLIP's shared space, not normalised: (G, N, E)."""
        tower, crops = self._seen
        return self._patches(tower.clip_patches(crops).transpose(1, 2)).transpose(1, 2)

    def clip_text(self) -> tuple[Tensor, Tensor]:
        """The question in CLIP's shared space, a row for each segment (G, M, E), and which are real (G, M)."""
        tower, crops = self._seen
        return tower.clip_text(crops)

    def clip_words(self) -> tuple[Tensor, Tensor]:
        """The question's tokens in CLIP's shared space (G, T, E), without the end of the text, and which are real."""
        tower, crops = self._seen
        return tower.clip_words(crops)

    @property
    def _seen(self) -> tuple[TowerEvidence, Tensor]:
        if self.tower is None or self.crops is None:
            raise ValueError(
                "nothing is known of the tower here; stand at site='features' or 'projected', with no stage in the tower before"
            )
        return self.tower, self.crops

    def _patches(self, whole: Tensor) -> Tensor:
        """What is about the tokens (G, ..., N), of something about all patches (G, ..., P)."""
        if self.origins is None:
            return whole
        index = self.origins.view(len(whole), *[1] * (whole.dim() - 2), -1)
        return whole.gather(-1, index.expand(*whole.shape[:-1], -1))

    def part(self, images: Tensor) -> Self:
        """The evidence about some of the G images, ``images`` (g,); its notes are the same."""
        rows = {name: getattr(self, name) for name in ("seeds", "sizes", "crops", "origins")}
        chosen = {name: None if value is None else value[images] for name, value in rows.items()}
        question = self.question and (self.question[0][images], self.question[1][images])
        return replace(self, question=question, **chosen)


def mixed_seed(seeds: Tensor | int, number: Tensor | int) -> Any:
    """One number from a seed and a running number, so that neighbours of either kind do not collide."""
    return (seeds * 1_000_003 + number) % (1 << 48)
