"""The page: which controls it has, where they stand, and what happens when one is used. What is shown is computed elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]  an extra

from llava.reduction import method_names

from . import fragments
from .asking import SIDES, Answer, Asker
from .controls import controls, spelled

STYLE = Path(__file__).with_name("page.css")
FONTS = ["system-ui", "sans-serif"]  # fonts of the reader's machine: nothing is fetched
FIRST = (("full", 0, 64), ("fastv", 2, 64))  # method, layer and budget of each side to begin with
MOST_WAITING = 32  # questions
PERCENT = 25  # budget to begin with where pictures differ in tokens


@dataclass(frozen=True)
class Side:
    """The parts of one plan: its text, then what is shown of its answer."""

    plan: gr.Textbox
    answer: gr.Textbox
    numbers: gr.HTML
    figure: gr.HTML


def theme() -> gr.Theme:
    """gradio's own look, with installed fonts and readable colours."""
    return gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )


def build(asker: Asker, examples: Sequence[tuple[Path, str]]) -> gr.Blocks:
    """The page for a model. examples: files of pictures, and what is asked about each."""
    tokens = asker.picture_tokens()
    with gr.Blocks(title=f"llava demo: {asker.chat.name}", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# llava demo\n{_about(asker, tokens)}")
        answers = gr.State([None] * len(SIDES), time_to_live=3600)
        with gr.Row():
            with gr.Column(min_width=300):
                picture = gr.Image(
                    label="Picture",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=400,
                    buttons=[],
                    alt_text="the picture that is asked about",
                    elem_id="picture",
                )
            with gr.Column(min_width=300):
                question = gr.Textbox(label="Question", lines=2, max_lines=4, elem_id="question", submit_btn=False)
                gr.Examples(
                    [[str(file), text] for file, text in examples],
                    [picture, question],
                    label="Examples",
                    elem_id="examples",
                )
        with gr.Row():
            plans = [_plan_controls(side, asker.layers, tokens) for side in range(len(SIDES))]
        with gr.Row():
            ask = gr.Button("Ask", variant="primary", scale=4, elem_id="ask")
            stop = gr.Button("Stop", scale=1, min_width=100, elem_id="stop")
        said = gr.HTML(elem_id="message")
        last = asker.layers - 1
        layer = gr.Slider(0, last, last, step=1, label="Layer shown", info="which patches it is given", elem_id="layer")
        with gr.Row():
            sides = [_answer_parts(side, plan) for side, plan in enumerate(plans)]
        shown = [part for side in sides for part in (side.answer, side.numbers, side.figure)]

        def run(picture: dict[str, Any] | None, question: str, layer: int, *plans: str) -> Iterator[list[Any]]:
            yield from _run(asker, picture, question, layer, plans)

        def redraw(answers: list[Answer | None], layer: int) -> list[str]:
            return [fragments.figure(side, answer, int(layer)) for side, answer in enumerate(answers)]

        # Without gradio's own reading of the inputs, which decodes the picture and says nothing useful about a bad one.
        asked = gr.on(
            [ask.click, question.submit],
            run,
            [picture, question, layer, *plans],
            [said, answers, *shown],
            preprocess=False,
            concurrency_limit=MOST_WAITING,
            show_progress="hidden",
            api_visibility="private",
        )
        stop.click(None, cancels=[asked], api_visibility="private")
        layer.input(
            redraw,
            [answers, layer],
            [side.figure for side in sides],
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )
    return page.queue(max_size=MOST_WAITING)


def _about(asker: Asker, tokens: int | None) -> str:
    count = "a number of visual tokens that depends on the picture" if tokens is None else f"{tokens} visual tokens"
    return (
        f"**{asker.chat.name}**: {asker.layers} layers, {count}. Ask about a picture under two plans for its visual tokens."
        " Plan A is answered first, then plan B."
    )


def _plan_controls(side: int, layers: int, tokens: int | None) -> gr.Textbox:
    """Method, layer, budget, and the plan that they write and that may be typed instead; returns the plan."""
    name = SIDES[side]
    first, layer, budget = FIRST[side]
    begun = controls(first, layers)
    unit, most = ("%", 100) if tokens is None else ("tokens", tokens)
    value = PERCENT if tokens is None else min(budget, tokens)
    with gr.Column(min_width=300, elem_id=f"plan-{name}"), gr.Group():
        method = gr.Dropdown(method_names(), value=first, label=f"Method {name}", info=begun.about)
        with gr.Row():
            at = gr.Slider(
                0,
                layers - 1,
                min(layer, layers - 1),
                step=1,
                label=f"Layer {name}",
                info="0: the method's own place",
                min_width=200,
                interactive=begun.last_layer > 0,
            )
            keep = gr.Slider(
                1,
                most,
                value,
                step=1,
                label=f"Budget {name}",
                info=unit,
                min_width=200,
                interactive=begun.least is not None,
            )
        plan = gr.Textbox(
            spelled(first, layer, value, tokens is None),
            label=f"Plan {name}",
            info="Written by the controls; any plan can be typed",
            max_lines=1,
        )

    def choose(method: str, budget: float) -> list[Any]:
        chosen = controls(method, layers)
        return [
            gr.Dropdown(info=chosen.about),
            gr.Slider(value=chosen.layer, interactive=chosen.last_layer > 0),
            gr.Slider(interactive=chosen.least is not None),
            spelled(method, chosen.layer, int(budget), tokens is None),
        ]

    def move(method: str, layer: float, budget: float) -> str:
        return spelled(method, int(layer), int(budget), tokens is None)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    method.input(choose, [method, keep], [method, at, keep, plan], **quiet)
    for slider in (at, keep):
        slider.input(move, [method, at, keep], plan, trigger_mode="always_last", **quiet)
    return plan


def _answer_parts(side: int, plan: gr.Textbox) -> Side:
    name = SIDES[side]
    with gr.Column(min_width=300, elem_id=f"answer-{name}"):
        answer = gr.Textbox(label=f"Answer {name}", lines=2, max_lines=12, interactive=False)
        numbers, figure = gr.HTML(), gr.HTML()
    return Side(plan, answer, numbers, figure)


def _run(
    asker: Asker, picture: dict[str, Any] | None, question: str, layer: int, plans: Sequence[str]
) -> Iterator[list[Any]]:
    """What is shown of a question, from its first word to its last number: message, answers, three parts per side."""
    answers: list[Answer | None] = [None] * len(plans)
    texts = ["" for _ in plans]

    def show(text: str = "") -> list[Any]:
        parts = [
            part
            for side, answer in enumerate(answers)
            for part in (texts[side], fragments.numbers(side, answer), fragments.figure(side, answer, int(layer)))
        ]
        return [fragments.message(text), list(answers), *parts]

    yield show()
    try:
        with closing(asker.ask(picture["path"] if picture else None, question or "", plans)) as events:
            for side, event in events:
                if isinstance(event, Answer):
                    answers[side] = event
                    texts[side] = event.text or "(no words)"
                else:
                    texts[side] = event
                yield show()
    except (ValueError, TimeoutError) as error:
        yield show(str(error))
