"""The kinds of evidence, and which of them each site can give."""

from __future__ import annotations

from enum import Enum
from typing import Literal

Site = Literal["pixels", "tower", "features", "projected", "prompt", "layer"]
TextScope = Literal["after", "all"]  # the text after the image, or all of the prompt's


class Need(Enum):
    """A kind of evidence; a stage whose site cannot give it is refused before anything runs."""

    GRID = "the arrangement of the tokens on the picture"
    SEED = "a number for each picture"
    QUESTION = "the embeddings of the question's words"
    CLS = "the attention of the tower's class token"
    TOWER = "queries and keys of the tower"
    CLIP = "CLIP's text tower"
    TEXT = "the hidden states of the text"
    ATTENTION = "attention of the decoder"
    CHANGE = "the change that the layer before made"
    EMBEDDINGS = "what entered the decoder"


_PICTURE = frozenset({Need.GRID, Need.SEED, Need.QUESTION})
_TOWER = frozenset({Need.CLS, Need.TOWER, Need.CLIP})

SITE_GIVES: dict[Site, frozenset[Need]] = {
    "pixels": frozenset(),
    "tower": frozenset(),
    "features": _PICTURE | _TOWER,
    "projected": _PICTURE | _TOWER | {Need.TEXT},
    "prompt": _PICTURE | {Need.TEXT},
    "layer": frozenset({Need.GRID, Need.SEED, Need.TEXT, Need.ATTENTION, Need.CHANGE, Need.EMBEDDINGS}),
}
