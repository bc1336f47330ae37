"""What plans take on this machine, from random weights of the true shapes, however large the model.

The tower runs as a whole, once for all plans, on one image of each size; of the decoder, a single layer runs in turn at
each number of rows that any plan has, and the times of a plan's layers are summed. Left out are the choice of tokens,
the projector, the embedding and the output layer, and windows of the decoder's attention. So it is a sum over layers,
not a measured prefill; on a CPU only its ratios say anything about the model on other machines.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText

from llava.cli.settings import check_least
from llava.eval.bench.clock import median_seconds, now, progress, spread
from llava.eval.bench.memory import kernel_bytes
from llava.reduction import spelled_out

from .estimate import Estimate, Prompt, pictures
from .families.base import Family
from .host import Host

TOWERS = ("vision_tower", "visual", "vision_model")
LONG = 5.0  # seconds; in a run as long as this the warm-up of the first call is negligible
SPARE = 1.5  # times a module's own bytes, to leave room for what it computes


@dataclass(frozen=True)
class Timing:
    """Milliseconds of tower and decoder layers, and how many times faster than dense: {median, min, max}."""

    tower_ms: float
    layers_ms: dict[str, float]
    speedup: dict[str, float]


@torch.inference_mode()
def timings(
    host: Host,
    prompt: Prompt,
    plans: Sequence[Estimate],
    device: torch.device,
    dtype: torch.dtype,
    repeats: int = 5,
    console: Console | None = None,
) -> list[Timing]:
    """Time the plans of ``estimates``, the first of which is dense; medians of ``repeats`` rounds after one not counted.

    Raises ValueError where the tower or a layer does not fit into memory.
    """
    check_least(1, repeats=repeats)
    tower_ms = 1000 * prompt.batch * _tower_seconds(host, prompt, device, dtype, repeats, console)
    rounds = _rounds(host, prompt, plans, device, dtype, repeats, console)
    sums = [[1000 * sum(each[rows] for rows in plan.cost.rows_per_layer) for each in rounds] for plan in plans]
    return [
        Timing(
            tower_ms,
            spread(layers),
            spread([(tower_ms + dense) / (tower_ms + own) for dense, own in zip(sums[0], layers)]),
        )
        for layers in sums
    ]


def check_measurable(host: Host, plans: Sequence[Any]) -> None:
    """Raises ValueError for a plan that changes the tower, which is measured once for all."""
    for plan in plans:
        for stage in spelled_out(plan, host.layers):
            if stage.site in ("pixels", "tower"):
                raise ValueError(
                    f"--measure runs the tower once for all plans, and {stage} changes it; leave the plan out, or time it on"
                    " a checkpoint with python -m llava.eval.bench"
                )


def decoder_layer(text: Any, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """One stock layer of a decoder, of random weights. Raises ValueError where it does not fit."""
    single = copy.deepcopy(text)
    if getattr(single, "layer_types", None):
        single.layer_types = ["full_attention"]
    single.num_hidden_layers = 1
    with torch.device("meta"):
        outline: Any = AutoModel.from_config(single)
    layer = outline.layers[0]
    _check_fits(layer, dtype, device, "a decoder layer")
    with torch.device(device):
        return type(layer)(outline.config, 0).to(dtype).eval()


def tower_module(family: Family, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The stock tower, of random weights. Raises ValueError where it does not fit."""
    vision = family.vision
    if family.shapes_tower:  # LLaVA's own layout, which stops at the layer that it reads
        vision = copy.deepcopy(vision)
        vision.num_hidden_layers = family.config.mm_vision_select_layer % (vision.num_hidden_layers + 1)
        make: Callable[[], Any] = lambda: AutoModel.from_config(vision)  # noqa: E731
        with torch.device("meta"):
            outline = make()
    else:
        with torch.device("meta"):
            core: Any = AutoModelForImageTextToText.from_config(family.config).model
        outline = next(getattr(core, name) for name in TOWERS if hasattr(core, name))
        make = lambda: type(outline)._from_config(outline.config)  # noqa: E731
    _check_fits(outline, dtype, device, "the tower")
    with torch.device(device):
        return make().to(dtype).eval()


def _tower_seconds(
    host: Host, prompt: Prompt, device: torch.device, dtype: torch.dtype, repeats: int, console: Console | None
) -> float:
    """Seconds of the tower on one row's pictures, image by image: the median of short runs, or a single long one."""
    tower, total = tower_module(host.family, device, dtype), 0.0
    grids = Counter(grid for picture in pictures(host, prompt) for grid in picture.grids)
    for grid, images in progress(list(grids.items()), "tower", console):
        inputs = {name: _placed(value, device, dtype) for name, value in host.family.pixels(grid).items()}
        start = now(device)
        tower(**inputs)
        seconds = now(device) - start
        if seconds < LONG:
            seconds = median_seconds(lambda: tower(**inputs), repeats, device)  # noqa: B023  called at once
        total += images * host.family.passes * seconds
    return total


def _rounds(
    host: Host,
    prompt: Prompt,
    plans: Sequence[Estimate],
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    console: Console | None,
) -> list[dict[int, float]]:
    """For each round the seconds of a decoder layer by its number of rows; every second round goes backwards."""
    text = host.family.text
    layer = decoder_layer(text, device, dtype)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    counts = sorted({rows for plan in plans for rows in plan.cost.rows_per_layer})
    hidden = torch.randn(prompt.batch, max(counts), text.hidden_size, device=device, dtype=dtype)
    rope = torch.randn(prompt.batch, max(counts), head, device=device, dtype=dtype)
    rounds = []
    for number in progress(range(repeats + 1), "decoder layers", console):
        seconds = {}
        for rows in reversed(counts) if number % 2 else counts:
            start = now(device)
            layer(hidden[:, :rows], attention_mask=None, position_embeddings=(rope[:, :rows], rope[:, :rows]))
            seconds[rows] = now(device) - start
        rounds.append(seconds)
    return rounds[1:]


def _placed(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _check_fits(outline: nn.Module, dtype: torch.dtype, device: torch.device, what: str) -> None:
    """Raises ValueError where a module on the meta device would not fit, made in float32 and then cast."""
    needed = SPARE * sum(weight.numel() for weight in outline.parameters()) * max(4, dtype.itemsize)
    free = _free_bytes(device)
    if free is not None and needed > free:
        raise ValueError(f"{what} needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on {device}")


def _free_bytes(device: torch.device) -> int | None:
    """Free memory; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    return kernel_bytes(meminfo, "MemAvailable") if meminfo.exists() else None
