"""The table of costs in the terminal or a log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from llava.cli.tables import print_table

from .estimate import Estimate, Prompt, runs
from .host import Host
from .measure import Timing

STRETCHES = 4  # of layers with equally many tokens, as many as a cell shows


def print_costs(
    host: Host, prompt: Prompt, rows: Sequence[Estimate], dtype: str, console: Console, timings: Sequence[Timing] = ()
) -> None:
    """Print one row per plan."""
    sizes = ", ".join(f"{width}x{height}" for width, height in prompt.images)
    batch = f", batch of {prompt.batch}" if prompt.batch > 1 else ""
    title = f"{host.name}: {sizes}, {prompt.text} text tokens{batch}"
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("plan", overflow="fold")
    unit, scale = ("TFLOPs", 1e12) if rows[0].cost.total_flops >= 1e12 else ("GFLOPs", 1e9)
    heads = ["tokens\nin", "mean", "per layer", f"tower\n{unit}", "projector", "selector", "language\nmodel", "total",
             "decode\nGFLOPs", "KV\nMB", "fewer\nFLOPs", "at\nmost"]  # fmt: skip
    for head in heads + (["tower\nms", "layers\nms", "faster\n[min-max]"] if timings else []):
        table.add_column(head, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*_cells(row, scale), *(_timing(timings[number]) if timings else ()))
    print_table(table, console)
    notes = [f"KV in {dtype}", "at most: the ratio of FLOPs if visual tokens cost nothing"]
    if any(row.approximate for row in rows):
        notes.append("~: the pictures decide how many stay, counted is the most")
    if separators := rows[0].cost.rows_per_layer[0] - rows[0].cost.visual_per_layer[0] - prompt.text:
        notes.append(f"{separators} line ends and markers of the pictures are text too")
    console.print("; ".join(notes), style="dim", highlight=False, markup=False)


def print_machine(device: str, dtype: str, repeats: int, console: Console) -> None:
    """Print what the milliseconds stand for."""
    console.print(
        f"ms: a sum over layers, not a measured prefill: the tower, and one decoder layer at each number of rows, of random"
        f" weights in {dtype} on {device}; medians of {repeats} rounds. Without choice, projector and output layer; on a CPU"
        " only the ratios count",
        style="dim",
        highlight=False,
        markup=False,
    )


def print_presets(hosts: Iterable[Host], console: Console) -> None:
    """Print what can be counted by name."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("host", no_wrap=True)
    table.add_column("sizes of", no_wrap=True)
    table.add_column("model type", no_wrap=True)
    table.add_column("layers x width", justify="right", no_wrap=True)
    for host in hosts:
        model_type = type(host.family).__name__
        table.add_row(host.name, host.checkpoint, model_type, f"{host.layers} x {host.family.text.hidden_size}")
    print_table(table, console)


def per_layer(counts: Sequence[int]) -> str:
    """``2x1196, 26x299``; of many stretches the first and the last."""
    stretches = [f"{layers}x{tokens}" for layers, tokens in runs(counts)]
    if len(stretches) > STRETCHES:
        stretches = [*stretches[: STRETCHES - 1], "...", stretches[-1]]
    return ", ".join(stretches)


def _cells(row: Estimate, scale: float) -> tuple[str, ...]:
    cost, about = row.cost, "~" if row.approximate else ""
    parts = (cost.tower_flops, cost.projector_flops, cost.selector_flops, cost.llm_flops, cost.total_flops)
    return (
        row.plan,
        f"{about}{cost.visual_per_layer[0]}",
        f"{about}{cost.visual_tokens:.1f}",
        about + per_layer(cost.visual_per_layer),
        *(_scaled(part / scale) for part in parts),
        f"{row.decode_flops / 1e9:.2f}",
        f"{cost.kv_bytes / 1e6:.1f}",
        f"{row.speedup:.2f}x",
        f"{row.ceiling:.2f}x",
    )


def _scaled(flops: float) -> str:
    return "0" if not flops else f"{flops:.3f}" if flops >= 0.0005 else "<0.001"


def _timing(timing: Timing) -> tuple[str, ...]:
    faster = timing.speedup
    return (
        f"{timing.tower_ms:.0f}",
        f"{timing.layers_ms['median']:.0f}",
        f"{faster['median']:.2f} [{faster['min']:.2f}-{faster['max']:.2f}]",
    )
