"""Plans for engines that prune before the language model: which tokens stay, from the projected tokens alone.

This is the contract of vLLM's multimodal pruning: how many stay is known from the picture's size before anything runs, what
stays comes with its place on the picture, and no attention is looked at. The reducers are those of the model's own forward.

Shapes: G pictures of one size, N their tokens, k kept, D the language model's width, T words of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from .checks import is_whole, shown
from .evidence import SITE_GIVES, Need, Site, mixed_seed
from .plan import Spec, plan_from, tokens_left
from .registry import get_method, make_stage, method_names
from .stage import Reducer, Stage
from .views import Views, reduce_images

Grid = tuple[int, int] | tuple[int, int, int]

SITES: tuple[Site, ...] = ("projected", "prompt")  # where an engine holds the tokens
_WORDS = frozenset({Need.QUESTION, Need.TEXT})
_BUDGET = 64  # of the plans by which methods are judged


def kept_indices(
    features: Tensor,
    grid: Grid,
    question: Tensor | None = None,
    plan: Spec = None,
    *,
    seeds: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Which visual tokens a plan keeps, and where on the picture they lie, as the model itself would choose.

    features: projected tokens (N, D) of a picture or a video, or (G, N, D) of several of one size, in raster order. grid:
    (h, w), of a video (t, h, w), whose product is N. question: embeddings (T, D) of the question's words, or (G, T, D), for a
    plan that reads them. plan: any spelling, such as "divprune:64"; None keeps all. seeds: a number for each picture,
    for a plan that draws.

    A stage at ``projected`` or ``features`` acts on each frame of a video separately and shares its budget among them,
    one at ``prompt`` on the whole. An engine has no features from before the projector; there such a stage reads the
    projected tokens.

    Returns ascending indices (k,) and positions (k, 3) int64, the frame, row and column of each, from 0: what M-RoPE counts
    from the picture's first position on. For (G, N, D): (G, k) and (G, k, 3). ``kept_count`` gives k. Raises ValueError for a
    plan that an engine cannot run (``qualifies``), for a grid that is not the tokens', and without a question that is needed.
    Cost: the method's, see its page.

        indices, positions = kept_indices(embeddings, (24, 24), None, "divprune:64")
    """
    _, indices, positions = kept_tokens(features, grid, question, plan, seeds=seeds)
    return indices, positions


def kept_tokens(
    features: Tensor,
    grid: Grid,
    question: Tensor | None = None,
    plan: Spec = None,
    *,
    seeds: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the language model reads instead of ``features``: (tokens, indices, positions), the latter as ``kept_indices``.

    tokens (k, D), or (G, k, D), are ``features[indices]`` where a method drops; one that merges, such as pool, makes new ones
    for the places named. All in raster order, even where the method's own order is different. Arguments and errors as
    for ``kept_indices``.
    """
    stages = engine_plan(plan)
    frames, height, width = _frames(grid)
    whole = _stacked(features, frames * height * width, grid)
    numbers = _seeds(seeds, whole, stages)
    words = _question(question, whole, stages)
    owners = [picture for picture in range(len(whole)) for _ in range(frames)]
    views = Views(
        tokens=[frame for picture in whole for frame in picture.split(height * width)],
        seeds=torch.tensor(
            [mixed_seed(number, frame) for number in numbers for frame in range(frames)], device=whole.device
        ),
        grid=(height, width),
        question=words and (words[0][owners], words[1][owners]),
        owners=owners,
    )
    views, _ = reduce_images(stages, "projected", views)
    pictures = _joined(views, frames, height * width, words, numbers)
    pictures, _ = reduce_images(stages, "prompt", pictures)
    tokens, indices = [], []
    for picture, origin in zip(pictures.tokens, pictures.origins or []):
        order = origin.argsort(stable=True)
        tokens.append(picture[order])
        indices.append(origin[order])
    kept = torch.stack(indices)  # (G, k): the count does not depend on the picture
    if kept.shape[1] != (promised := kept_count((frames, height, width), stages)):
        raise ValueError(
            f"{'+'.join(map(str, stages))} keeps {kept.shape[1]} of {grid}, not the {promised} that it promises for a square"
            " picture; give another budget or method"
        )
    rest = kept % (height * width)
    positions = torch.stack([kept // (height * width), rest // width, rest % width], dim=-1)
    answer = torch.stack(tokens), kept, positions
    return answer if features.dim() == 3 else (answer[0][0], answer[1][0], answer[2][0])


def kept_count(tokens: int | Grid, plan: Spec) -> int:
    """How many tokens of one picture or video a plan keeps, exactly and before anything runs.

    tokens: how many there are, or their grid (h, w) or (t, h, w), which a video needs. Raises ValueError as ``kept_indices``
    does, and for a budget above what there is.
    """
    if isinstance(tokens, int):
        if not is_whole(tokens) or tokens < 1:
            raise ValueError(
                f"tokens={shown(tokens)} must be a whole number of at least 1, or a grid (h, w) or (t, h, w)"
            )
        frames, each = 1, tokens
    else:
        frames, height, width = _frames(tokens)
        each = height * width
    return tokens_left(engine_plan(plan), frames * each, layers=1, crops=frames)[0]


def qualifies(plan: Spec) -> bool:
    """Whether an engine that prunes before the language model can run a plan; ``engine_plan`` says why not."""
    return all(_refusal(stage) is None for stage in plan_from(plan))


def engine_plan(plan: Spec) -> list[Stage]:
    """A plan as such an engine runs it: stages at ``features`` read the projected tokens.

    The model keeps the same tokens under this plan. Raises ValueError, with the reason and the methods that qualify, for a
    plan that needs more than the projected tokens and the question, or whose count is not known beforehand.
    """
    stages = plan_from(plan)
    for stage in stages:
        if (reason := _refusal(stage)) is not None:
            fitting = ", ".join(name for name in method_names() if _forms(name))
            raise ValueError(f"{stage} cannot run before the language model: {reason}; these can: {fitting}")
    return plan_from([replace(stage, site="projected") if stage.site == "features" else stage for stage in stages])


# ----------------------------------------------------------------------------------------------------- what qualifies


def serving_table() -> str:
    """Two tables in Markdown: the methods that an engine can run, under which spelling, and those that it cannot, and why."""
    can = ["| method | spelling | reads the question | the tokens that stay |", "|---|---|---|---|"]
    cannot = ["| method | why not |", "|---|---|"]
    for name in method_names():
        forms = _forms(name)
        if not forms:
            cannot.append(f"| `{name}` | {_refusal(_usual(name))} |")
            continue
        spelled = " or ".join(f"`{stage}`" for stage in forms)
        asks = {bool(stage.needs & _WORDS) for stage in forms}
        reads = "with `relevance=embeddings`" if len(asks) > 1 else "yes" if asks.pop() else "no"
        become = "are merged: call `kept_tokens`" if get_method(name).merges else "are as they were"
        can.append(f"| `{name}` | {spelled} | {reads} | {become} |")
    return "\n".join(can) + "\n\n" + "\n".join(cannot) + "\n"


def _refusal(stage: Stage) -> str | None:
    """Why an engine cannot run a stage; None where it can."""
    reducer = stage.reducer
    lacking = stage.needs - SITE_GIVES["prompt"]
    if stage.site == "schedule":
        return "it has several stages, some of them inside the language model"
    if stage.site == "layer":
        inside = f", from {_listed(lacking)}" if lacking else ""
        free = [site for site in SITES if site in reducer.sites and reducer.needs_at(site) <= SITE_GIVES["prompt"]]
        cure = f" (write {stage.name}@{free[-1]})" if free else ""
        return f"it chooses inside the language model{inside}{cure}"
    if stage.site in ("pixels", "tower"):
        return "it acts before the tower's features are there"
    if lacking:
        return f"it needs {_listed(lacking)}"
    if not set(SITES) & set(reducer.sites):
        return "it works on the tower's features before the projector, in another width"
    if stage.site == "features" and _usual(stage.name).site in SITES:
        return f"it is put before the projector (leave @features out of {stage.name}@features)"
    if reducer.adaptive:
        return "the picture decides how many it keeps"
    return None


def _usual(name: str) -> Stage:
    """A method with its defaults."""
    return make_stage(name, keep=_BUDGET if get_method(name).wants_keep else None)


def _forms(name: str) -> list[Stage]:
    """The spellings of a method that an engine can run, nearest to its defaults first: as it is, at ``prompt``, or with one
    option changed."""
    method = get_method(name)
    keep = _BUDGET if method.wants_keep else None
    attempts: list[dict[str, Any]] = [{}]
    attempts += [{"site": site} for site in ("prompt",) if site in method.sites]
    attempts += [{option: value} for option, values in _choices(method).items() for value in values]
    stages = []
    for attempt in attempts:
        try:
            stage = make_stage(name, keep=keep, **attempt)
        except ValueError:  # what its site cannot give, or an option that goes with another
            continue
        if _refusal(stage) is None:
            if "site" in attempt or not attempt:
                return [stage]
            stages.append(stage)
    return stages


def _choices(method: type[Reducer]) -> dict[str, tuple[str, ...]]:
    """The options of a method that are one of several words."""
    hints = get_type_hints(method.__init__)
    return {option: get_args(hint) for option, hint in hints.items() if get_origin(hint) is Literal}


def _listed(needs: frozenset[Need]) -> str:
    return ", ".join(sorted(need.value for need in needs))


# ------------------------------------------------------------------------------------------------------------ arguments


def _frames(grid: Grid) -> tuple[int, int, int]:
    """Frames, rows and columns of a grid."""
    sides = tuple(grid) if isinstance(grid, Sequence) else ()
    if len(sides) not in (2, 3) or not all(is_whole(side) and side > 0 for side in sides):
        raise ValueError(f"grid={shown(grid)} must be (rows, columns), or (frames, rows, columns), of at least 1 each")
    frames, height, width = (1, *sides)[-3:]
    return frames, height, width


def _stacked(features: Tensor, tokens: int, grid: Grid) -> Tensor:
    """Features as (G, N, D)."""
    if features.dim() not in (2, 3):
        raise ValueError(
            f"features of shape {tuple(features.shape)} must be (N, D) of a picture or (G, N, D) of several"
        )
    whole = features if features.dim() == 3 else features[None]
    if not len(whole):
        raise ValueError("features hold no picture; give at least one")
    if whole.shape[1] != tokens:
        raise ValueError(
            f"features have {whole.shape[1]} tokens, but grid={grid} has {tokens}; give the grid after the tower's own merging,"
            " and tokens without newlines or separators"
        )
    return whole


def _seeds(seeds: Sequence[int] | None, whole: Tensor, stages: list[Stage]) -> list[int]:
    """A number for each picture, 0 where no stage draws."""
    drawing = [stage for stage in stages if Need.SEED in stage.needs]
    if not drawing:
        return [0] * len(whole)
    if seeds is None or len(seeds) != len(whole):
        raise ValueError(
            f"{drawing[0]} draws from a number for each picture, but seeds={shown(seeds)}; give {len(whole)} that depend on the"
            " pictures, such as checksums"
        )
    return list(seeds)


def _question(question: Tensor | None, whole: Tensor, stages: list[Stage]) -> tuple[Tensor, Tensor] | None:
    """The question's words (G, T, D) and which are real; None where no stage reads them."""
    reading = [stage for stage in stages if stage.needs & _WORDS]
    if not reading:
        return None
    if question is None:
        raise ValueError(
            f"{reading[0]} compares the tokens with the question; give question=, its words' embeddings (T, D)"
        )
    words = question.expand(len(whole), -1, -1) if question.dim() == 2 else question
    if words.dim() != 3 or len(words) != len(whole) or words.shape[-1] != whole.shape[-1] or not words.shape[1]:
        raise ValueError(
            f"question of shape {tuple(question.shape)} must be (T, D), or (G, T, D), with G={len(whole)}, D={whole.shape[-1]}"
            " and at least one word"
        )
    words = words.to(whole.device)
    return words, torch.ones(words.shape[:2], dtype=torch.bool, device=whole.device)


def _joined(views: Views, frames: int, each: int, words: tuple[Tensor, Tensor] | None, numbers: list[int]) -> Views:
    """Pictures from their frames, every token with its place among the picture's."""
    origins = views.origins or [torch.arange(each, device=views.seeds.device) for _ in views.tokens]
    moved = [origin + number % frames * each for number, origin in enumerate(origins)]

    def pictures(parts: list[Tensor]) -> list[Tensor]:
        return [torch.cat(parts[first : first + frames]) for first in range(0, len(parts), frames)]

    return Views(
        tokens=pictures(views.tokens),
        seeds=torch.tensor(numbers, device=views.seeds.device),
        grid=views.grid,
        question=words,
        origins=pictures(moved),
        sizes=None if views.sizes is None else pictures(views.sizes),
    )
