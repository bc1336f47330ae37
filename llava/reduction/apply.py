"""A stage at work: its reducer is asked, and inside the decoder the sequence is reduced.

Shapes: B batch, S sequence, G images of one length, N their tokens, k kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .aggregate import Merged
from .evidence import DecoderEvidence, Evidence, LayerEvidence
from .ledger import Ledger
from .record import Record
from .stage import Place, Stage


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
