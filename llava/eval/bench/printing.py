"""The benchmarks' tables in the terminal or a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from llava.cli.tables import print_table

from .selectors import TEXT


def print_timings(result: Mapping[str, Any], console: Console) -> None:
    """Print what ``time_plans`` measured."""
    dense = result["plans"][0]["dense_ms"]
    parts = [part for part in ("tower", "prefill", "decode", "end_to_end") if dense[part]["median"] > 0]
    heads = {"tower": "tower\nms", "prefill": "prefill\nms", "decode": "decode\nms", "end_to_end": "in all\nms"}
    table = _table(f"{result['about']['model']} on {result['device']}", "plan")
    for head in (
        "choice\nms",
        *(heads[part] for part in parts),
        "faster\n[min-max]",
        "fewer\nFLOPs",
        "real-\nised",
        "over\nlimit",
        "peak\nMB",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    medians = [f"{dense[part]['median']:.1f}" for part in parts]
    table.add_row("dense", "-", *medians, "", "", "", "", _megabytes(result.get("dense_memory")))
    for timing in result["plans"]:
        faster = timing["speedup"][timing["compared"]]
        mark = " *" if timing["compared"] == "first_token" else ""
        table.add_row(
            timing["plan"],
            f"{timing['selection_ms']['median']:.2f}",
            *(f"{timing['plan_ms'][part]['median']:.1f}" for part in parts),
            f"{faster['median']:.2f} [{faster['min']:.2f}-{faster['max']:.2f}]{mark}",
            f"{timing['theoretical']:.2f}",
            f"{timing['realised_over_theoretical']:.2f}",
            f"{timing['over_limit']['median']:.3f}" if "over_limit" in timing else "-",
            _megabytes(timing.get("memory")),
        )
    print_table(table, console)
    template = result["about"].get("template")
    _remark(
        f"medians of {result['pairs']} alternating pairs, dense of the first plan's; decode is per token; faster and fewer FLOPs "
        "are the prefill's, and where marked * the tower's and the prefill's, since the plan changes the tower or reads more of "
        "it than its features; realised is the ratio of "
        "times over that of FLOPs; over limit is the prefill over transformers' layers alone at the same numbers of rows"
        + (f"; template {template}" if template else ""),
        console,
    )


def print_selectors(result: Mapping[str, Any], console: Console) -> None:
    """Print what ``time_selectors`` measured."""
    table = _table(f"selectors at width {result['width']} on {result['device']}", "strategy")
    for head in ("tokens", "keep", "heads", "choose\nms", "merge\nms", "extra\nMB", "of a dense\nprefill"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            row["strategy"],
            *(str(row[size]) for size in ("tokens", "keep", "heads")),
            f"{row['choose_ms']:.2f}",
            f"{row['merge_ms']:.2f}",
            f"{row['extra_mb']:.0f}",
            f"{row['share']:.2%}",
        )
    print_table(table, console)
    _remark(
        f"dense prefill: {result['depth']} times one decoder layer of that width with {TEXT} text tokens; medians of "
        f"{result['repeats']}",
        console,
    )


def _table(title: str, head: str) -> Table:
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(head, overflow="fold")
    return table


def _remark(text: str, console: Console) -> None:
    console.print(text, style="dim", highlight=False, markup=False)


def _megabytes(memory: Mapping[str, float] | None) -> str:
    return "-" if memory is None else f"{memory['peak']:.0f}"
