"""What choosing and merging alone cost: ``python -m llava.eval.bench --selectors``.

Every strategy of ``llava.reduction.centres`` on random tokens, for each number of tokens and of centroids, then the
cross-attention in each number of heads; for comparison one dense decoder layer of the same width (Llama-2's proportions),
times the depth: the prefill that a selection must be cheap against. Medians; one warm-up that is not counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from llava.cli.settings import check_least
from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.reduction.centres import STRATEGIES
from llava.reduction.evidence import Evidence
from llava.reduction.methods.anywhere.condensation import Condensation

from .clock import median_seconds, progress
from .memory import peak_of

TEXT = 64  # text tokens of the prefill that serves as comparison
DEPTH = 32


@dataclass(frozen=True)
class SelectorSettings:
    """The sizes that are combined, how often each is timed, and where. Raises ValueError naming a size below 1."""

    tokens: tuple[int, ...] = (576, 2880)
    keep: tuple[int, ...] = (64,)
    heads: tuple[int, ...] = (8, 32)
    width: int = 4096
    repeats: int = 7
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name in ("tokens", "keep", "heads"):
            check_least(1, **{name: min(getattr(self, name), default=0)})
        check_least(1, width=self.width, repeats=self.repeats)

    def cases(self) -> list[tuple[str, int, int, int]]:
        """Strategy, tokens, keep and heads of every combination that keeps no more than there are."""
        return [
            (strategy, tokens, keep, heads)
            for strategy in STRATEGIES
            for tokens in self.tokens
            for keep in self.keep
            if keep <= tokens
            for heads in self.heads
        ]


@dataclass(frozen=True)
class SelectorTiming:
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
def time_selectors(settings: SelectorSettings, console: Console | None = None) -> dict[str, Any]:
    """All combinations, as {dense_prefill_ms by tokens, rows}. Raises ValueError for heads that do not divide the width."""
    dense = {tokens: DEPTH * 1000 * _dense_layer(settings, tokens + TEXT) for tokens in settings.tokens}
    rows = [
        asdict(_timing(settings, *case, dense[case[1]])) for case in progress(settings.cases(), "selectors", console)
    ]
    return {
        "width": settings.width,
        "depth": DEPTH,
        "repeats": settings.repeats,
        "dense_prefill_ms": dense,
        "rows": rows,
    }


def _timing(
    settings: SelectorSettings, strategy: str, tokens: int, keep: int, heads: int, dense: float
) -> SelectorTiming:
    device, repeats = torch.device(settings.device), settings.repeats
    reducer = Condensation(strategy, heads=heads)
    states = torch.randn(1, tokens, settings.width, device=device, dtype=settings.dtype)
    evidence = Evidence(seeds=torch.zeros(1, dtype=torch.long, device=device))

    def choose() -> Tensor:
        return reducer.select(states, evidence, keep)

    def merge(kept: Tensor) -> Tensor:
        return reducer.aggregate(states, kept, evidence)

    kept = choose()
    choosing = 1000 * median_seconds(choose, repeats, device)
    merging = 1000 * median_seconds(lambda: merge(kept), repeats, device)
    memory = peak_of(lambda: merge(choose()), device)
    extra = memory["peak"] - memory["before"]
    return SelectorTiming(strategy, tokens, keep, heads, choosing, merging, extra, (choosing + merging) / dense)


def _dense_layer(settings: SelectorSettings, rows: int) -> float:
    """Seconds of one decoder layer of Llama's proportions on that many rows."""
    width = settings.width
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=int(2.6875 * width),
        num_attention_heads=max(1, width // 128),
        num_key_value_heads=max(1, width // 128),
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]  a keyword that is no field
    )
    device = torch.device(settings.device)
    with device:
        layer = LlamaDecoderLayer(config, 0).to(settings.dtype)
        hidden = torch.randn(1, rows, width, dtype=settings.dtype)
        rope = LlamaRotaryEmbedding(config)(hidden, torch.arange(rows)[None])
    return median_seconds(lambda: layer(hidden, position_embeddings=rope), settings.repeats, device)
