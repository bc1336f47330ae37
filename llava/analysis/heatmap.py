"""Where on the picture the attention of the words lies: four readings, layer by layer, and the top 1, 10, 20 and 50 %.

    python -m llava.analysis.heatmap --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --samples-per-category 1 --output-dir heatmap

writes ``subtasks.png`` (a sample of every subtask: heat map and the top patches), ``concentration.png`` (how much of the
attention the top patches hold), ``results.json``, and for each sample a folder with ``original.png`` and one figure per
reading. The maps lie on the picture as the model saw it, padded or cropped to its square, not on the file.

==========================================  ==========================================================================
``avg_attention_grid``                      mean over the heads and over the words after the picture
``max_head_attention_grid``                 the head that looks at the picture most, mean over the words
``last_text_token_attention_grid``          the last word, before the answer, mean over the heads (FastV's score)
``text_importance_weighted_attention_grid``  the words weighted by the attention paid to them (document 004's score)
==========================================  ==========================================================================
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llava.cli.console import launch
from llava.eval.ask.record import tower_view
from llava.eval.tasks.base import Example
from llava.mm_utils import load_image
from llava.reduction import spelled_out
from llava.reduction.score import mean_heads, text_weighted

from .command import add_plan_flag, analysis_settings, common_parser
from .figures import draw_layers
from .numbers import by_category
from .observe import LayerAttention, Observer
from .session import AnalysisSettings, Session

READINGS = (
    "avg_attention_grid",
    "max_head_attention_grid",
    "last_text_token_attention_grid",
    "text_importance_weighted_attention_grid",
)
TOP = (0.01, 0.1, 0.2, 0.5)
HEAT = "inferno"
ALPHA = 0.6  # opacity of the heat over the picture
SHADE = 0.8  # over patches that are not among the top

Extent = tuple[float, float, float, float]  # left, right, bottom and top, as ``imshow`` takes them


def readings(attention: LayerAttention) -> np.ndarray:
    """The four readings (4, N) of the attention of the words after the picture to its N tokens, in the order of ``READINGS``."""
    rows = torch.cat(list(attention.chunks("text")), dim=1)  # (H, R, S)
    to_picture, to_text = rows[..., attention.columns["visual"]], rows[..., attention.columns["text"]]
    by_head = to_picture.mean(1)  # (H, N)
    mean = to_picture.mean(0)  # (R, N)
    maps = [
        mean.mean(0),
        by_head[by_head.sum(-1).argmax()],
        mean_heads(to_picture[None, :, -1])[0],
        text_weighted(mean[None], to_text.mean(0)[None])[0],
    ]
    return torch.stack(maps).cpu().numpy()


def measure(patches: int):
    """What an ``Observer`` measures: the readings (4, patches) of a layer, NaN where a patch is gone.

    Raises ValueError for a picture whose tokens are not the patches of one view.
    """

    def on_patches(attention: LayerAttention) -> np.ndarray:
        maps = np.full((len(READINGS), patches), np.nan, dtype=np.float32)
        origin = attention.origin.cpu().numpy()
        if len(origin) and origin.max() >= patches:
            raise ValueError(
                f"the picture is {origin.max() + 1} or more tokens, not one view of {patches} patches; give a model with "
                "image_aspect_ratio 'pad'"
            )
        maps[:, origin] = readings(attention)
        return maps

    return on_patches


def top_patches(values: np.ndarray, share: float) -> np.ndarray:
    """Which values (N,) are in the highest ``share``, at least one: (N,) bool. NaN never is; ties go to the first."""
    count = max(1, round(share * len(values)))
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:count]
    chosen = np.zeros(len(values), dtype=bool)
    chosen[order] = True
    return chosen & ~np.isnan(values)


def concentration(values: np.ndarray) -> np.ndarray:
    """How much of the attention (N,) its top 1, 10, 20 and 50 % of the patches hold: (4,); NaN where there is none."""
    total = np.nansum(values)
    return np.array([np.nansum(values[top_patches(values, share)]) / total if total > 0 else math.nan for share in TOP])


@dataclass(frozen=True)
class Look:
    """One sample: its question, its scored line, the maps (L, 4, N), and the picture (H, W, 3) as the model saw it."""

    example: Example
    line: dict
    maps: np.ndarray
    picture: np.ndarray

    @property
    def title(self) -> str:
        """Question, truth and answer."""
        asked = self.example.text.partition("\n")[0]
        return textwrap.shorten(f"{asked}  truth: {self.example.label}, answer: {self.line['answer']}", 110)

    @property
    def folder(self) -> str:
        """A name for its folder."""
        return f"{self.example.category or 'all'}/{re.sub(r'[^A-Za-z0-9]+', '_', self.example.key)}"


def show_heat(axes: Axes, picture: np.ndarray, values: np.ndarray) -> None:
    """The picture under a map (N,) of its patches, scaled to its minimum and maximum; a dropped patch shows dark."""
    side = math.isqrt(len(values))
    height, width = picture.shape[:2]
    extent = (0, width, height, 0)
    grid = values.reshape(side, side)
    gone = np.isnan(grid)
    axes.imshow(picture, extent=extent)
    smooth = "nearest" if gone.any() else "bilinear"
    axes.imshow(np.ma.masked_invalid(grid), cmap=HEAT, alpha=ALPHA, extent=extent, interpolation=smooth)
    shade(axes, gone, extent)
    axes.set_axis_off()


def shade(axes: Axes, hidden: np.ndarray, extent: Extent) -> None:
    """Darken the patches (side, side) that are hidden."""
    axes.imshow(
        np.zeros(hidden.shape), cmap="gray", alpha=SHADE * hidden.astype(float), extent=extent, interpolation="nearest"
    )


def draw_reading(look: Look, reading: int) -> Figure:
    """One reading in every layer, each layer scaled separately."""
    layers = len(look.maps)
    columns = min(7, layers)
    rows = math.ceil(layers / columns)
    figure = Figure(figsize=(1.65 * columns, 1.85 * rows + 0.7), dpi=110, layout="constrained")
    figure.suptitle(
        f"{READINGS[reading]}\n{textwrap.fill(look.title, 16 * columns)}",
        fontsize=9,
        x=0.01,
        ha="left",
        parse_math=False,
    )
    places = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for layer, (axes, values) in enumerate(zip(places, look.maps[:, reading])):
        show_heat(axes, look.picture, values)
        axes.set_title(f"layer {layer}", fontsize=8)
    for axes in places[layers:]:
        axes.set_axis_off()
    return figure


def draw_subtasks(looks: Sequence[Look], layer: int) -> Figure:
    """One row per sample: the picture, the mean attention of one layer on it, and its top patches."""
    columns = 2 + len(TOP)
    figure = Figure(figsize=(1.75 * columns, 2.05 * len(looks) + 0.5), dpi=110, layout="constrained")
    figure.suptitle(
        f"Attention of the words in layer {layer}, mean over heads and words", fontsize=11, x=0.01, ha="left"
    )
    for places, look in zip(figure.subplots(len(looks), columns, squeeze=False), looks):
        values = look.maps[layer, 0]
        side, (height, width) = math.isqrt(len(values)), look.picture.shape[:2]
        places[0].imshow(look.picture)
        places[0].set_title(look.example.category, fontsize=9, loc="left")
        show_heat(places[1], look.picture, values)
        places[1].set_title("attention", fontsize=9)
        for axes, share in zip(places[2:], TOP):
            axes.imshow(look.picture)
            shade(axes, ~top_patches(values, share).reshape(side, side), (0, width, height, 0))
            axes.set_title(f"top {share:.0%}", fontsize=9)
        for axes in places:
            axes.set_axis_off()
    return figure


def run(settings: AnalysisSettings, layer: int | None = None, chosen: Sequence[str] = READINGS) -> None:
    """Measure every question's maps and write files."""
    session = Session(settings)
    stages = spelled_out(session.plan, session.layers)
    early = [str(stage) for stage in stages if stage.site != "layer"]
    if early:
        raise ValueError(
            f"--reduction {early[0]} acts before the decoder, where tokens stop being patches; use a layer"
        )
    if layer is not None and not 0 <= layer < session.layers:
        raise ValueError(f"--layer {layer} must be 0 to {session.layers - 1}, the model's last")
    subject = session.subject
    tower = subject.model.get_vision_tower()
    if tower is None:
        raise ValueError("the model has no vision tower, so no picture to attend to; give a LLaVA as --model-path")
    first, lines, held_by_top, to_picture, results = {}, [], [], [], []
    for example, reply, line in session.ask(Observer(subject, measure(tower.num_patches))):
        assert example.image is not None  # a session asks only about pictures
        look = Look(example, line, np.stack(reply.layers), tower_view(subject, load_image(example.image)))
        first.setdefault(example.category, look)
        lines.append(line)
        held_by_top.append([concentration(values) for values in look.maps[:, 0]])
        to_picture.append(np.nansum(look.maps[:, 0], axis=-1))
        folder = settings.output_dir / look.folder
        folder.mkdir(parents=True, exist_ok=True)
        draw_picture(look.picture).savefig(folder / "original.png")
        for reading in chosen:
            draw_reading(look, READINGS.index(reading)).savefig(folder / f"{reading}.png")
        results.append(
            {
                "category": example.category,
                "question_id": example.question_id,
                "image_file": str(example.image),
                "question": example.text,
                "gt_answer": example.label,
                "pred_answer": reply.text,
                "num_layers": session.layers,
                "output_dir": look.folder,
            }
        )
    held_by_top = np.array(held_by_top)  # (n, L, 4)
    layer = int(np.mean(to_picture, axis=0).argmax()) if layer is None else layer
    figures = {
        "subtasks": draw_subtasks(list(first.values()), layer),
        "concentration": draw_layers(
            {
                "share of the attention to the picture": {
                    f"top {share:.0%} of the patches": held_by_top[..., place] for place, share in enumerate(TOP)
                }
            },
            lines,
            f"How concentrated the words' attention is: mean of {len(lines)} samples",
        ),
    }
    content = {
        "shown_layer": layer,
        "concentration": {f"{share:g}": held_by_top[..., place].mean(0) for place, share in enumerate(TOP)},
        "concentration_by_category": {
            name: {f"{share:g}": group[..., place].mean(0) for place, share in enumerate(TOP)}
            for name, group in by_category(lines, held_by_top).items()
        },
        "samples": results,
    }
    session.save("results", content, figures)


def draw_picture(picture: np.ndarray) -> Figure:
    """The picture as the model saw it, pixel by pixel."""
    height, width = picture.shape[:2]
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figure.figimage(picture)
    return figure


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = common_parser(
        "heatmap", "Where on the picture the attention of the words lies.", "mme_attention_heatmap_visualization"
    )
    add_plan_flag(flags)
    flags.set_defaults(samples_per_category=1)
    flags.add_argument(
        "--layer", type=int, help="layer of subtasks.png (default: where the words look at the picture most)"
    )
    flags.add_argument(
        "--readings",
        nargs="*",
        choices=READINGS,
        default=READINGS,
        help="readings to draw for every sample (default: all four)",
    )
    return flags


def work(options: argparse.Namespace) -> None:
    """Run what a command line asks for."""
    run(analysis_settings(options), options.layer, options.readings)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), work, arguments, stopped=None)


if __name__ == "__main__":
    sys.exit(main())
