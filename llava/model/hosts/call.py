"""One forward of a stock model: what it was given, and which of its positions are the tokens of which image.

Shapes: B rows, S positions, n tokens of an image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llava.model.vision.pictures import checksum
from llava.reduction.evidence import mixed_seed

from .families import Host
from .layout import SEPARATOR, Layout, square


@dataclass(eq=False)
class Sight:
    """An image or a video of the prompt: its row, the columns (n,) of its tokens, how they lie, a number for seeded methods.

    ``first_crop``: how many crops of the tower come before its own.
    """

    row: int
    columns: Tensor
    layout: Layout
    kind: str
    first_crop: int
    seed: int = 0


@dataclass(eq=False)
class Encoded:
    """One call of get_image_features or get_video_features: its arguments by name, and what its parts were given.

    watched: the layers of the tower whose attention is kept; tower: what went into it, one entry per call. features:
    what went into the projector. lengths: tokens of each entry that was returned. tile_tokens: tokens of each tile.
    """

    arguments: dict[str, Any]
    watched: frozenset[int] = frozenset()
    tower: dict[int, list[tuple[tuple, dict]]] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    tile_tokens: int = 1

    def pixels(self, kind: str) -> Tensor | None:
        """The pixels of images or videos, which versions of transformers name differently."""
        named = self.arguments.get("pixel_values" if kind == "image" else "pixel_values_videos")
        return named if named is not None else self.arguments.get("pixel_values")


ENCODED = "llava_encoded"  # the attribute of an output under which its Encoded lies


@dataclass(eq=False)
class Call:
    """One forward of the module that takes pixels and prompt: its arguments by name, and what its parts made.

    outputs: what get_image_features and get_video_features returned in it. labels (B, S): what is taught. visual (B,
    S): the images as a caller gives them. known: how images were encoded before this forward, where its output no
    longer says.
    """

    host: Host | None
    core: Any
    arguments: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    visual: Tensor | None = None
    known: dict[str, Encoded] = field(default_factory=dict)

    @property
    def mask(self) -> Tensor | None:
        """The 2-D attention mask, where one is given."""
        mask = self.arguments.get("attention_mask")
        return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None

    @property
    def has_pixels(self) -> bool:
        """Whether images or videos are given, as pixels or as the tower saw them."""
        encoded = self.arguments.get("mm_encoder_outputs") or {}
        pixels = any(self.arguments.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
        return pixels or any(output is not None for output in encoded.values())

    def output(self, kind: str) -> Any:
        """What the tower and the projector made of the images or videos; generate makes it before the first forward."""
        made = self.outputs.get(kind)
        return made if made is not None else (self.arguments.get("mm_encoder_outputs") or {}).get(kind)

    def encoded(self, kind: str) -> Encoded | None:
        """How that was made; only its arguments are known where it was made outside of the block."""
        output = self.output(kind)
        if output is None:
            return None
        # Offloading copies the output on its way into the forward, without what lies on it.
        return getattr(output, ENCODED, None) or self.known.get(kind) or Encoded(self.arguments)

    def sights(self) -> list[Sight]:
        """The images and videos of the prompt, by row and column.

        Raises ValueError where pixels are given but no place for them is found.
        """
        if self.visual is not None:
            return told(self.visual)
        ids = self.arguments.get("input_ids")
        if self.host is None:
            return []
        if ids is None:
            if self.has_pixels:
                raise ValueError("a prompt of inputs_embeds shows no placeholder of its images; give input_ids")
            return []
        found: list[Sight] = []
        for kind in ("image", "video"):
            found += self._of_kind(self.host, ids, kind, max((s.first_crop + s.layout.crops for s in found), default=0))
        if not found and self.has_pixels:
            raise ValueError(
                f"pixels are given but the prompt of {type(self.core).__name__} has no placeholder of an image"
                f" (token {self.host.token(self.core.config, 'image')}); make the prompt with the model's processor"
            )
        return sorted(found, key=lambda sight: (sight.row, int(sight.columns[0])))

    def _of_kind(self, host: Host, ids: Tensor, kind: str, crops: int) -> list[Sight]:
        token, output, encoded = host.token(self.core.config, kind), self.output(kind), self.encoded(kind)
        if token is None or output is None or encoded is None:
            return []
        places = (ids == token).nonzero().cpu()  # (n, 2)
        lengths = [part.shape[-2] for part in output.pooler_output]
        if sum(lengths) + len(lengths) == len(
            places
        ):  # before transformers 5.20 the end of a video came after its features
            lengths = [length + 1 for length in lengths]
        if sum(lengths) != len(places):
            raise ValueError(
                f"the prompt has {len(places)} placeholders of {kind}s for {sum(lengths)} tokens; make it with the model's"
                " processor"
            )
        if host.images == "runs":
            encoded.tile_tokens, lengths = lengths[0], _runs(places)
        elif host.images == "tiles":
            runs = _runs(places)
            encoded.tile_tokens = runs[0] if runs else 1
            lengths = _tiled(ids.cpu(), places, runs)
        parts = [part for part in places.split(lengths) if len(part)]
        sources = _sources([int(part[0, 0]) for part in parts], len(places) // (sum(encoded.lengths) or len(places)))
        known: dict[int, tuple[Layout, int, int]] = {}
        for part, source in zip(parts, sources):
            if source not in known:
                layout = host.arrange(self.core, encoded, kind, source, len(part))
                known[source] = layout, crops, _seed(host, encoded, kind, source, layout, crops)
                crops += layout.crops
        return [
            Sight(int(part[0, 0]), part[:, 1], known[source][0], kind, known[source][1], known[source][2])
            for part, source in zip(parts, sources)
        ]


def _sources(rows: list[int], copies: int) -> list[int]:
    """For each image in some rows, its number before generate copied the rows for its beams."""
    counts: dict[int, int] = {}
    sources: dict[tuple[int, int], int] = {}
    numbers = []
    for row in rows:
        place = row // copies, counts.get(row, 0)
        counts[row] = place[1] + 1
        numbers.append(sources.setdefault(place, len(sources)))
    return numbers


def _seed(host: Host, encoded: Encoded, kind: str, number: int, layout: Layout, crop: int) -> int:
    """A number that depends on an image's pixels alone."""
    pixels = encoded.pixels(kind)
    if pixels is None:
        return 0
    grid = encoded.arguments.get(f"{kind}_grid_thw")
    if grid is not None:
        ends = [0, *grid.prod(1).cumsum(0).tolist()]
        own = pixels[ends[number] : ends[number + 1]]
    elif pixels.dim() == 5 and host.images == "tiles":
        tiles = pixels.flatten(0, 1)
        own = tiles[(tiles != 0).flatten(1).any(1)][crop : crop + layout.crops]
    elif pixels.dim() == 5:
        own = pixels[number][: layout.crops]
    else:
        own = pixels[crop : crop + layout.crops]
    return checksum(own)


def told(visual: Tensor) -> list[Sight]:
    """The images that a map (B, S) marks, 0 or False for text: each lies on a square, where it can."""
    sights = []
    for row, values in enumerate(visual.long().cpu()):
        for image in values[values > 0].unique().tolist():
            columns = (values == image).nonzero()[:, 0]
            sights.append(Sight(row, columns, square(None, None, "image", 0, len(columns)), "image", len(sights)))
    return sights


def image_map(sights: list[Sight], shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The map (B, S) of images counted in every row, separators left out, and their grids (B, I, 3): time, height, width."""
    visual = torch.zeros(shape, dtype=torch.long)
    counts = [0] * shape[0]
    whole: list[tuple[int, int, tuple[int, int, int]]] = []
    for sight in sights:
        counts[sight.row] += 1
        visual[sight.row, sight.columns[sight.layout.part != SEPARATOR]] = counts[sight.row]
        whole.append((sight.row, counts[sight.row] - 1, sight.layout.whole))
    grids = torch.zeros(shape[0], max(counts, default=0), 3, dtype=torch.long)
    for row, image, grid in whole:
        grids[row, image] = torch.tensor(grid)
    return visual.to(device), grids.to(device) if whole else None


def row_seeds(sights: list[Sight], rows: int) -> Tensor:
    """A number for each row, from those of its images."""
    seeds = [0] * rows
    for sight in sights:
        seeds[sight.row] = mixed_seed(seeds[sight.row], sight.seed)
    return torch.tensor(seeds, dtype=torch.long)


def _runs(places: Tensor) -> list[int]:
    """Lengths of the unbroken runs of places (n, 2)."""
    if not len(places):
        return []
    broken = (places[1:, 0] != places[:-1, 0]) | (places[1:, 1] != places[:-1, 1] + 1)
    ends = [0, *(broken.nonzero()[:, 0] + 1).tolist(), len(places)]
    return [after - before for before, after in zip(ends, ends[1:])]


def _tiled(ids: Tensor, places: Tensor, runs: list[int]) -> list[int]:
    """Tokens of each image whose tiles are runs: the last tile, the whole picture, has a mark of its own before it."""
    lengths, held = [], 0
    first = places[torch.tensor([0, *runs[:-1]]).cumsum(0)]  # where each run begins
    rows = first[:, 0]
    marks = ids[rows, (first[:, 1] - 1).clamp(min=0)]
    for number, run in enumerate(runs):
        held += run
        last = int((rows == rows[number]).nonzero().max())
        if marks[number] == marks[last]:
            lengths.append(held)
            held = 0
    return lengths
