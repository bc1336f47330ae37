"""The parts of the page that are HTML: a message, the kept patches, the numbers of an answer."""

from __future__ import annotations

from html import escape

from .asking import SIDES, Answer
from .drawing import data_address, drawn


def message(text: str) -> str:
    """A sentence that screen readers say at once; empty text is no message."""
    return f'<p class="message" role="alert">{escape(text)}</p>' if text else ""


def figure(side: int, answer: Answer | None, layer: int) -> str:
    """The picture with the patches that a layer is given under the plan of a side; empty where there is no answer."""
    if answer is None:
        return ""
    if answer.view is None or not answer.kept:
        return '<p class="note">This model sees the picture in several crops, so kept patches are not drawn.</p>'
    kept = answer.kept[min(layer, len(answer.kept) - 1)]
    rows, columns = kept.grid
    dots = "; each dot stands for its neighbourhood" if kept.merged else ""
    text = f"Layer {layer}: {len(kept.patches)} of {rows * columns} patches{dots}"
    about = f"Plan {SIDES[side]}, {answer.plan}. {text}"
    return (
        f'<figure class="kept"><img src="{data_address(drawn(answer.view, kept))}" alt="{escape(about)}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def numbers(side: int, answer: Answer | None) -> str:
    """What an answer cost, as a list; empty where there is none."""
    if answer is None:
        return ""
    layers = answer.visual_per_layer
    cut = "" if answer.complete else ", cut at the limit"
    rows = {
        "Visual tokens, mean of all layers": f"{sum(layers) / len(layers):.1f}",
        "Visual tokens, last layer": f"{layers[-1]} of {answer.visual}",
        "Prompt, GFLOPs": "not counted" if answer.flops is None else f"{answer.flops / 1e9:,.2f}",
        "First words, this request": f"{answer.first_ms:,.0f} ms",
        "Whole answer, this request": f"{answer.whole_ms:,.0f} ms",
        "Answer, tokens": f"{answer.tokens}{cut}",
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items())
    return f'<p class="plan">Plan {SIDES[side]}: {escape(answer.plan)}</p><dl class="numbers">{cells}</dl>'
