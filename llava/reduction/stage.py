"""The contract: a reducer selects and aggregates, a stage says where and how many, ``reduce_*`` apply it.

The functions here are the only callers of a reducer. A reducer never sees the sequence, the mask, the cache, padding or
the loop over the batch: it is given G images of N tokens each and answers with which to keep.

Shapes: B batch, S sequence, G images of one length, N their tokens, k kept, D width.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from .aggregate import gather
from .evidence import SITE_GIVES, Evidence, LayerEvidence, Need
from .ledger import Ledger

Site = Literal["pixels", "features", "prompt", "layer"]
Positions = Literal["original", "compact"]


class Place(StrEnum):
    """What becomes of the tokens that are not kept."""

    DROP = "drop"  # the sequence gets shorter: the one that saves
    MASK = "mask"  # hidden as keys, computed all the same: saves nothing, for comparison
    ZERO_FILL = "zero_fill"  # kept ones first, zeros after, length kept: saves nothing and is not neutral


class Reducer(nn.Module):
    """A method of visual-token reduction. Subclass, write ``select`` (at the pixels ``shrink``), and register a name.

    ``needs`` is the evidence it asks for, ``sites`` where it may stand (the first is the default), ``layer`` the default
    decoder layer, ``merges`` whether ``aggregate`` does more than gather, ``wants_keep`` whether a budget must be given,
    ``least_keep`` the smallest, ``keeps_all_beyond`` whether one above the number of tokens keeps them all instead of being an error.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    sites: ClassVar[tuple[Site, ...]] = ("features", "prompt", "layer")
    default_layer: ClassVar[int | None] = None
    merges: ClassVar[bool] = False
    wants_keep: ClassVar[bool] = True
    least_keep: ClassVar[int] = 0
    keeps_all_beyond: ClassVar[bool] = False

    def select(self, tokens: Tensor, evidence: Evidence, k: int | None) -> Tensor:
        """Which of ``tokens`` (G, N, D) to keep: (G, k) indices in any order, or (G, N) bool where images may differ."""
        raise NotImplementedError

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        """What the kept tokens (ascending indices (G, k)) become: (G, k, D)."""
        return gather(tokens, kept)

    def left(self, tokens: int, k: int | None) -> int:
        """How many of ``tokens`` stay under a budget; at most, where the pictures decide."""
        return tokens if k is None else k

    def shrink(self, pixels: Tensor, patch: int, k: int) -> Tensor:
        """What pixels (G, 3, H, W) become so that a tower with such patches makes at most ``k`` tokens of each."""
        raise NotImplementedError

    def flops(self, rows: int, tokens: int, kept: int, width: int) -> float:
        """Floating-point operations of one selection over ``tokens`` of a sequence of ``rows``."""
        return 0.0

    def options(self) -> dict[str, object]:
        """The constructor arguments that differ from their defaults, as the short spelling writes them."""
        arguments = inspect.signature(type(self).__init__).parameters.values()
        values = {argument: getattr(self, argument.name, argument.default) for argument in arguments}
        return {
            argument.name: str(value).lower() if isinstance(value, bool) else value
            for argument, value in values.items()
            if value != argument.default and not isinstance(value, nn.Module)
        }


@dataclass(frozen=True)
class Stage:
    """One reduction: a reducer at a site, with a budget and a placement.

    ``keep`` is a count, a fraction of the tokens that arrive (a float in [0, 1]) or None where the reducer decides; the
    budget holds for each image by itself. ``layer`` K (site "layer"): layers 0..K-1 see all tokens, K and after see the
    kept ones. ``positions``: survivors keep their rotary positions ("original") or are counted anew ("compact").
    """

    reducer: Reducer
    site: Site
    layer: int | None = None
    keep: int | float | None = None
    place: Place = Place.DROP
    positions: Positions = "original"

    def __post_init__(self) -> None:
        name = self.reducer.name
        if self.site not in get_args(Site):
            raise ValueError(f"site={self.site!r} of {name} is unknown; choose one of {', '.join(get_args(Site))}")
        if self.site not in self.reducer.sites:
            raise ValueError(f"{name} cannot stand at site={self.site!r}; it can at {', '.join(self.reducer.sites)}")
        missing = self.reducer.needs - SITE_GIVES[self.site]
        if missing:
            raise ValueError(
                f"{name} needs {', '.join(need.value for need in missing)}, which site={self.site!r} lacks"
            )
        if self.site == "layer":
            if self.layer is None:
                raise ValueError(f"{name} stands in the decoder but no layer is given; write {name}@2:{self.keep}")
            if not isinstance(self.layer, int) or isinstance(self.layer, bool) or self.layer < 1:
                raise ValueError(
                    f"layer={self.layer!r} of {name} must be a whole number of at least 1: the scores of layer K come from"
                    " layer K-1 (before layer 0 there is none; use site='prompt')"
                )
        elif self.layer is not None:
            raise ValueError(f"layer={self.layer!r} of {name} has no meaning at site={self.site!r}; leave it out")
        if self.reducer.wants_keep:
            check_keep(self.keep, name, self.reducer.least_keep)
        try:
            object.__setattr__(self, "place", Place(self.place))
        except ValueError:
            allowed = ", ".join(place.value for place in Place)
            raise ValueError(f"place={self.place!r} of {name} is unknown; choose one of {allowed}") from None
        if self.positions not in get_args(Positions):
            raise ValueError(f"positions={self.positions!r} of {name} is unknown; choose 'original' or 'compact'")
        if self.place is not Place.DROP and (self.site != "layer" or self.positions == "compact"):
            raise ValueError(
                f"place={self.place.value!r} of {name} keeps the length, which only a decoder layer with"
                " positions='original' can; use place='drop'"
            )

    @property
    def name(self) -> str:
        return self.reducer.name

    def __str__(self) -> str:
        """The short spelling, which ``plan_from`` reads back."""
        where = (
            f"@{self.layer}" if self.site == "layer" else f"@{self.site}" if self.site != self.reducer.sites[0] else ""
        )
        changed = dict(self.reducer.options())
        if self.place is not Place.DROP:
            changed["place"] = self.place.value
        if self.positions != "original":
            changed["positions"] = self.positions
        keep = [] if self.keep is None else [f"{self.keep:g}" if isinstance(self.keep, float) else str(self.keep)]
        if isinstance(self.keep, float) and self.keep.is_integer():
            keep = [f"{self.keep:.1f}"]
        parts = ",".join(keep + [f"{key}={value}" for key, value in changed.items()])
        return f"{self.name}{where}" + (f":{parts}" if parts else "")


def is_number(value: object) -> bool:
    """Whether it is an int or a float; true, false and NaN are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def check_keep(keep: object, name: str, least: int = 0) -> None:
    """Refuse a budget that is no count of at least ``least`` and no fraction."""
    if not is_number(keep) or keep < (least if isinstance(keep, int) else 0):
        raise ValueError(
            f"keep={keep!r} of {name} must be a count of at least {least} or a fraction between 0.0 and 1.0"
        )
    if isinstance(keep, float) and keep > 1:
        raise ValueError(f"keep={keep!r} of {name} is a fraction above 1; give a whole number for a count")


@dataclass(frozen=True)
class Record:
    """What one stage did in one prefill.

    ``ledger`` is the sequence as it came in, ``chosen`` (B, S) the visual slots that were kept. At the sites before the
    language model a row is an image and the sequence is its tokens.
    """

    stage: Stage
    ledger: Ledger
    chosen: Tensor
    notes: list[tuple[Tensor, dict]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def site(self) -> Site:
        return self.stage.site

    @property
    def layer(self) -> int | None:
        return self.stage.layer

    @property
    def place(self) -> Place:
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
            place = (rows == row).nonzero()
            if len(place):
                return {key: value[place[0, 0]] if isinstance(value, Tensor) else value for key, value in notes.items()}
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


def choose(stage: Stage, tokens: Tensor, evidence: Evidence) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Ask the reducer about (G, N, D) tokens: a list of (which of the G, kept (g, k) ascending, merged (g, k, D)).

    One entry where all images keep the same number, one per number where a reducer lets them differ.
    """
    images, length, _ = tokens.shape
    picked = stage.reducer.select(tokens, evidence, budget(stage, length))
    everyone = torch.arange(images, device=tokens.device)
    if picked.dtype == torch.bool:
        counts = picked.sum(1)
        parts = [everyone[counts == count] for count in counts.unique().tolist()]
        kept = [picked[part].nonzero()[:, 1].view(len(part), -1) for part in parts]
    else:
        parts, kept = [everyone], [picked.sort(dim=1).values]
    return [(part, index, stage.reducer.aggregate(tokens[part], index, evidence)) for part, index in zip(parts, kept)]


def budget(stage: Stage, length: int) -> int | None:
    """How many of ``length`` tokens a stage keeps; None where its reducer decides."""
    if stage.keep is None:
        return None
    if isinstance(stage.keep, float):
        return max(stage.reducer.least_keep, round(length * stage.keep))
    if stage.keep > length and stage.reducer.keeps_all_beyond:
        return length
    if stage.keep > length:
        raise ValueError(
            f"keep={stage.keep} of {stage} exceeds the {length} image tokens that arrive there;"
            f" give keep<={length} or a fraction"
        )
    return stage.keep


def tokens_left(plan: list[Stage], tokens: int, layers: int) -> list[int]:
    """Visual tokens in each of ``layers`` decoder layers when a picture of ``tokens`` meets a plan, before anything runs.

    Where the pictures decide how many are kept it is the most that can be. Raises ValueError for a budget above what arrives.
    """
    entering, left = [], tokens
    for layer in range(layers):
        for stage in plan:
            if (stage.layer or 0) == layer and stage.place is Place.DROP:
                left = stage.reducer.left(left, budget(stage, left))
        entering.append(left)
    return entering


def reduce_sequence(stage: Stage, hidden: Tensor, ledger: Ledger, evidence: LayerEvidence) -> Reduction:
    """Apply a decoder stage to hidden states (B, S, D); rows without an image pass unchanged."""
    chosen = torch.zeros_like(ledger.valid)
    notes, written = [], hidden
    if stage.reducer.merges or stage.place is Place.ZERO_FILL:
        written = hidden.clone()
    for group in ledger.groups():
        tokens = hidden[group.rows[:, None], group.columns]  # (G, N, D)
        about = evidence.of(group)
        for part, kept, merged in choose(stage, tokens, about):
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
            pixels = stage.reducer.shrink(pixels, patch, budget(stage, tokens))
    return pixels


def reduce_images(
    plan: list[Stage],
    site: Site,
    images: list[Tensor],
    grid: tuple[int, int] | None,
    seeds: Tensor,
    question: tuple[Tensor, Tensor] | None = None,
) -> tuple[list[Tensor], list[Record]]:
    """Apply a plan's stages of one site before the language model to each image's tokens (n, D).

    ``grid`` (h, w) is how the tokens of an image with h * w of them lie on the picture, ``seeds`` (G,) a number for each,
    ``question`` the words asked about each, as in ``Evidence``.
    Returns the reduced images, (k, D) each, and a record a stage, whose rows are the images, padded on the right.
    """
    records = []
    for stage in plan:
        if stage.site == site:
            images, record = _reduce_images(stage, images, grid, seeds, question)
            records.append(record)
    return images, records


def _reduce_images(
    stage: Stage,
    images: list[Tensor],
    grid: tuple[int, int] | None,
    seeds: Tensor,
    question: tuple[Tensor, Tensor] | None,
) -> tuple[list[Tensor], Record]:
    lengths = torch.tensor([len(image) for image in images], device=seeds.device)
    places = torch.arange(int(lengths.max()) if images else 0, device=seeds.device)
    valid = places < lengths[:, None]
    ledger = Ledger.start(valid.long(), valid, places)
    chosen, reduced, notes = torch.zeros_like(valid), list(images), []
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        tokens = torch.stack([images[row] for row in rows.tolist()])  # (G, N, D)
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
        for part, kept, merged in choose(stage, tokens, about):
            chosen[rows[part][:, None], kept] = True
            for row, image in zip(rows[part].tolist(), merged.to(tokens.dtype)):
                reduced[row] = image
        notes.append((rows, about.notes))
    return reduced, Record(stage, ledger, chosen, notes)
