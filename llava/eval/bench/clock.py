"""Time on a device, and what several measurements say."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from statistics import median
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track

Step = TypeVar("Step")


def now(device: torch.device) -> float:
    """Seconds, once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def median_seconds(compute: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median seconds of ``repeats`` calls after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = now(device)
        compute()
        seconds.append(now(device) - start)
    return median(seconds[1:])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def progress(steps: Collection[Step], name: str, console: Console | None) -> Iterable[Step]:
    """The steps, with a bar and the time left on a terminal."""
    return track(steps, name, console=console, disable=console is None or not console.is_terminal, transient=True)
