"""The greedy loop against the loops of the papers: ``python -m llava.eval.bench.greedy``.

Picking tokens one after another is the cost of diversity: with 64 of 576 tokens it used up a third of the saving that
EADP measured. For each objective, number of tokens, budget and batch the loop of ``llava.reduction.select`` and a plain
one, written from the paper's formula for one picture at a time, run in turn on the same random tokens; both must pick
the same. Medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llava.cli.console import launch
from llava.cli.tables import print_table
from llava.reduction import select
from llava.reduction.score import similarity

from .clock import now, progress

WIDTH = 128


def plain_max_min(alike: Tensor, k: int) -> list[int]:
    """DivPrune for one picture (N, N): the distance to all of those chosen is taken again at every step."""
    far = 1 - alike
    picked = [int(far.topk(2, dim=0, largest=False).values[1].argmax())]
    for _ in range(k - 1):
        nearest = far[picked].amin(0)
        nearest[picked] = -1
        picked.append(int(nearest.argmax()))
    return picked


def plain_facility(alike: Tensor, k: int) -> list[int]:
    """SCOPE and EADP for one picture: every token's gain is summed over all rows at every step."""
    cover, picked = torch.zeros(len(alike)), []
    for _ in range(k):
        gain = (alike - cover[:, None]).clamp(min=0).sum(0)
        gain[picked] = -torch.inf
        picked.append(int(gain.argmax()))
        cover = torch.maximum(cover, alike[:, picked[-1]])
    return picked


def plain_determinant(alike: Tensor, k: int) -> list[int]:
    """CDPruner for one picture: a row of the Cholesky factor for each pick."""
    left, rows, picked = alike.diagonal().clone(), torch.zeros(k, len(alike)), []
    for step in range(k):
        best = int(left.argmax())
        row = (alike[best] - rows[:step, best] @ rows[:step]) / left[best].sqrt()
        picked.append(best)
        rows[step] = row
        left = left - row.square()
        left[picked] = -torch.inf
    return picked


LOOPS: dict[str, tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor, int], list[int]]]] = {
    "max-min": (lambda alike, k: select.max_min(alike, k, select.isolation(alike)), plain_max_min),
    "facility location": (select.facility_location, plain_facility),
    "determinant": (select.dpp, plain_determinant),
}


@dataclass(frozen=True)
class LoopTiming:
    """Milliseconds of one choice by ours and by the plain loop, for a batch, and the share of picks that agree."""

    objective: str
    tokens: int
    keep: int
    batch: int
    ours_ms: float
    plain_ms: float
    agreement: float

    @property
    def faster(self) -> float:
        """How many times ours is faster."""
        return self.plain_ms / self.ours_ms


@torch.inference_mode()
def time_loop(objective: str, tokens: int, keep: int, batch: int, repeats: int) -> LoopTiming:
    """One combination; the two loops take turns."""
    ours, plain = LOOPS[objective]
    torch.manual_seed(0)
    alike, device = similarity(torch.randn(batch, tokens, WIDTH) + 0.5), torch.device("cpu")
    seconds: list[list[float]] = [[], []]
    picks = ours(alike, keep), torch.tensor([plain(one, keep) for one in alike])
    for _ in range(repeats):
        for number, run in enumerate((lambda: ours(alike, keep), lambda: [plain(one, keep) for one in alike])):
            start = now(device)
            run()
            seconds[number].append(now(device) - start)
    agreement = float((picks[0] == picks[1]).float().mean())
    ours_ms, plain_ms = (1000 * median(each) for each in seconds)
    return LoopTiming(objective, tokens, keep, batch, ours_ms, plain_ms, agreement)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.bench.greedy", description="One greedy loop against the papers'."
    )
    flags.add_argument("--tokens", type=int, nargs="+", default=[576, 2880])
    flags.add_argument("--keep", type=int, nargs="+", default=[64, 640])
    flags.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    flags.add_argument(
        "--repeats", type=int, default=3, help="timed calls of each loop, after one that is not counted (default: 3)"
    )
    flags.add_argument("--output", type=Path, help="also write the figures as JSON to this file")
    return flags


def compare(flags: argparse.Namespace) -> None:
    """Time every combination, print the table, write the file."""
    console = Console()
    cases = [
        (objective, tokens, keep, batch)
        for objective in LOOPS
        for tokens in flags.tokens
        for keep in flags.keep
        if keep <= tokens
        for batch in flags.batch
    ]
    rows = [time_loop(*case, flags.repeats) for case in progress(cases, "loops", console)]
    table = Table("objective", title="one greedy loop against the papers'", title_style="bold", box=box.SIMPLE_HEAD)
    for head in ("tokens", "keep", "batch", "ours\nms", "plain\nms", "times\nfaster", "same\npicks"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        sizes = (str(size) for size in (row.tokens, row.keep, row.batch))
        times = (f"{row.ours_ms:.1f}", f"{row.plain_ms:.1f}", f"{row.faster:.2f}")
        table.add_row(row.objective, *sizes, *times, f"{row.agreement:.1%}")
    print_table(table, console)
    console.print(
        f"random tokens of width {WIDTH} on a CPU, {torch.get_num_threads()} threads; medians of {flags.repeats}",
        style="dim",
    )
    if flags.output:
        flags.output.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
