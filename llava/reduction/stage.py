"""The contract: a reducer selects and aggregates, a stage says where, how many, and what becomes of the rest.

A reducer never sees the sequence, the mask, the cache, padding or the loop over the batch: it is given G images of N tokens
each and answers with which to keep. ``apply`` and ``views`` are its callers.

Shapes: B batch, S sequence, G images of one length, N their tokens, k kept, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from .aggregate import Merged, gather
from .checks import check_choice, is_number, is_whole, shown
from .evidence import SITE_GIVES, Evidence, Need, Site
from .schedule import TOKENS
from .spelling import spell_value

Where = Literal[Site, "schedule"]  # several stages under one name, which ``plan.spelled_out`` writes out
Positions = Literal["original", "compact"]
Per = Literal["image", "crop"]

BATCHED_SITES: tuple[Site, ...] = ("pixels", "tower")  # where all crops of a batch are of one size
CROP_SITES: tuple[Site, ...] = ("features", "projected")  # where a picture is still its crops, of any sizes


class Place(StrEnum):
    """What becomes of the tokens that are not kept."""

    DROP = "drop"  # the sequence gets shorter: the one that saves
    MASK = "mask"  # hidden as keys, computed all the same: saves nothing, for comparison
    ZERO_FILL = "zero_fill"  # kept ones first, zeros after, length kept: saves nothing and is not neutral


class Reducer(nn.Module):
    """A method of visual-token reduction. Subclass, write ``select`` (at the pixels ``shrink``, in the tower ``merge_in_tower``),
    and register a name.

    ``needs``: the evidence it asks for. ``sites``: where it may stand, the first by default. ``default_layer``: its decoder
    layer where none is given. ``merges``: ``aggregate`` does more than gather. ``wants_keep``: a budget must be given;
    False: the reducer decides and a budget is refused. ``adaptive``: the pictures decide how many are kept, at most the
    budget. ``least_keep``: the smallest budget. ``keeps_all_beyond``: a budget above the number of tokens keeps them all
    instead of being an error. ``default_positions``: what survivors' positions become where nothing is said.
    ``scheduled``: the name alone stands for several stages, which ``schedule`` gives. ``looks_back``: how many decoder
    layers before its own it reads the attention of. ``tower_layers``: the layers of the tower whose attention or keys
    it reads. ``shares_crops``: ``shares`` divides a picture's budget among its crops. ``needs``, ``adaptive``,
    ``looks_back`` and ``tower_layers`` may be set on an instance, where an option decides. Constructor arguments are
    attributes of the same names: that is how a stage is spelled and compared.
    """

    name: ClassVar[str]
    needs: frozenset[Need] = frozenset()
    sites: ClassVar[tuple[Site, ...]] = ("features", "projected", "prompt", "layer")
    default_layer: ClassVar[int | None] = None
    merges: ClassVar[bool] = False
    wants_keep: ClassVar[bool] = True
    adaptive: bool = False
    least_keep: ClassVar[int] = 0
    keeps_all_beyond: ClassVar[bool] = False
    default_positions: ClassVar[Positions] = "original"
    scheduled: ClassVar[bool] = False
    shares_crops: ClassVar[bool] = False
    weighs_sizes: bool = True  # in the tower: keys of merged tokens gain log size
    in_raster_order: bool = True  # of the tokens that leave the tower
    looks_back: int = 1
    tower_layers: tuple[int, ...] = ()
    weights: str | None = None  # the folder of a trained module, where the method has one

    def __init__(self) -> None:
        super().__init__()

    def select(self, tokens: Tensor, evidence: Evidence, k: int | None) -> Tensor:
        """Which of ``tokens`` (G, N, D) to keep: (G, k) indices in any order, or (G, N) bool where images may differ.

        ``k`` is None for a method that takes no budget. ``evidence`` is about these G images.
        """
        raise NotImplementedError

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor | Merged:
        """What the kept tokens (ascending indices (G, k)) become: (G, k, D), or ``Merged`` in another order or with sizes.

        Where images keep different numbers it is called once per number, with those images' tokens and evidence.
        """
        return gather(tokens, kept)

    def needs_at(self, site: Where) -> frozenset[Need]:
        """The evidence it asks for at a site; ``needs`` wherever it stands, unless a method says otherwise."""
        return self.needs

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        """The stages that the name alone stands for, with a budget ``keep``, in a decoder of ``layers`` layers."""
        raise NotImplementedError

    def shares(self, budget: int, evidence: Evidence) -> list[int]:
        """How the budget of one picture is divided among its G crops, which the evidence is about."""
        raise NotImplementedError

    def left(self, tokens: int, k: int | None) -> int:
        """How many of ``tokens`` stay under a budget; at most, where the pictures decide."""
        return tokens if k is None else k

    def shrink(self, pixels: Tensor, patch: int, k: int | None) -> Tensor:
        """What pixels (G, 3, H, W) become so that a tower with such patches makes at most ``k`` tokens of each."""
        raise NotImplementedError

    def tower_steps(self, tokens: int, keep: int, layers: int) -> list[int]:
        """How many tokens each of the tower's ``layers`` layers merges away, so that ``keep`` of ``tokens`` are left."""
        raise NotImplementedError

    def merge_in_tower(self, tokens: Tensor, keys: Tensor, sizes: Tensor, count: int, protected: int) -> Merged:
        """What a layer of the tower goes on with: ``count`` rows fewer than (G, n, V), given keys (G, n, d), sizes (G, n).

        The first ``protected`` rows, the class token, stay in front.
        """
        raise NotImplementedError

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        """Floating-point operations of one selection over an image's ``tokens``, in a sequence of ``rows``.

        ``text``: how many of the rows are text after the image; None: all that are not the image's.
        """
        return 0.0

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        """Operations of what one selection before the language model reads from the tower beyond its features.

        ``patches``: of one crop in the tower; ``width``: of its rows. What is computed from the tokens is in ``flops``.
        """
        return 0.0

    def options(self) -> dict[str, object]:
        """The constructor arguments that differ from their defaults, without the modules among them."""
        arguments = inspect.signature(type(self).__init__).parameters.values()
        values = {argument: getattr(self, argument.name, argument.default) for argument in arguments}
        return {
            argument.name: value
            for argument, value in values.items()
            if value != argument.default and not isinstance(value, nn.Module)
        }


@dataclass(frozen=True, eq=False)
class Stage:
    """One reduction: a reducer at a site, with a budget and a placement.

    ``keep`` is a count, a share of the tokens that arrive (a float in [0, 1]) or None where the reducer decides. It holds
    for each image separately. ``per``: what a budget before the language model is for. "image" (default) shares it
    evenly among the crops of a picture, "crop" gives it to each; at the pixels and in the tower only "crop" is
    possible, since all crops of a batch pass the tower in one size. ``layer`` K (site "layer"): layers 0..K-1 see all
    tokens, K and after see the kept ones. Site "schedule": the several stages that a method's name alone stands for.
    ``positions``: survivors keep their rotary positions ("original") or are numbered again ("compact").

    Stages are equal when they do the same: the same method, options, trained module and budget at the same place.
    Raises ValueError for impossible values, naming the argument.
    """

    reducer: Reducer
    site: Where
    layer: int | None = None
    keep: int | float | None = None
    place: Place = Place.DROP
    positions: Positions = "original"
    per: Per | None = None

    def __post_init__(self) -> None:
        self._check_site()
        self._check_layer()
        self._check_budget()
        self._check_placement()

    def _check_site(self) -> None:
        name = self.reducer.name
        if self.site == "schedule":
            if not self.reducer.scheduled:
                raise ValueError(f"{name} is one stage, not several; it can stand at {', '.join(self.reducer.sites)}")
            return
        if self.site not in get_args(Site):
            raise ValueError(f"site={shown(self.site)} of {name} is unknown; choose one of {', '.join(get_args(Site))}")
        if self.site not in self.reducer.sites:
            own = (
                ""
                if self.reducer.scheduled
                else f", as in {name}@{self.reducer.default_layer or self.reducer.sites[0]}"
            )
            own = own.replace("@layer", "@2")
            raise ValueError(
                f"{name} cannot stand at site={self.site!r}; it can at {', '.join(self.reducer.sites)}{own}"
            )
        missing = self.needs - SITE_GIVES[self.site]
        if missing:
            fitting = [site for site in self.reducer.sites if self.reducer.needs_at(site) <= SITE_GIVES[site]]
            raise ValueError(
                f"{name} needs {', '.join(need.value for need in missing)}, which site={self.site!r} lacks"
                + (f"; with these options it can stand at {', '.join(fitting)}" if fitting else "")
            )

    def _check_layer(self) -> None:
        name = self.reducer.name
        if self.site != "layer":
            if self.layer is not None:
                raise ValueError(
                    f"layer={shown(self.layer)} of {name} has no meaning at site={self.site!r}; leave it out"
                )
        elif self.layer is None:
            raise ValueError(f"{name} stands in the decoder but no layer is given; write {name}@2:{self.keep}")
        elif not is_whole(self.layer) or self.layer < 1:
            raise ValueError(
                f"layer={shown(self.layer)} of {name} must be a whole number of at least 1: the scores of layer K come"
                " from layer K-1 (before layer 0 there is none; use site='prompt')"
            )

    def _check_budget(self) -> None:
        name = self.reducer.name
        if self.site == "schedule" and self.keep is None:
            pass
        elif self.site == "schedule" and is_whole(self.keep) and self.keep > TOKENS:
            raise ValueError(
                f"keep={self.keep} of {name}: its schedule is for pictures of {TOKENS} tokens; give keep<={TOKENS}, a"
                f" fraction, or one stage in a layer such as {name}@{self.reducer.default_layer or 2}"
            )
        elif self.reducer.wants_keep:
            check_keep(self.keep, name, self.reducer.least_keep)
        elif self.keep is not None:
            raise ValueError(f"keep={shown(self.keep)} of {name}: {name} takes no budget; leave it out")
        if self.per is None:
            object.__setattr__(self, "per", "crop" if self.site in BATCHED_SITES else "image")
        check_choice("per", self.per, get_args(Per))
        if self.per == "image" and self.site in BATCHED_SITES:
            raise ValueError(f"per='image' of {name}: at site={self.site!r} a budget is for each crop; leave per out")
        if self.per == "crop" and (self.site not in (*BATCHED_SITES, *CROP_SITES) or self.keep is None):
            raise ValueError(
                f"per='crop' of {name} only has a meaning for a budget at site='features' or 'projected'; leave it out"
            )

    def _check_placement(self) -> None:
        name = self.reducer.name
        try:
            object.__setattr__(self, "place", Place(self.place))
        except ValueError:
            allowed = ", ".join(place.value for place in Place)
            raise ValueError(f"place={shown(self.place)} of {name} is unknown; choose one of {allowed}") from None
        if self.positions not in get_args(Positions):
            raise ValueError(f"positions={shown(self.positions)} of {name} is unknown; choose 'original' or 'compact'")
        if self.place is not Place.DROP and (self.site not in ("layer", "schedule") or self.positions == "compact"):
            raise ValueError(
                f"place={self.place.value!r} of {name} keeps the length, which only a decoder layer with"
                " positions='original' can; use place='drop'"
            )

    @property
    def name(self) -> str:
        """The method's name."""
        return self.reducer.name

    @property
    def needs(self) -> frozenset[Need]:
        """The evidence that the method asks for where it stands."""
        return self.reducer.needs_at(self.site)

    def budget(self, tokens: int) -> int | None:
        """How many of ``tokens`` are kept; None where the reducer decides. Raises ValueError for more than arrive."""
        if self.keep is None:
            return None
        if isinstance(self.keep, float):
            return min(tokens, max(self.reducer.least_keep, round(tokens * self.keep)))
        if self.keep > tokens and not self.reducer.keeps_all_beyond:
            raise ValueError(
                f"keep={self.keep} of {self} exceeds the {tokens} image tokens that arrive there;"
                f" give keep<={tokens} or a fraction"
            )
        return min(self.keep, tokens)

    def shares(self, lengths: Sequence[int]) -> list[int | None]:
        """The budgets of the crops of one picture, given their tokens: what ``per`` says; the first get the remainder."""
        if self.per == "crop":
            return [self.budget(length) for length in lengths]
        total, budget = sum(lengths), self.budget(sum(lengths))
        if budget is None:
            return [None] * len(lengths)
        ends, seen = [0], 0
        for length in lengths:
            seen += length
            ends.append(-(-budget * seen // total) if total else 0)
        return [after - before for before, after in zip(ends, ends[1:])]

    def __str__(self) -> str:
        """The short spelling, which ``plan_from`` reads back."""
        where = ""
        if self.site == "layer":
            where = f"@{self.layer}"
        elif self.site != ("schedule" if self.reducer.scheduled else self.reducer.sites[0]):
            where = f"@{self.site}"
        options = dict(self.reducer.options())
        if self.place is not Place.DROP:
            options["place"] = self.place.value
        if self.positions != self.reducer.default_positions and self.site in ("layer", "schedule"):
            options["positions"] = self.positions
        if self.per == "crop" and self.site not in BATCHED_SITES:
            options["per"] = self.per
        parts = [] if self.keep is None else [spell_value(self.keep)]
        parts += [f"{key}={spell_value(value)}" for key, value in options.items()]
        return f"{self.name}{where}" + (f":{','.join(parts)}" if parts else "")

    def _value(self) -> tuple[object, ...]:
        # A reducer within the reducer is described by its options
        trained = [module for module in self.reducer.children() if not isinstance(module, Reducer)]
        modules = trained if self.reducer.weights is None else []
        return (str(self), type(self.reducer), *map(id, modules))

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, Stage) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())


def check_keep(keep: object, name: str, least: int = 0) -> None:
    """Refuse a budget that is neither a count of at least ``least`` nor a share."""
    if not is_number(keep) or keep < (least if isinstance(keep, int) else 0):
        raise ValueError(
            f"keep={shown(keep)} of {name} must be a count of at least {least} or a fraction between 0.0 and 1.0"
        )
    if isinstance(keep, float) and keep > 1:
        raise ValueError(f"keep={keep!r} of {name} is a fraction above 1; give a whole number for a count")


def tower_layers(plan: Sequence[Stage]) -> frozenset[int]:
    """The layers of the tower that the stages of a plan read, counted as their methods do."""
    return frozenset(layer for stage in plan if stage.site in CROP_SITES for layer in stage.reducer.tower_layers)
