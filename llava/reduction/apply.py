"""Stages at work: the only callers of a reducer, at the pixels, before the decoder and inside it.

Shapes: B batch, S sequence, G images of one length, N their tokens, k kept, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .aggregate import Merged
from .evidence import SITE_GIVES, DecoderEvidence, Evidence, LayerEvidence, Need, Site, TowerEvidence
from .ledger import Ledger
from .stage import CROP_SITES, Place, Stage, Where


@dataclass(frozen=True)
class Record:
    """What one stage did in one prefill.

    ``ledger`` is the sequence as it came in, ``chosen`` (B, S) the visual slots that were kept. At the sites before the
    language model a row is an image (before the layout a crop) and the sequence is its tokens. ``remarks`` says what a reader
    of the trace should know besides, such as a knob that the prompt contradicts. ``source`` (B, S): the slot whose token each
    kept slot goes on with, where a merge has changed their order.
    """

    stage: Stage
    ledger: Ledger
    chosen: Tensor
    notes: list[tuple[Tensor, dict]] = field(default_factory=list)
    remarks: tuple[str, ...] = ()
    source: Tensor | None = None

    @property
    def name(self) -> str:
        """The method's name."""
        return self.stage.name

    @property
    def site(self) -> Where:
        """Where the stage stands."""
        return self.stage.site

    @property
    def layer(self) -> int | None:
        """The stage's decoder layer."""
        return self.stage.layer

    @property
    def place(self) -> Place:
        """What became of the tokens that were not kept."""
        return self.stage.place

    @property
    def before(self) -> Tensor:
        """Visual tokens that came in: (B,)."""
        return self._candidates().sum(1)

    @property
    def after(self) -> Tensor:
        """Visual tokens kept: (B,)."""
        return self.chosen.sum(1)

    @property
    def kept(self) -> Tensor:
        """Which of the row's visual tokens were kept, counted through all its images: (B, k), padded with -1."""
        return self._counted(None)

    @property
    def onward(self) -> Tensor:
        """``kept`` in the order in which the tokens go on."""
        return self._counted(self.source)

    def _counted(self, source: Tensor | None) -> Tensor:
        order = self._candidates().long().cumsum(1) - 1
        order = order if source is None else order.gather(1, source)
        rows = [order[row][chosen] for row, chosen in enumerate(self.chosen)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    def kept_origins(self, row: int, text: bool) -> Tensor:
        """Indices of the kept visual slots of a row in the unreduced sequence, ascending; with its text where asked."""
        alive = self.chosen[row]
        if text:
            alive = alive | (self.ledger.visible[row] & (self.ledger.visual[row] == 0))
        return self.ledger.origin[row][alive]

    def note(self, row: int) -> dict:
        """What the reducer noted about the first image of a row; empty when it noted nothing."""
        for rows, notes in self.notes:
            index = (rows == row).nonzero()
            if len(index):
                return {key: value[index[0, 0]] if isinstance(value, Tensor) else value for key, value in notes.items()}
        return {}

    def _candidates(self) -> Tensor:
        return self.ledger.visual.bool() & self.ledger.visible


@dataclass(frozen=True)
class Reduction:
    """A reduced sequence: hidden states (B, S', D), ledger, record, and where its rows come from.

    ``index`` (B, S'): the slots that are left, None where all are. ``turned`` (B, S'): the slots whose positions they have,
    None where they keep their own.
    """

    hidden: Tensor
    index: Tensor | None
    ledger: Ledger
    record: Record
    turned: Tensor | None = None


@dataclass(frozen=True)
class Entered:
    """A prompt as it enters the first layer: hidden states (B, S', D), ledger, and a record for every stage before.

    ``renumbered``: positions count the rows that are left.
    """

    hidden: Tensor
    ledger: Ledger
    records: list[Record]
    renumbered: bool = False


@dataclass(frozen=True)
class Part:
    """What a reducer has decided about some of G images: ``rows`` (g,), ``kept`` (g, k) ascending, and what they become."""

    rows: Tensor
    kept: Tensor
    merged: Merged


def choose(stage: Stage, tokens: Tensor, evidence: Evidence, k: int | None) -> list[Part]:
    """Ask the reducer about (G, N, D) tokens with a budget ``k`` for each image.

    One part where all images keep the same number, one per number where a reducer lets them differ.
    """
    with unrounded(tokens.device):
        return _choose(stage, tokens, evidence, k)


def unrounded(device: torch.device) -> torch.autocast:
    """No autocast: rounded similarities tie, and a training in mixed precision would not keep what evaluation does."""
    return torch.autocast(device.type, enabled=False)


def _choose(stage: Stage, tokens: Tensor, evidence: Evidence, k: int | None) -> list[Part]:
    images = len(tokens)
    everyone = torch.arange(images, device=tokens.device)
    if k == 0:
        nothing = everyone.new_empty(images, 0)
        return [Part(everyone, nothing, Merged(tokens[:, :0], nothing))]
    picked = stage.reducer.select(tokens, evidence, k)
    if picked.dtype != torch.bool:
        kept = picked.sort(dim=1).values
        return [Part(everyone, kept, _merged(stage, tokens, kept, evidence))]
    counts, parts = picked.sum(1), []
    for count in counts.unique().tolist():
        part = everyone[counts == count]
        kept = picked[part].nonzero()[:, 1].view(len(part), count)
        about = evidence if len(part) == images else evidence.part(part)
        parts.append(Part(part, kept, _merged(stage, tokens[part], kept, about)))
    return parts


def _merged(stage: Stage, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Merged:
    merged = stage.reducer.aggregate(tokens, kept, evidence)
    if isinstance(merged, Merged):
        return merged
    return Merged(merged, kept, None if evidence.sizes is None else evidence.sizes.gather(1, kept))


# ----------------------------------------------------------------------------------------------------- in the decoder


def reduce_sequence(stage: Stage, hidden: Tensor, ledger: Ledger, evidence: LayerEvidence) -> Reduction:
    """Apply a decoder stage to hidden states (B, S, D); rows without an image pass unchanged."""
    chosen = torch.zeros_like(ledger.valid)
    slot = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
    source, size = slot.clone(), ledger.size
    notes, written = [], hidden
    if stage.reducer.merges or stage.place is Place.ZERO_FILL:
        written = hidden.clone()
    for group in evidence.groups():
        about = DecoderEvidence.of(evidence, group)
        # A choice has no gradient; only what merging writes has.
        with torch.set_grad_enabled(torch.is_grad_enabled() and written is not hidden):
            tokens = hidden[group.rows[:, None], group.columns]  # (G, N, D)
            parts = choose(stage, tokens, about, stage.budget(tokens.shape[1]))
        for part in parts:
            rows, columns = group.rows[part.rows][:, None], group.columns[part.rows]
            slots = columns.gather(1, part.kept)  # (g, k)
            chosen[rows, slots] = True
            if stage.place is Place.ZERO_FILL:
                written[rows, columns] = 0
                slots = columns[:, : part.kept.shape[1]]
            elif written is not hidden:
                source[rows, slots] = columns.gather(1, part.merged.origin)
            if written is not hidden:
                written[rows, slots] = part.merged.tokens.to(hidden.dtype)
            if part.merged.sizes is not None:
                size = torch.ones_like(chosen, dtype=torch.float32) if size is None else size.clone()
                size[rows, slots] = part.merged.sizes.float()
        notes.append((group.rows, about.notes))
    turned = None if torch.equal(source, slot) else source
    record = Record(stage, ledger, chosen, notes, source=turned)
    if turned is not None or size is not ledger.size:
        ledger = ledger.standing_for(source, size)
    gone = ledger.visual.bool() & ledger.visible & ~chosen
    if stage.place is Place.ZERO_FILL or not gone.any():
        return Reduction(written, None, ledger, record, turned)
    index, after = ledger.without(gone, shorten=stage.place is Place.DROP)
    if index is None:
        return Reduction(written, None, after, record, turned)
    if stage.positions == "compact":
        after = after.compacted()
    shorter = written.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))
    return Reduction(shorter, index, after, record, None if turned is None else turned.gather(1, index))


# ------------------------------------------------------------------------------------------------- before the decoder


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
