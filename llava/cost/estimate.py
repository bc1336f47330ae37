"""What a prompt costs a model under each of several plans, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from llava.reduction import Cost, Need, Stage, check_plan, plan_from, spelled_out
from llava.reduction.accounting import selection_flops
from llava.reduction.cost import decode_flops, decoder_flops, kv_bytes
from llava.reduction.plan import Spec, tokens_left

from .families.base import Picture
from .host import Host
from .vit import has_class_token

SIZE = re.compile(r"([0-9]{1,6})[xX×]([0-9]{1,6})")
IN_TOWER = ("pixels", "tower")


@dataclass(frozen=True)
class Prompt:
    """What is asked: sizes of the pictures as (width, height), text tokens besides them, equal rows of a batch."""

    images: tuple[tuple[int, int], ...]
    text: int = 60
    batch: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (("text", self.text, 1), ("batch", self.batch, 1)):
            if value < least:
                raise ValueError(f"{name}={value} must be a whole number of at least {least}")
        if not self.images:
            raise ValueError("no picture is given; write --image 1280x720, once for each picture")


@dataclass(frozen=True)
class Estimate:
    """One plan's costs. FLOPs and bytes are those of the whole batch, tokens those of one row.

    approximate: the pictures decide how many tokens stay, and this is the most. cost: the prefill. decode_flops: of one
    more token. speedup: the dense prefill's FLOPs over this one's. ceiling: what the speed-up would be if visual tokens cost
    nothing: tower and text alone.
    """

    plan: str
    approximate: bool
    cost: Cost
    decode_flops: float
    speedup: float
    ceiling: float


def parse_size(text: str) -> tuple[int, int]:
    """``1280x720`` as (width, height). Raises ValueError for anything else."""
    match = SIZE.fullmatch(text.strip())
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) < 1:
        raise ValueError(f"--image {text!r} is no size; write width x height in pixels, like 1280x720")
    return size


def pictures(host: Host, prompt: Prompt) -> list[Picture]:
    """What each picture becomes in the model."""
    alone = len(prompt.images) == 1
    return [host.family.picture(height, width, alone) for width, height in prompt.images]


def estimates(host: Host, prompt: Prompt, plans: Sequence[Spec], bytes_per_number: int = 2) -> list[Estimate]:
    """The costs of the dense model, then of each plan. ``bytes_per_number``: of the cache, 2 in half precision.

    Raises ValueError for a plan that the model cannot run.
    """
    seen = pictures(host, prompt)
    stages = [plan_from(plan) for plan in plans]
    costs = [_named(host, prompt, seen, plan, bytes_per_number) for plan in [[], *stages]]
    text = _text(prompt, seen)
    blank = prompt.batch * decoder_flops(host.family.text, [text] * host.layers)
    return [
        Estimate(
            plan=" + ".join(map(str, plan)) or "full",
            approximate=any(stage.reducer.adaptive for stage in spelled_out(plan, host.layers)),
            cost=cost,
            decode_flops=prompt.batch * decode_flops(host.family.text, cost.rows_per_layer),
            speedup=costs[0].total_flops / cost.total_flops,
            ceiling=costs[0].total_flops / (cost.tower_flops + blank),
        )
        for plan, cost in zip([[], *stages], costs)
    ]


def runs(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(layers, tokens) of each stretch of layers with equally many tokens."""
    return [(len(list(stretch)), count) for count, stretch in groupby(counts)]


def _text(prompt: Prompt, seen: Sequence[Picture]) -> int:
    return prompt.text + sum(picture.separators for picture in seen)


def _named(host: Host, prompt: Prompt, seen: Sequence[Picture], plan: list[Stage], bytes_per_number: int) -> Cost:
    """The cost of a plan. Raises ValueError that names the model for one that it cannot run."""
    try:
        return _cost(host, prompt, seen, plan, bytes_per_number)
    except ValueError as error:
        raise ValueError(f"{host.name}: {error}") from error


def _cost(host: Host, prompt: Prompt, seen: Sequence[Picture], plan: list[Stage], bytes_per_number: int) -> Cost:
    family, layers = host.family, host.layers
    _check(host, plan)
    laid = [family.under(picture, plan) for picture in seen]
    text = _text(prompt, laid)
    per_picture = [tokens_left(plan, picture.tokens, layers, picture.crops) for picture in laid]
    visual = [sum(counts) for counts in zip(*per_picture)]
    rows = [text + count for count in visual]
    # A selector reads the whole row: the other pictures are text to it
    others = text + sum(picture.tokens for picture in laid)
    choosing = sum(
        selection_flops(
            plan,
            picture.tokens,
            others - picture.tokens,
            layers,
            family.text.hidden_size,
            family.vision_width,
            picture.crops,
            picture.patches,
            family.features_width,
        )
        for picture in laid
    )
    return Cost(
        visual_per_layer=visual,
        rows_per_layer=rows,
        tower_flops=prompt.batch * sum(family.tower_flops(picture, plan) for picture in laid),
        projector_flops=prompt.batch * sum(family.projector_flops(picture, plan) for picture in laid),
        selector_flops=prompt.batch * choosing,
        llm_flops=prompt.batch * decoder_flops(family.text, rows),
        kv_bytes=prompt.batch * kv_bytes(family.text, rows, bytes_per_number),
    )


def _check(host: Host, plan: list[Stage]) -> None:
    check_plan(plan, host.layers)
    stages = spelled_out(plan, host.layers)
    for stage in stages:
        if Need.CLS in stage.needs and not has_class_token(host.family.vision):
            raise ValueError(
                f"{stage} reads the class token, which the tower of this model lacks; give the method's option"
                " saliency=mean_attention, or where it has none take a method that reads no class token, such as divprune"
            )
        if Need.CLIP in stage.needs and not host.family.shapes_tower:
            raise ValueError(
                f"{stage} reads CLIP's text tower, which this model comes without; give relevance=embeddings"
            )
    inside = [stage for stage in stages if stage.site in IN_TOWER and stage.name != "full"]
    if inside and not host.family.shapes_tower:
        raise ValueError(
            f"{inside[0]} acts at site={inside[0].site!r}, but the tower of this model runs as it is; put a stage at"
            " site='features', 'prompt' or in a layer"
        )
