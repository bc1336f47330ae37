"""Stages before the decoder on a stock model: they choose from what the tower saw, and act where the tokens enter.

By the time they run the host has put every token into the prompt, so its checks of placeholders hold, and nothing
before the first layer is replaced.

Shapes: B rows, S positions, N tokens of a part of a picture, D the language model's width, V the tower's width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from torch import Tensor, nn

from llava.reduction import Ledger, Record, Stage
from llava.reduction.apply import Entered
from llava.reduction.evidence import mixed_seed
from llava.reduction.views import Views, reduce_images

from .call import Sight
from .families import Host
from .seen import Region, SeenParts


@dataclass(eq=False)
class Entry:
    """The stages of a plan before the decoder, for one forward.

    projector: makes a token of each feature (V), None where several features make one; features: what went into it, (crops,
    N, V) per call. compact: positions count the rows that are left.
    """

    plan: list[Stage]
    host: Host | None
    projector: nn.Module | None
    features: list[Tensor]
    sights: list[Sight]
    tower: SeenParts | None
    compact: bool

    def __call__(self, ledger: Ledger, hidden: Tensor) -> Entered:
        """What enters the first layer in place of the whole prompt (B, S, D)."""
        if not self.sights:
            return Entered(hidden, ledger, [])
        places = self._places(hidden.device)
        slots, rows = [columns for _, columns, _ in places], [sight.row for sight, _, _ in places]
        # A choice has no gradient; only what merging writes has.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._merges):
            views, records = self._chosen(ledger, hidden, places)
        return self._written(ledger, hidden, slots, rows, views, records)

    @property
    def _merges(self) -> bool:
        return any(stage.reducer.merges for stage in self.plan if stage.site != "layer")

    def _chosen(
        self, ledger: Ledger, hidden: Tensor, places: list[tuple[Sight, Tensor, int]]
    ) -> tuple[Views, list[Record]]:
        """What the stages leave of every part of every picture, and what they did."""
        views = Views(
            tokens=[hidden[sight.row, columns] for sight, columns, _ in places],
            seeds=torch.tensor([mixed_seed(s.seed, part) for s, _, part in places], device=hidden.device),
            grid=[sight.layout.grids[part] for sight, _, part in places],
            question=self._question(ledger, hidden, [sight for sight, _, _ in places]),
            owners=[self.sights.index(sight) for sight, _, _ in places],
            tower=self.tower,
        )
        views, records = self._from_features(views)
        views, projected = reduce_images(self.plan, "projected", views)
        views, prompt = self._whole(views)
        return views, records + projected + prompt

    def _places(self, device: torch.device) -> list[tuple[Sight, Tensor, int]]:
        """Every part of every picture: whose it is, the columns (N,) of its tokens, its number."""
        places = []
        for sight in self.sights:
            for part in range(len(sight.layout.grids)):
                columns = sight.columns[sight.layout.part == part]
                if len(columns):
                    places.append((sight, columns.to(device), part))
        return places

    def _question(self, ledger: Ledger, hidden: Tensor, sights: list[Sight]) -> tuple[Tensor, Tensor]:
        """The embeddings (G, T, D) of what is asked about each part of a picture, and which are real (G, T)."""
        words = []
        for sight in sights:
            slot = torch.arange(hidden.shape[1], device=hidden.device)
            turn = ledger.turn[sight.row]
            asked = (slot > int(sight.columns[-1])) & ledger.valid[sight.row] & (ledger.visual[sight.row] == 0)
            words.append(hidden[sight.row, asked & (turn <= turn[int(sight.columns[-1])])].detach())
        real = [torch.ones(len(part), dtype=torch.bool, device=hidden.device) for part in words]
        pad = nn.utils.rnn.pad_sequence
        return pad(words, batch_first=True), pad(real, batch_first=True)

    def _from_features(self, views: Views) -> tuple[Views, list[Record]]:
        """The stages at the features: their tokens are the projector's input where one token is one feature."""
        stages = [stage for stage in self.plan if stage.site == "features"]
        if not stages:
            return views, []
        projector = self.projector if self.features else None
        merging = [stage for stage in stages if stage.reducer.merges]
        if merging and projector is None:
            raise ValueError(
                f"{merging[0]} merges tokens before the projector, but this host ({self.host and self.host.name}) makes a token of"
                f" several features at once; write {merging[0].name}@projected, or a method that keeps tokens as they are"
            )
        features = self._features() if projector is not None else views.tokens
        after, records = reduce_images(self.plan, "features", replace(views, tokens=features))
        if merging:
            assert projector is not None
            lengths = [len(tokens) for tokens in after.tokens]
            tokens = list(projector(torch.cat(after.tokens)).split(lengths))
        else:
            tokens = [whole[origin] for whole, origin in zip(views.tokens, _origins(after))]
        return replace(after, tokens=[token.to(views.tokens[0].dtype) for token in tokens]), records

    def _features(self) -> list[Tensor]:
        """The features (N, V) that became the tokens of every part."""
        crops = torch.cat([features.flatten(0, -3) for features in self.features])
        tokens = []
        for sight in self.sights:
            layout = sight.layout
            for part in range(len(layout.grids)):
                here = (layout.part == part).to(crops.device)
                if here.any():
                    crop = layout.crop.to(crops.device)[here] + sight.first_crop
                    tokens.append(crops[crop, layout.cell.to(crops.device)[here]])
        return tokens

    def _whole(self, views: Views) -> tuple[Views, list[Record]]:
        """The stages at the prompt, where a picture is all its parts together."""
        if not any(stage.site == "prompt" for stage in self.plan):
            return views, []
        owners = list(views.owners or [])
        members = [[part for part, owner in enumerate(owners) if owner == number] for number in range(len(self.sights))]
        lengths = [[len(views.tokens[part]) for part in parts] for parts in members]
        first = [parts[0] for parts in members]
        grids = views.grid if isinstance(views.grid, list) else [None] * len(owners)
        pictures = Views(
            tokens=[torch.cat([views.tokens[part] for part in parts]) for parts in members],
            seeds=views.seeds[first],
            grid=[grids[parts[0]] if len(parts) == 1 else None for parts in members],
            question=views.question and (views.question[0][first], views.question[1][first]),
            sizes=None if views.sizes is None else [torch.cat([views.sizes[part] for part in p]) for p in members],
        )
        after, records = reduce_images(self.plan, "prompt", pictures)
        tokens, origins, sizes = list(views.tokens), _origins(views), list(views.sizes or [])
        for number, parts in enumerate(members):
            start = 0
            for part, length in zip(parts, lengths[number]):
                here = (_origins(after)[number] >= start) & (_origins(after)[number] < start + length)
                tokens[part] = after.tokens[number][here]
                origins[part] = origins[part][_origins(after)[number][here] - start]
                if after.sizes is not None:
                    sizes = sizes or [token.new_ones(0) for token in tokens]
                    sizes[part] = after.sizes[number][here]
                start += length
        return replace(views, tokens=tokens, origins=origins, sizes=sizes or None), records

    def _written(
        self, ledger: Ledger, hidden: Tensor, slots: list[Tensor], rows: list[int], views: Views, records: list[Record]
    ) -> Entered:
        """The prompt with the tokens that are left, each in the place that it stands for."""
        kept = torch.zeros_like(ledger.valid)
        written = hidden.clone() if self._merges else hidden
        size = None if views.sizes is None else torch.ones_like(kept, dtype=torch.float32)
        for number, (row, columns, origin) in enumerate(zip(rows, slots, _origins(views))):
            kept[row, columns[origin]] = True
            if self._merges:
                written[row, columns[origin]] = views.tokens[number].to(hidden.dtype)
            if size is not None and views.sizes is not None:
                size[row, columns[origin]] = views.sizes[number].float()
        gone = ledger.visual.bool() & ~kept
        if size is not None:
            ledger = replace(ledger, size=size)
        if not gone.any():
            return Entered(written, ledger, records)
        index, after = ledger.without(gone, shorten=True)
        assert index is not None
        if self.compact:
            after = after.compacted()
        return Entered(
            written.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1])), after, records, self.compact
        )


def _origins(views: Views) -> list[Tensor]:
    if views.origins is not None:
        return list(views.origins)
    return [torch.arange(len(tokens), device=views.seeds.device) for tokens in views.tokens]


def regions(sights: list[Sight]) -> tuple[list[Region], list[int]]:
    """Every part of every picture on the crops of the tower, and the number of tokens of each crop."""
    parts = []
    for sight in sights:
        layout = sight.layout
        for part in range(len(layout.grids)):
            here = layout.part == part
            if here.any():
                parts.append(Region(layout.crop[here] + sight.first_crop, layout.cell[here]))
    crops = {sight.first_crop: sight.layout for sight in sights}  # beams share their crops
    return parts, [layout.cells for _, layout in sorted(crops.items(), key=itemgetter(0)) for _ in range(layout.crops)]
