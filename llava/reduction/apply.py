"""Stages at work: the only callers of a reducer, at the pixels, before the decoder and inside it.

Shapes: B batch, S sequence, G images of one length, N their tokens, k kept, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .evidence import Evidence, LayerEvidence, Need
from .ledger import Ledger
from .stage import Place, Site, Stage


@dataclass(frozen=True)
class Record:
    """What one stage did in one prefill.

    ``ledger`` is the sequence as it came in, ``chosen`` (B, S) the visual slots that were kept. At the sites before the
    language model a row is an image (at the features a crop) and the sequence is its tokens. ``remarks`` says what a reader
    of the trace should know besides, such as a knob that the prompt contradicts.
    """

    stage: Stage
    ledger: Ledger
    chosen: Tensor
    notes: list[tuple[Tensor, dict]] = field(default_factory=list)
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The method's name."""
        return self.stage.name

    @property
    def site(self) -> Site:
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
        order = self._candidates().long().cumsum(1) - 1
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
    """A reduced sequence: hidden states (B, S', D), the index (B, S') that shortened it (None if kept), ledger, record."""

    hidden: Tensor
    index: Tensor | None
    ledger: Ledger
    record: Record


def choose(stage: Stage, tokens: Tensor, evidence: Evidence, k: int | None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Ask the reducer about (G, N, D) tokens: a list of (which of the G, kept (g, k) ascending, merged (g, k, D)).

    ``k``: the budget of each image. One entry where all images keep the same number, one per number where a reducer lets
    them differ.
    """
    images = len(tokens)
    everyone = torch.arange(images, device=tokens.device)
    if k == 0:
        return [(everyone, everyone.new_empty(images, 0), tokens[:, :0])]
    picked = stage.reducer.select(tokens, evidence, k)
    if picked.dtype != torch.bool:
        kept = picked.sort(dim=1).values
        return [(everyone, kept, stage.reducer.aggregate(tokens, kept, evidence))]
    counts, parts = picked.sum(1), []
    for count in counts.unique().tolist():
        part = everyone[counts == count]
        kept = picked[part].nonzero()[:, 1].view(len(part), count)
        about = evidence if len(part) == images else evidence.part(part)
        parts.append((part, kept, stage.reducer.aggregate(tokens[part], kept, about)))
    return parts


def reduce_sequence(stage: Stage, hidden: Tensor, ledger: Ledger, evidence: LayerEvidence) -> Reduction:
    """Apply a decoder stage to hidden states (B, S, D); rows without an image pass unchanged."""
    chosen = torch.zeros_like(ledger.valid)
    notes, written = [], hidden
    if stage.reducer.merges or stage.place is Place.ZERO_FILL:
        written = hidden.clone()
    for group in ledger.groups():
        tokens = hidden[group.rows[:, None], group.columns]  # (G, N, D)
        about = evidence.of(group)
        for part, kept, merged in choose(stage, tokens, about, stage.budget(tokens.shape[1])):
            rows, columns = group.rows[part][:, None], group.columns[part]
            slots = columns.gather(1, kept)  # (g, k)
            chosen[rows, slots] = True
            if stage.place is Place.ZERO_FILL:
                written[rows, columns] = 0
                slots = columns[:, : kept.shape[1]]
            if written is not hidden:
                written[rows, slots] = merged.to(hidden.dtype)
        notes.append((group.rows, about.notes))
    record = Record(stage, ledger, chosen, notes)
    gone = ledger.visual.bool() & ledger.visible & ~chosen
    if stage.place is Place.ZERO_FILL or not gone.any():
        return Reduction(written, None, ledger, record)
    index, after = ledger.without(gone, shorten=stage.place is Place.DROP)
    if index is None:
        return Reduction(written, None, after, record)
    if stage.positions == "compact":
        after = after.compacted()
    return Reduction(written.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1])), index, after, record)


def reduce_pixels(plan: list[Stage], pixels: Tensor, patch: int) -> Tensor:
    """Apply a plan's stages at the pixels (G, 3, H, W), whose sides are whole numbers of patches before and after."""
    for stage in plan:
        if stage.site == "pixels":
            tokens = pixels.shape[-2] // patch * (pixels.shape[-1] // patch)
            pixels = stage.reducer.shrink(pixels, patch, stage.budget(tokens))
    return pixels


def reduce_images(
    plan: list[Stage],
    site: Site,
    images: list[Tensor],
    grid: tuple[int, int] | None,
    seeds: Tensor,
    question: tuple[Tensor, Tensor] | None = None,
    pictures: Sequence[int] | None = None,
) -> tuple[list[Tensor], list[Record]]:
    """Apply a plan's stages of one site before the language model to each image's tokens (n, D).

    ``grid`` (h, w) is how the tokens of an image with h * w of them lie on the picture, ``seeds`` (G,) a number for each,
    ``question`` the words asked about each, as in ``Evidence``. ``pictures``: for crops, the number of the picture that
    each belongs to, whose crops share a budget unless the stage says ``per="crop"``; None: each is a picture.
    Returns the reduced images, (k, D) each, and a record a stage, whose rows are the images, padded on the right.
    """
    records = []
    for stage in plan:
        if stage.site == site:
            images, record = _reduce_images(stage, images, grid, seeds, question, pictures)
            records.append(record)
    return images, records


def _reduce_images(
    stage: Stage,
    images: list[Tensor],
    grid: tuple[int, int] | None,
    seeds: Tensor,
    question: tuple[Tensor, Tensor] | None,
    pictures: Sequence[int] | None,
) -> tuple[list[Tensor], Record]:
    lengths = [len(image) for image in images]
    columns = torch.arange(max(lengths, default=0), device=seeds.device)
    valid = columns < torch.tensor(lengths, device=seeds.device)[:, None]
    ledger = Ledger.start(valid.long(), valid, columns)
    chosen, reduced, notes = torch.zeros_like(valid), list(images), []
    for (length, budget), members in _alike(stage, lengths, pictures).items():
        rows = torch.tensor(members, device=seeds.device)
        tokens = torch.stack([images[row] for row in members])  # (G, N, D)
        about = Evidence(
            seeds=seeds[rows],
            grid=grid if grid and grid[0] * grid[1] == length else None,
            question=question and (question[0][rows], question[1][rows]),
        )
        if Need.GRID in stage.reducer.needs and about.grid is None:
            raise ValueError(
                f"{stage} needs the arrangement of the tokens on the picture, but these {length} tokens have none (a picture"
                " of several crops, or an earlier stage); put it at site='features' as the first stage"
            )
        for part, kept, merged in choose(stage, tokens, about, budget):
            chosen[rows[part][:, None], kept] = True
            for row, image in zip(rows[part].tolist(), merged.to(tokens.dtype)):
                reduced[row] = image
        notes.append((rows, about.notes))
    return reduced, Record(stage, ledger, chosen, notes)


def _alike(stage: Stage, lengths: list[int], pictures: Sequence[int] | None) -> dict[tuple[int, int | None], list[int]]:
    """The images of one length and one budget: which they are, by both."""
    owners = range(len(lengths)) if pictures is None else pictures
    if len(owners) != len(lengths):
        raise ValueError(f"pictures has {len(owners)} entries for {len(lengths)} crops; give the picture of each crop")
    crops: dict[int, list[int]] = {}
    for row, owner in enumerate(owners):
        crops.setdefault(owner, []).append(row)
    alike: dict[tuple[int, int | None], list[int]] = {}
    for rows in crops.values():
        for row, budget in zip(rows, stage.shares([lengths[row] for row in rows])):
            alike.setdefault((lengths[row], budget), []).append(row)
    return alike
