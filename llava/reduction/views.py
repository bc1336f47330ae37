"""Stages before the decoder: images on their way to it, at the pixels, in the tower and behind it.

Shapes: G images of one length, N their tokens, k kept, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .apply import choose, unrounded
from .evidence import SITE_GIVES, Evidence, Need, Site, TowerEvidence
from .ledger import Ledger
from .record import Record
from .stage import CROP_SITES, Stage


def reduce_pixels(plan: list[Stage], pixels: Tensor, patch: int) -> Tensor:
    """Apply a plan's stages at the pixels (G, 3, H, W), whose sides are whole numbers of patches before and after."""
    for stage in plan:
        if stage.site == "pixels":
            tokens = pixels.shape[-2] // patch * (pixels.shape[-1] // patch)
            pixels = stage.reducer.shrink(pixels, patch, stage.budget(tokens))
    return pixels


@dataclass(frozen=True)
class Views:
    """Images on their way to the decoder: crops until they are laid out, then pictures.

    tokens: of each image (n, D). seeds (G,): a number for each. grid (h, w): how the tokens of an image with h * w of them
    lie on the picture, or a list of one for each image. question: the words asked about each, as in ``Evidence``. owners: for crops, the number of the
    picture that each belongs to, whose crops share a budget unless a stage says ``per="crop"``; None: each is a picture.
    origins: of each image the patch (n,) in whose place each token stands, None where the tokens are the patches. sizes: how
    many tokens each stands for (n,). tower: what the tower saw of the crops. crop_grids: for a picture of several crops, by its
    number, how many lie below and beside one another, the whole picture not counted.
    """

    tokens: list[Tensor]
    seeds: Tensor
    grid: tuple[int, int] | list[tuple[int, int] | None] | None = None
    question: tuple[Tensor, Tensor] | None = None
    owners: Sequence[int] | None = None
    origins: list[Tensor] | None = None
    sizes: list[Tensor] | None = None
    tower: TowerEvidence | None = None
    crop_grids: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each image."""
        return [len(image) for image in self.tokens]

    def grid_of(self, image: int) -> tuple[int, int] | None:
        """How the tokens of an image lie on the picture, None where they lie on no grid (any more)."""
        grid = self.grid[image] if isinstance(self.grid, list) else self.grid
        return grid if grid and grid[0] * grid[1] == len(self.tokens[image]) else None


def reduce_images(plan: list[Stage], site: Site, views: Views) -> tuple[Views, list[Record]]:
    """Apply a plan's stages of one site before the language model to each image separately.

    Returns the reduced images and one record per stage, whose rows are the images, padded on the right.
    """
    records = []
    for stage in plan:
        if stage.site == site:
            views, record = _reduce_images(stage, views)
            records.append(record)
    return views, records


def tower_record(stage: Stage, origins: Tensor, patches: int) -> Record:
    """What a stage in the tower did: of every crop (G) the patches (G, k) in whose place its tokens stand."""
    valid = torch.ones(len(origins), patches, dtype=torch.bool, device=origins.device)
    ledger = Ledger.start(valid.long(), valid, torch.arange(patches, device=origins.device))
    chosen, source = torch.zeros_like(valid).scatter(1, origins, True), ledger.origin.clone()
    return Record(stage, ledger, chosen, source=source.scatter(1, origins.sort(dim=1).values, origins))


def _reduce_images(stage: Stage, views: Views) -> tuple[Views, Record]:
    device, lengths = views.seeds.device, views.lengths
    columns = torch.arange(max(lengths, default=0), device=device)
    valid = columns < torch.tensor(lengths, device=device)[:, None]
    ledger = Ledger.start(valid.long(), valid, columns)
    before = [columns[:length] for length in lengths] if views.origins is None else views.origins
    if views.origins is not None:
        ledger = replace(ledger, origin=nn.utils.rnn.pad_sequence(before, batch_first=True))
    chosen, notes, source = torch.zeros_like(valid), [], columns.repeat(len(lengths), 1)
    tokens, origins, sizes = list(views.tokens), list(before), list(views.sizes or [None] * len(lengths))
    for (_, budget, _), members in _alike(stage, views).items():
        rows = torch.tensor(members, device=device)
        about = _evidence(stage, views, rows, members)
        stacked = torch.stack([views.tokens[row] for row in members])  # (G, N, D)
        for part in choose(stage, stacked, about, budget):
            chosen[rows[part.rows][:, None], part.kept] = True
            source[rows[part.rows][:, None], part.kept] = part.merged.origin
            for number, row in enumerate(rows[part.rows].tolist()):
                tokens[row] = part.merged.tokens[number].to(stacked.dtype)
                origins[row] = before[row][part.merged.origin[number]]
                sizes[row] = None if part.merged.sizes is None else part.merged.sizes[number]
        notes.append((rows, about.notes))
    merged = any(size is not None for size in sizes)
    after = replace(
        views,
        tokens=tokens,
        origins=origins,
        sizes=[origin.new_ones(len(origin)) if size is None else size for size, origin in zip(sizes, origins)]
        if merged
        else None,
    )
    return after, Record(stage, ledger, chosen, notes, source=source)


def _evidence(stage: Stage, views: Views, rows: Tensor, members: list[int]) -> Evidence:
    """What a stage can learn of some images of one length."""
    length = len(views.tokens[members[0]])
    grid = views.grid_of(members[0])
    if Need.GRID in stage.needs and grid is None:
        early = [site for site in CROP_SITES if site in stage.reducer.sites and stage.needs <= SITE_GIVES[site]]
        raise ValueError(
            f"{stage} needs the arrangement of the tokens on the picture, but these {length} tokens have none (a picture"
            " of several crops, or an earlier stage); make it the first stage"
            + (f", at site={early[0]!r}" if early else "")
        )
    return Evidence(
        seeds=views.seeds[rows],
        grid=grid,
        question=views.question and (views.question[0][rows], views.question[1][rows]),
        sizes=None if views.sizes is None else torch.stack([views.sizes[row] for row in members]),
        tower=views.tower,
        crops=None if views.tower is None else rows,
        origins=None if views.origins is None else torch.stack([views.origins[row] for row in members]),
    )


def _alike(stage: Stage, views: Views) -> dict[tuple[int, int | None, tuple[int, int] | None], list[int]]:
    """Which images have the same length, budget and grid, by these three."""
    lengths = views.lengths
    owners = range(len(lengths)) if views.owners is None else views.owners
    if len(owners) != len(lengths):
        raise ValueError(f"owners has {len(owners)} entries for {len(lengths)} crops; give the picture of each crop")
    crops: dict[int, list[int]] = {}
    for row, owner in enumerate(owners):
        crops.setdefault(owner, []).append(row)
    alike: dict[tuple[int, int | None, tuple[int, int] | None], list[int]] = {}
    for rows in crops.values():
        for row, budget in zip(rows, _shares(stage, views, rows)):
            alike.setdefault((lengths[row], budget, views.grid_of(row)), []).append(row)
    return alike


def _shares(stage: Stage, views: Views, rows: list[int]) -> list[int | None]:
    """The budgets of the crops ``rows`` of one picture."""
    lengths = [len(views.tokens[row]) for row in rows]
    if not stage.reducer.shares_crops or stage.per == "crop" or len(set(lengths)) > 1 or len(rows) == 1:
        return stage.shares(lengths)
    budget = stage.budget(sum(lengths))
    about = _evidence(stage, views, torch.tensor(rows, device=views.seeds.device), rows)
    owner = 0 if views.owners is None else views.owners[rows[0]]
    about = replace(about, crop_grid=views.crop_grids.get(owner))
    with unrounded(views.seeds.device):
        return list(stage.reducer.shares(0 if budget is None else budget, about))
