"""Peak memory of a call: the allocator's on CUDA, that of this process elsewhere."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def peak_of(compute: Callable[[], object], device: torch.device) -> dict[str, float]:
    """MB at the ``peak`` of a call and ``before`` it. On the CPU it counts all that this process does meanwhile."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        return {"peak": torch.cuda.max_memory_allocated(device) / 1e6, "before": before / 1e6}
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # forget earlier peaks
    before = _resident()
    compute()
    return {"peak": max(before, _resident()), "before": before}  # the kernel's counts lag by some pages


def kernel_bytes(file: Path, name: str) -> int:
    """A quantity in bytes that the kernel reports in kilobytes in a file of /proc."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _resident() -> float:
    """Peak resident memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # counted from this program's start; getrusage's figure includes the parent it was forked from
        return kernel_bytes(status, "VmHWM") / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
