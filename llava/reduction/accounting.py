"""What a paper's label means: the tokens and the operations behind "128 tokens", for every method, by its own plans.

Everything is counted for LLaVA-1.5-7B: 32 layers, a picture of 576 tokens and 60 tokens of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from llava.shipped import HOME, METHODS

from .cost import decoder_flops, kv_bytes
from .plan import budgets_from, crop_budgets, spelled_out, tokens_left
from .registry import accounting_of, get_method, method_names
from .schedule import LAYERS, TOKENS
from .stage import BATCHED_SITES, CROP_SITES, Stage

TEXT = 60
SHAPE = SimpleNamespace(
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=LAYERS,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    vocab_size=32000,
)
TOWER_WIDTH = 1024  # of CLIP ViT-L
PLANS = HOME / METHODS


@dataclass(frozen=True)
class Label:
    """A method's plan under one of its paper's labels, and what it comes to.

    entering, last: visual tokens of the first and the last layer. mean: over the layers. flops, kv: the language model's
    prefill and its cache as shares of the dense ones. selection: what choosing costs, as a share of the dense prefill.
    """

    method: str
    label: str
    plan: list[Stage]
    entering: int
    mean: float
    last: int
    flops: float
    kv: float
    selection: float


def account(method: str, label: str, plan: list[Stage]) -> Label:
    """What a plan comes to on LLaVA-1.5-7B."""
    tokens = tokens_left(plan, TOKENS, LAYERS)
    rows, dense = [TEXT + count for count in tokens], [TEXT + TOKENS] * LAYERS
    whole = decoder_flops(SHAPE, dense)
    return Label(
        method,
        label,
        plan,
        entering=tokens[0],
        mean=sum(tokens) / LAYERS,
        last=tokens[-1],
        flops=decoder_flops(SHAPE, rows) / whole,
        kv=kv_bytes(SHAPE, rows, 2) / kv_bytes(SHAPE, dense, 2),
        selection=selection_flops(plan) / whole,
    )


def selection_flops(
    plan: list[Stage],
    tokens: int = TOKENS,
    text: int = TEXT,
    layers: int = LAYERS,
    width: int = SHAPE.hidden_size,
    tower_width: int = TOWER_WIDTH,
    crops: int = 1,
    patches: int | None = None,
    features_width: int | None = None,
) -> float:
    """What a plan's stages compute to choose from a picture of ``tokens`` tokens on ``crops`` equal crops.

    width: of the language model's rows, tower_width: of the tower's. features_width: of what it hands on; None: the same.
    Stages before the language model choose in each crop separately. patches: of the whole picture in the tower; None: as
    many as tokens.
    """
    stages, spent = spelled_out(plan, layers), 0.0
    features_width = features_width or tower_width
    smaller = [stage for stage in stages if stage.site == "pixels"]
    seen = (patches or tokens) * tokens_left(smaller, tokens, 1, crops)[0] // tokens // crops
    for number, stage in enumerate(stages):
        arriving = tokens_left(stages[:number], tokens, layers, crops)[stage.layer or 0]
        if stage.site not in (*BATCHED_SITES, *CROP_SITES):
            kept = stage.reducer.left(arriving, stage.budget(arriving))
            spent += stage.reducer.flops(text + arriving, arriving, kept, width)
            continue
        for length, share in crop_budgets(stage, arriving, crops):
            kept = stage.reducer.left(length, share)
            spent += stage.reducer.flops(length, length, kept, width if stage.site == "projected" else features_width)
            if stage.site in CROP_SITES:
                spent += stage.reducer.reading_flops(seen, kept, tower_width)
    return spent


def labels(folder: Path = PLANS) -> Iterator[Label]:
    """Every labelled plan of every method's file."""
    for method in method_names():
        file = folder / f"{method}.yaml"
        if file.is_file():
            for label, plan in budgets_from(file).items():
                yield account(method, label, plan)


def accounting_page(folder: Path = PLANS) -> str:
    """The table of labels in Markdown."""
    rows = [
        "| method | label | what the label counts | tokens that enter | mean over the layers | in the last layer | FLOPs | KV | selection |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(labels(folder), key=lambda one: (-int(one.label), one.mean, one.method)):
        counted = accounting_of(get_method(one.method))
        rows.append(
            f"| `{one.method}` | {one.label} | {counted} | {one.entering} | {one.mean:.1f} | {one.last} | {one.flops:.3f} |"
            f" {one.kv:.3f} | {one.selection:.2%} |"
        )
    return (
        "# What 128 tokens means\n\n"
        "Written by `python -m llava.reduction accounting` from the plans in `configs/methods`, for LLaVA-1.5-7B: 32 layers, a\n"
        f"picture of {TOKENS} tokens, {TEXT} tokens of text. Papers put the same number over different things: the tokens that\n"
        "enter the language model, their mean over its layers, or those after one layer. FLOPs and KV are shares of the dense\n"
        "prefill of the language model; selection is what choosing costs, as a share of the same. Rows of one label are\n"
        "comparable only where the means are.\n\n" + "\n".join(rows) + "\n"
    )
