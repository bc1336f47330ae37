"""What choosing and merging cost by themselves: ``python -m llava.eval.bench --selectors``.

Every strategy of ``llava.reduction.centres`` on random tokens, for each number of tokens and of centroids, then the
cross-attention in each number of heads; beside them one dense decoder layer of the same width (Llama-2's proportions),
times the depth: the prefill that a selection must be cheap against. Medians; one warm-up that is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.reduction.centres import STRATEGIES
from llava.reduction.evidence import Evidence
from llava.reduction.methods.condensation import Condensation

from .memory import peak_of

TEXT = 64  # text tokens of the prefill that is compared with
DEPTH = 32


@dataclass(frozen=True)
class Row:
    """One measurement: milliseconds to choose and to merge, MB on top of the tokens, share of the dense prefill."""

    strategy: str
    tokens: int
    keep: int
    heads: int
    choose_ms: float
    merge_ms: float
    extra_mb: float
    share: float


@torch.inference_mode()
def measure(
    tokens: Sequence[int],
    keeps: Sequence[int],
    heads: Sequence[int],
    width: int,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
    console: Console | None = None,
) -> dict:
    """All combinations, as {dense_prefill_ms by tokens, rows}. Raises ValueError for heads that do not divide the width."""
    dense = {count: DEPTH * 1000 * _dense_layer(count + TEXT, width, repeats, device, dtype) for count in tokens}
    cases = [(strategy, n, k, h) for strategy in STRATEGIES for n in tokens for k in keeps if k <= n for h in heads]
    watched = console is not None and console.is_terminal
    rows = [
        asdict(_row(*case, width, dense[case[1]], repeats, device, dtype))
        for case in track(cases, "selectors", console=console, disable=not watched, transient=True)
    ]
    return {"width": width, "depth": DEPTH, "dense_prefill_ms": dense, "rows": rows}


def _row(
    strategy: str, tokens: int, keep: int, heads: int, width: int, dense: float, repeats: int, device, dtype
) -> Row:
    reducer = Condensation(strategy, heads=heads)
    states = torch.randn(1, tokens, width, device=device, dtype=dtype)
    evidence = Evidence(seeds=torch.zeros(1, dtype=torch.long, device=device))

    def choose() -> Tensor:
        return reducer.select(states, evidence, keep)

    def merge(kept: Tensor) -> Tensor:
        return reducer.aggregate(states, kept, evidence)

    kept = choose()
    choosing = 1000 * _median(choose, repeats, device)
    merging = 1000 * _median(lambda: merge(kept), repeats, device)
    memory = peak_of(lambda: merge(choose()), device)
    extra = memory["peak"] - memory["before"]
    return Row(strategy, tokens, keep, heads, choosing, merging, extra, (choosing + merging) / dense)


def show(result: dict, console: Console) -> None:
    """Print the table."""
    table = Table(
        title=f"selectors at width {result['width']} on {result['device']}", title_style="bold", box=box.SIMPLE_HEAD
    )
    for head in ("strategy", "tokens", "keep", "heads", "choose\nms", "merge\nms", "extra\nMB", "of a dense\nprefill"):
        table.add_column(head, justify="left" if head == "strategy" else "right")
    for row in result["rows"]:
        table.add_row(
            row["strategy"], str(row["tokens"]), str(row["keep"]), str(row["heads"]), f"{row['choose_ms']:.2f}",
            f"{row['merge_ms']:.2f}", f"{row['extra_mb']:.0f}", f"{row['share']:.2%}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"dense prefill: {result['depth']} times one decoder layer of that width with {TEXT} text tokens; medians of"
        f" {result['repeats']}",
        style="dim",
        highlight=False,
    )


def _dense_layer(rows: int, width: int, repeats: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one decoder layer of Llama's proportions on that many rows."""
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=int(2.6875 * width),
        num_attention_heads=max(1, width // 128),
        num_key_value_heads=max(1, width // 128),
        attn_implementation="sdpa",
    )
    with torch.device(device):
        layer = LlamaDecoderLayer(config, 0).to(dtype)
        hidden: Tensor = torch.randn(1, rows, width, dtype=dtype)
        rope = LlamaRotaryEmbedding(config)(hidden, torch.arange(rows)[None])
    return _median(lambda: layer(hidden, position_embeddings=rope), repeats, device)


def _median(compute: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median seconds of ``repeats`` calls after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = now(device)
        compute()
        seconds.append(now(device) - start)
    return median(seconds[1:])


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
